"""An artifact's header in words: what it is, its facts, its content, where it came from and what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.lineage import read_lineage
from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.remedies import not_there, quoted, spec_of
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.artifacts.spec import Header, make_command
from vqpipe.artifacts.tables import read_header
from vqpipe.artifacts.tensors import read_tensor_header
from vqpipe.errors import ArtifactError, human_bytes

MAX_FACT = 100
"""Longest value, in characters, that is shown of one fact."""
MAX_LINES = 40
"""Most files or tensors that are listed."""


@reads_whole
def show(path: Path, full: bool = False) -> str:
    """Describe a published folder, a Parquet file or a safetensors file.

    Args:
        full: facts are shown whole, lists with the number of each entry.

    Raises:
        ArtifactError: nothing there, a kind of file that is not an artifact, or one that is damaged.
    """
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise _no_artifact(path)
        header, lines = _folder(path)
    elif not path.exists():
        raise not_there(path)
    elif path.suffix in _FILES:
        header, lines = _FILES[path.suffix](path)
    elif path.name == MANIFEST:
        header, lines = _folder(path.parent)
    else:
        raise ArtifactError(
            f"{path} is not an artifact", found=path.suffix or "no suffix",
            expected="a published folder, .parquet or .safetensors",
        )  # fmt: skip
    return "\n".join([*_title(path, header), *_facts(header.facts, full), *lines, *_sidecars(path)])


def _no_artifact(folder: Path) -> ArtifactError:
    """The error for a folder that is none, with those in it that are."""
    inside = sorted({own.parent for own in (*folder.glob(f"*/{MANIFEST}"), *folder.glob(f"*/*/{MANIFEST}"))})
    held = ", ".join(sorted(own.name for own in folder.iterdir())[:8])
    return ArtifactError(
        f"{folder} is not a published folder: it has no {MANIFEST}", found=held or "an empty folder",
        expected="a published folder, .parquet or .safetensors", choices=inside or None,
        run=f"vqpipe artifacts show {quoted(inside[0])}" if inside else None,
    )  # fmt: skip


def read_cost(path: Path) -> dict[str, Any] | None:
    """What an output cost, from the sidecar of its stage; None where it has none.

    Raises:
        ArtifactError: it is there but is not a JSON object.
    """
    sidecar = path.with_name(f"{path.name}.cost.json")
    if not sidecar.is_file():
        return None
    return read_sealed_json(sidecar, f"rm {sidecar}")


def _title(path: Path, header: Header) -> list[str]:
    lines = [f"{path}: {header.spec} v{header.version}"]
    spec = spec_of(header)
    if spec is None:
        return [*lines, "  this version of vqpipe does not know that spec"]
    if spec.version != header.version:
        lines.append(f"  this version of vqpipe reads v{spec.version}; run: {make_command(spec)}")
    if spec.about:
        lines.append(f"  {spec.about}")
    made_by = spec.stage if make_command(spec) == spec.stage else f"the stage {spec.stage}"
    return [*lines, f"  written by {made_by}"]


def _facts(facts: Mapping[str, Any], full: bool) -> list[str]:
    if not facts:
        return []
    shown = _whole if full else _short
    return ["", "facts", *_aligned((name, shown(value)) for name, value in sorted(facts.items()))]


def _whole(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return ", ".join(f"{at} {one}" for at, one in enumerate(value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(text) <= MAX_FACT:
        return text
    of = f"{len(value):,} entries, " if isinstance(value, list | dict) else ""
    return f"{text[: MAX_FACT - 1]}… ({of}{len(text):,} characters)"


def _aligned(pairs: Any) -> list[str]:
    rows = list(pairs)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {text}".rstrip() for name, text in rows]


def _limited(lines: list[str], what: str) -> list[str]:
    if len(lines) <= MAX_LINES:
        return lines
    return [*lines[:MAX_LINES], f"  … and {len(lines) - MAX_LINES:,} more {what}"]


def _folder(path: Path) -> tuple[Header, list[str]]:
    manifest = read_manifest(path)
    total = sum(int(entry["bytes"]) for entry in manifest.files.values())
    rows = [
        (name, f"{human_bytes(entry['bytes']):>9}  {_inside(path / name)}".rstrip())
        for name, entry in manifest.files.items()
    ]
    lines = ["", f"files: {len(rows):,}, {human_bytes(total)} in all", *_limited(_aligned(rows), "files")]
    return manifest.header, lines


def _inside(path: Path) -> str:
    """One phrase on a file within a folder."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        header = read_header(path)
        return f"{header.spec} v{header.version}, {pq.read_metadata(path).num_rows:,} rows"
    if path.suffix == ".safetensors":
        header, tensors = read_tensor_header(path)
        return f"{header.spec} v{header.version}, {len(tensors):,} tensors"
    return ""


def _parquet(path: Path) -> tuple[Header, list[str]]:
    import pyarrow.parquet as pq

    header = read_header(path)
    metadata, schema = pq.read_metadata(path), pq.read_schema(path)
    title = f"table: {metadata.num_rows:,} rows, {len(schema):,} columns, {human_bytes(path.stat().st_size)}"
    return header, [
        "",
        title,
        *_limited(_aligned((field.name, str(field.type)) for field in schema), "columns"),
    ]


def _safetensors(path: Path) -> tuple[Header, list[str]]:
    header, tensors = read_tensor_header(path)
    rows = [
        (name, f"{entry['dtype']:<4} {' x '.join(map(str, entry['shape'])) or 'scalar'}")
        for name, entry in sorted(tensors.items())
    ]
    numbers = sum(math.prod(entry["shape"]) for entry in tensors.values())
    title = f"tensors: {len(rows):,} with {numbers:,} numbers, {human_bytes(path.stat().st_size)}"
    return header, ["", title, *_limited(_aligned(rows), "tensors")]


_FILES = {".parquet": _parquet, ".safetensors": _safetensors}


def _sidecars(path: Path) -> list[str]:
    lines: list[str] = []
    lineage = read_lineage(path)
    if lineage is not None:
        rows = [
            ("params", _short(lineage.params)),
            *((f"input {name}", digest[:16]) for name, digest in sorted(lineage.inputs.items())),
            (
                "packages",
                ", ".join(f"{name} {version}" for name, version in sorted(lineage.packages.items())),
            ),
        ]
        lines += ["", f"lineage: the stage {lineage.stage}", *_aligned(rows)]
    cost = read_cost(path)
    if cost is not None:
        lines += [
            "",
            f"cost: {cost['seconds']:,.1f} s, {human_bytes(cost['peak_memory_bytes'])} of memory at its peak",
        ]
    return lines
