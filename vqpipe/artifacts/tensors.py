"""safetensors artifacts: one metadata key with sorted JSON, typed write and read. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqpipe.artifacts.intact import need_intact
from vqpipe.artifacts.publish import publish_file
from vqpipe.artifacts.seal import SAFETENSORS, UNSEALED, seal_file
from vqpipe.artifacts.spec import (
    HEADER_KEY,
    Facts,
    Header,
    TensorSpec,
    check_header,
    header_for,
    missing,
)
from vqpipe.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(
    path: Path,
    spec: TensorSpec,
    tensors: Mapping[str, Tensor],
    facts: Facts | None = None,
    *,
    sealed: bool = False,
) -> None:
    """Publish one safetensors file; equal content gives equal bytes.

    Args:
        sealed: write a checksum into the file, as is needed outside of folders with a manifest.

    Raises:
        ArtifactError: a tensor that the spec names is absent or of another dtype, or one it does not name is there.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Two names for one storage are refused by safetensors; a copy of each keeps the file self-contained.
    plain = {name: tensor.clone() for name, tensor in plain.items()}
    metadata = {HEADER_KEY: header_for(spec, facts).to_json(UNSEALED if sealed else None)}
    with publish_file(path) as partial:
        save_file(plain, partial, metadata=metadata)
        _check_entries(_raw_header(partial), spec, path)
        if sealed:
            seal_file(partial, SAFETENSORS)


def read_tensors(path: Path, spec: TensorSpec) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors of an artifact, on the CPU, and its facts.

    Raises:
        ArtifactError: missing, damaged, unreadable, of another spec or version, or with other tensors than the spec
            names.
    """
    from safetensors.torch import load_file

    header = check_tensors(path, spec)
    return load_file(path), header.facts


def check_tensors(path: Path, spec: TensorSpec) -> Header:
    """Compare an artifact with its checksum and its spec without loading its tensors; errors as `read_tensors`."""
    if not path.is_file():
        raise missing(path, spec)
    need_intact(path)
    raw = _raw_header(path)
    header = _header(raw, path)
    check_header(header, spec, path)
    _check_entries(raw, spec, path)
    return header


def read_tensor_header(path: Path) -> tuple[Header, dict[str, dict[str, Any]]]:
    """The vqpipe header of a safetensors file and, for each tensor, its `dtype` and `shape`."""
    raw = _raw_header(path)
    return _header(raw, path), {k: v for k, v in raw.items() if k != "__metadata__"}


def _raw_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > 100 << 20:
                raise ValueError("header too long")
            content = json.loads(stream.read(length))
            body = sum(
                e["data_offsets"][1] - e["data_offsets"][0] for k, e in content.items() if k != "__metadata__"
            )
            if path.stat().st_size != 8 + length + body:
                raise ValueError("the file is cut short")
            return dict(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: cannot be read as safetensors ({error})") from error


def _header(raw: dict[str, Any], path: Path) -> Header:
    text = raw.get("__metadata__", {}).get(HEADER_KEY)
    if text is None:
        raise ArtifactError(f"{path}: a safetensors file that vqpipe did not write (no vqpipe header)")
    return Header.from_json(text, path)


def _check_entries(raw: dict[str, Any], spec: TensorSpec, path: Path) -> None:
    entries = {name: entry["dtype"] for name, entry in raw.items() if name != "__metadata__"}
    wrong = {n: entries.get(n, "absent") for n, dtype in spec.tensors.items() if entries.get(n) != dtype}
    extra = [] if spec.open else sorted(set(entries) - set(spec.tensors))
    if wrong or extra:
        raise ArtifactError(
            f"{path}: not the tensors of {spec.name} v{spec.version}",
            found={**wrong, **dict.fromkeys(extra, "not in the spec")},
            expected=dict(spec.tensors),
        )
