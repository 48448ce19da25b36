"""Model cards of codebooks, tokenizers and priors: what they are, where they come from, what to check before sharing.

The text is in `templates/*.md.j2`; this module computes what they show.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from vqpipe.artifacts.lineage import read_lineage
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.codebooks.load import PretrainedCodebook, load_codebook, load_pretrained
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.statistics import Degrees, graph_shape
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.errors import MismatchError, human_bytes
from vqpipe.params.leaves import leaves
from vqpipe.runtime.terminal import harmless
from vqpipe.tokenizers.identity import tokenizer_digest
from vqpipe.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vqpipe.library.measured import CardMetrics
    from vqpipe.priors.contract import Prior

QUANTILES = {"smallest": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "largest": 1.0}
NUM_WORDS, NUM_PAIRS, NUM_NEAR = 6, 10, 4
"""Words whose neighbours are listed, pairs that are listed, neighbours of each word."""
NUM_CLUSTERS = 5
"""Clusters that are listed at either end."""
_NUMBER = re.compile(r"-?[\d,.]+(e[-+]?\d+)?( %)?")
_EMPTY_LINES = re.compile(r"\n{3,}")


def codebook_card(path: Path) -> str:
    """The card of a codebook of words or patches, as Markdown; equal content and lineage give equal text.

    Source and params come from the lineage sidecar next to the codebook. Without one, or with one that was written for
    other content, the card says that they are not known.

    Raises:
        ArtifactError: no codebook there, or a damaged one.
    """
    codebook = load_codebook(path)
    manifest = read_manifest(path)
    content: dict[str, Any] = {
        "name": path.name, "spec": manifest.header.spec, "version": manifest.header.version,
        "num_files": len(manifest.files), "digest": tree_digest(path)[:16], "lineage": _lineage(path),
        "size": human_bytes(sum(int(entry["bytes"]) for entry in manifest.files.values())),
        "quantiles": list(QUANTILES),
    }  # fmt: skip
    if isinstance(codebook, WordsCodebook):
        return _render("words", content | _words(codebook))
    return _render("patches", content | _patches(codebook))


SIGNED = "\n<!-- as vqpipe wrote it: "
"""Begins the last line of a card: a digest of the lines before it, by which an edited card is known."""


def signed(text: str) -> str:
    """A card with its last line."""
    return f"{text}{SIGNED}{sha256(text.encode()).hexdigest()[:16]} -->\n"


def tokenizer_card(
    tokenizer: Tokenizer, codebook: Path | None = None, metrics: CardMetrics | None = None
) -> str:
    """The card of a tokenizer as Markdown; equal content gives equal text.

    Args:
        tokenizer: the tokenizer.
        codebook: folder of the pretrained codebook that it was built on, where it is available.
        metrics: what was measured of it.

    Raises:
        ArtifactError: the codebook cannot be read.
        MismatchError: another codebook than the one that the tokenizer was built on.
    """
    given = _given_codebook(tokenizer, codebook)
    config = tokenizer.config
    books = tokenizer.codebooks()
    names = [book.group for book in books] or [f"group {at}" for at in range(tokenizer.groups)]
    facts = [
        ("quantizer", config.quantizer.kind),
        *((f"codes ({name})", k) for name, k in zip(names, tokenizer.num_codes, strict=False)),
        ("dimension of the quantised latent", config.quantizer.dim),
        ("pixels per index, along a side", config.trunk.downsampling),
        ("bits per image", tokenizer.bits_per_image),
        ("parameters", sum(p.numel() for p in tokenizer.parameters())),
        ("weights", str(tokenizer.facts.get("weights", "not known"))),
        ("SHA-256 of params and weights", tokenizer_digest(tokenizer)),
    ]
    return _render("tokenizer", {
        "facts": facts, "resolution": tokenizer.resolution, "groups": tokenizer.groups, "grid": tokenizer.grid,
        "quantizer": config.quantizer, "downsampling": config.trunk.downsampling, "kind": config.codebook,
        "codebook_given": given is not None, "origin": tokenizer.facts.get("origin"),
        "source": dict(given.facts) if given is not None else dict(_codebook_facts(tokenizer) or {}),
        "metrics": metrics,
    })  # fmt: skip


def prior_card(prior: Prior, tokenizer: Tokenizer, facts: Mapping[str, Any], metrics: Any) -> str:
    """The card of an exported prior as Markdown; equal content gives equal text.

    Args:
        facts: of the prior's weights.
        metrics: what was measured of it (`vqpipe.library.prior_export.Measured`), or None.
    """
    config, space = prior.config, prior.space
    made = facts["made_with"]
    about = [
        ("prior", prior.kind),
        ("models", prior.models),
        ("condition", config.condition),
        ("conditions dropped in training", config.condition_drop),
        ("known tokens", prior.known_tokens),
        ("parameters", sum(p.numel() for p in prior.parameters())),
        ("weights", "averaged" if facts["averaged"] else "last"),
        ("quantizer of the tokenizer", made["tokenizer"]["quantizer"]),
        ("codes", list(space.num_codes)),
        ("text encoder", made["text_encoder"]),
    ]
    return _render("prior", {
        "about": about, "condition": config.condition, "resolution": tokenizer.resolution, "grid": space.grid,
        "groups": space.groups, "prior": prior, "classes": space.classes, "map_classes": space.map_classes,
        "sampling": config.sampling.model_dump(mode="json"), "text": config.text, "metrics": metrics,
        "codebook": tokenizer.config.codebook, "text_encoder": made["text_encoder"],
    })  # fmt: skip


def _codebook_facts(tokenizer: Tokenizer) -> Mapping[str, Any] | None:
    """The facts of its codebook that a tokenizer keeps."""
    kept: Mapping[str, Any] | None = tokenizer.facts.get("codebook")
    return kept


def _given_codebook(tokenizer: Tokenizer, folder: Path | None) -> PretrainedCodebook:
    if folder is None:
        return None
    codebook, needed = load_pretrained(folder), tokenizer.config.codebook
    found = "none" if codebook is None else "words" if isinstance(codebook, WordsCodebook) else "patches"
    if found != needed:
        raise MismatchError(
            f"{folder} is not the codebook of this tokenizer",
            found=f"a codebook of kind {found}",
            expected=needed,
        )
    own = _codebook_facts(tokenizer)
    if codebook is not None and own is not None and own != dict(codebook.facts):
        raise MismatchError(
            f"{folder} is another codebook, of the same kind, than the one that this tokenizer was built on"
        )
    return codebook


def _lineage(path: Path) -> dict[str, Any] | str:
    """Where a codebook comes from, or why this is not known."""
    lineage = read_lineage(path)
    if lineage is None:
        return "there is no lineage next to the codebook"
    if lineage.output != tree_digest(path):
        return "the lineage next to the codebook is of other content"
    return {
        "stage": lineage.stage,
        "inputs": [(name, f"{str(digest)[:16]}…") for name, digest in sorted(lineage.inputs.items())],
        "params": [(".".join(path), own) for path, own in sorted(leaves(lineage.params), key=itemgetter(0))],
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(lineage.packages.items())),
    }


def _words(words: WordsCodebook) -> dict[str, Any]:
    named = [(words.adjectives[a], words.nouns[n]) for a, n in words.pairs]
    listed = list(zip(named, words.edge_counts, words.edge_pmi, strict=True))

    def rows(most: Sequence[tuple[tuple[str, str], int, float]]) -> list[list[str]]:
        return [[a, n, f"{count:,}", f"{pmi:.2f}"] for (a, n), count, pmi in most[:NUM_PAIRS]]

    sides = {
        "adjectives": (words.adjectives, words.adjective_vectors),
        "nouns": (words.nouns, words.noun_vectors),
    }
    return {
        "words": words,
        "shape": graph_shape(words.pairs, len(words.adjectives), len(words.nouns)),
        "frequent_pairs": rows(sorted(listed, key=lambda pair: (-pair[1], pair[0]))),
        "surprising_pairs": rows(sorted(listed, key=lambda pair: (-pair[2], pair[0]))),
        "norms": [
            [name, *(f"{own:.4g}" for own in _spread(_norms(vectors)))]
            for name, (_, vectors) in sides.items()
        ],
        "neighbours": [pair for names, vectors in sides.values() for pair in _neighbours(names, vectors)],
        "first_adjective": repr(words.adjectives[0]),
    }


def _neighbours(
    names: Sequence[str], vectors: Float[Tensor, "n d"]
) -> list[tuple[str, list[tuple[str, float]]]]:
    """The first words with their nearest others and the cosine similarities."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    near = []
    for row, values in enumerate(unit[:NUM_WORDS] @ unit.T):
        order = [i for i in values.argsort(descending=True, stable=True).tolist() if i != row][:NUM_NEAR]
        near.append((names[row], [(names[i], float(values[i])) for i in order]))
    return near


def _patches(patches: PatchesCodebook) -> dict[str, Any]:
    counts, sizes = patches.counts, _norms(patches.vectors)
    order = counts.argsort(descending=True, stable=True)
    ends = [("largest", order[:NUM_CLUSTERS]), ("smallest", order[NUM_CLUSTERS:][-NUM_CLUSTERS:].flip(0))]
    total = max(1, int(counts.sum()))
    whole = patches.prefixes[len(patches.vectors)]
    return {
        "patches": patches,
        "nested": [
            [f"{k:,}", f"{objective:.5g}", f"{objective / whole:.3f}" if whole else "–"]
            for k, objective in sorted(patches.prefixes.items())
        ],
        "spreads": [
            ["norm of a centroid", *(f"{own:.4g}" for own in _spread(sizes))],
            ["patches of a cluster", *(f"{own:,.0f}" for own in _spread(counts))],
        ],
        "num_empty": int((counts == 0).sum()),
        "clusters": [
            [name, index, f"{count:,}", f"{100 * count / total:.3g} %", f"{float(sizes[index]):.4g}"]
            for name, indices in ends
            for index in indices.tolist()
            for count in (int(counts[index]),)
        ],
        "smallest": min(patches.prefixes),
    }


def _spread(values: Float[Tensor, " n"]) -> list[float]:
    """The values of `QUANTILES`, by sorting: exact, and for any number of values."""
    ordered = values.double().sort().values
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in QUANTILES.values()]


def _norms(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Euclidean norms, float64."""
    return torch.linalg.vector_norm(vectors.double(), dim=1)


def escape(text: object) -> str:
    """Text that no Markdown or HTML reader takes for markup."""
    shown = harmless(" ".join(str(text).split()))
    for char in "\\|`*_[]<":
        shown = shown.replace(char, f"\\{char}" if char != "<" else "&lt;")
    return shown


def value(item: Any) -> str:
    """A fact as text: numbers with separators, mappings as `name: value`."""
    if item is None:
        return "none"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:,.4g}"
    if isinstance(item, Mapping):
        return ", ".join(f"{escape(key)}: {value(own)}" for key, own in item.items())
    if isinstance(item, list):
        return "; ".join(value(own) for own in item) or "none"
    return escape(item) if isinstance(item, str) else escape(json.dumps(item))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table; columns of numbers are aligned to the right."""
    cells = [[value(cell) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_NUMBER.fullmatch(row[at]) for row in cells) for at in range(len(columns))]
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('--:' if right else '---' for right in numeric)}|",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]


def _nested(rows: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Rows whose nested content is JSON text, so that a row stays a row."""
    return [
        (name, json.dumps(own, sort_keys=True, ensure_ascii=False) if isinstance(own, dict | list) else own)
        for name, own in rows
    ]


def _degrees(degree: Degrees) -> str:
    """Median, mean and largest number of neighbours."""
    return f"{degree.median:g}, {degree.mean:.4g}, {degree.max}"


@cache
def _environment() -> Environment:
    """The templates; Markdown is not escaped by itself, so text from data goes through `escaped` or `table`."""
    environment = Environment(
        loader=PackageLoader("vqpipe.library", "templates"), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"escaped": escape, "nested": _nested, "degrees": _degrees}
    environment.globals["table"] = lambda columns, rows: "\n".join(table(columns, rows))
    return environment


def _render(template: str, content: Mapping[str, Any]) -> str:
    text = _environment().get_template(f"{template}.md.j2").render(**content)
    return harmless(_EMPTY_LINES.sub("\n\n", text).strip("\n") + "\n")
