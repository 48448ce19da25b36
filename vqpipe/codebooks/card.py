"""A model card for a codebook prior: where it comes from, what is in it, and what to check before sharing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqpipe.artifacts.lineage import read_lineage
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.codebooks.card_centroids import centroids_sections
from vqpipe.codebooks.card_words import words_sections
from vqpipe.codebooks.load import load_codebook
from vqpipe.codebooks.markdown import escape, section, table
from vqpipe.codebooks.words import Words
from vqpipe.errors import human_bytes
from vqpipe.runtime.terminal import harmless


def card(path: Path) -> str:
    """The card of a words or centroids prior, as Markdown; equal content and lineage give equal text.

    Source and params come from the lineage sidecar beside the prior. Without one, or with one that was written for
    other content, the card says that they are not known.

    Raises:
        ArtifactError: no codebook prior there, or a damaged one.
    """
    prior = load_codebook(path)
    manifest = read_manifest(path)
    total = sum(int(entry["bytes"]) for entry in manifest.files.values())
    is_words = isinstance(prior, Words)
    kind = "words, their modifying graph and word vectors" if is_words else "centroids of CLIP patch features"
    lines = [
        f"# Codebook prior: {escape(path.name)}",
        "",
        f"A codebook prior for image tokenizers: {kind}. Written by vqpipe "
        f"({manifest.header.spec} v{manifest.header.version}, {_files(len(manifest.files))}, {human_bytes(total)}, "
        f"SHA-256 of the manifest {tree_digest(path)[:16]}…).",
        "",
    ]
    parts = words_sections(prior) if isinstance(prior, Words) else centroids_sections(prior)
    loading = section("How to load it", ["```python", *parts.loading, "```"])
    lines += [*parts.about, *_source(path), *parts.statistics, *loading]
    lines += section("Licences: what to check", parts.licences) + section("Limitations", parts.limitations)
    return harmless("\n".join(lines).rstrip("\n") + "\n")


def _files(count: int) -> str:
    return "one file" if count == 1 else f"{count} files"


def _source(path: Path) -> list[str]:
    lineage = read_lineage(path)
    if lineage is None or lineage.output != tree_digest(path):
        why = (
            "there is no lineage beside the prior"
            if lineage is None
            else "the lineage beside it is of other content"
        )
        return section("Source and params", [f"Not known: {why}. The facts above are in the prior itself."])
    inputs = [(name, f"{str(digest)[:16]}…") for name, digest in sorted(lineage.inputs.items())]
    params = [(name, own) for name, own in _flat(lineage.params)]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(lineage.packages.items()))
    return section(
        "Source and params",
        [f"Made by the stage `{lineage.stage}` from these inputs:"],
        table(["input", "SHA-256"], inputs),
        table(["param", "value"], params),
        [f"Packages: {escape(packages)}."] if packages else [],
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested params as (dotted name, value)."""
    rows: list[tuple[str, Any]] = []
    for name, own in sorted(content.items()):
        rows += _flat(own, f"{prefix}{name}.") if isinstance(own, Mapping) else [(f"{prefix}{name}", own)]
    return rows
