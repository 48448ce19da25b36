"""Tensors of a foreign checkpoint, read without running anything of it.

PyTorch files are read with `weights_only=True`. A trainer leaves more in a checkpoint than tensors: classes of
callbacks, numpy scalars, a namespace of arguments. Each name that PyTorch does not allow is an inert class while
the file is read: it can be called and given a state, and does nothing (`Inert`). Where the file fills a mapping
of a class of its own, it is an ordered dictionary (`Items`). Names in modules that PyTorch blocks (`os`, `sys` and the
like) are refused, since no training leaves them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from vqpipe.errors import DataError

POINTER = b"version https://git-lfs"
"""How a Git LFS pointer file begins."""
HEAD = 64
"""Bytes of a file that are inspected before it is read."""
NESTS = ("state_dict", "model")
"""Keys under which projects keep the state dict, in the order in which they are looked for."""
AVERAGED_NEST = "ema"
"""Key under which LlamaGen keeps the averaged copy of the state dict."""
WRAPPER = "module."
"""Prefix of every key where a data-parallel wrapper was saved; it is taken off."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, by name, on the CPU."""

    state: State
    """The state dict."""
    averaged: State
    """A second state dict of averaged weights under `ema`; empty where there is none."""


class Inert:
    """In place of a class that a checkpoint names: takes everything and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class Items:
    """The same for mappings: making one gives an empty ordered dictionary, which PyTorch's reader fills."""

    def __new__(cls, *args: Any, **options: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def read_checkpoint(path: Path) -> Checkpoint:
    """The state dict of a `.safetensors` file or of a PyTorch checkpoint, on the CPU.

    A state dict is taken from under `state_dict` or `model` where there is one.

    Raises:
        DataError: no such file, a Git LFS pointer, a web page, a file that is cut short, one whose pickle asks for a
            blocked module or for what PyTorch's safe reader cannot do, or one without a state dict.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file", expected="a checkpoint: .ckpt, .pt, .pth or .safetensors")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(POINTER):
        raise DataError(
            f"{path} is a Git LFS pointer and not the checkpoint itself", found=f"{path.stat().st_size} bytes",
            expected="the file itself", run="git lfs pull, in the repository that it came from",
        )  # fmt: skip
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path} is a web page, not a checkpoint", run="download the file again")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    nest = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
    averaged = content.get(AVERAGED_NEST)
    state = _state(content if nest is None else content[nest], path, content)
    return Checkpoint(
        state, _state(averaged, path, content) if isinstance(averaged, Mapping) and nest else {}
    )


def _state(found: Mapping[str, Any], path: Path, content: Mapping[str, Any]) -> State:
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(
            f"{path} has no state dict", found=f"the keys {', '.join(sorted(map(str, content))[:12])}",
            expected=f"tensors by name, or a mapping of them under {' or '.join(NESTS)}",
        )  # fmt: skip
    wrapped = all(str(name).startswith(WRAPPER) for name in found)
    return {str(name)[len(WRAPPER) if wrapped else 0 :]: tensor.detach() for name, tensor in found.items()}


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def _torch(path: Path) -> Mapping[str, Any]:
    try:
        try:
            content = _load(path, Inert)
        except UnpicklingError as error:
            try:
                content = _load(path, Items)
            except (UnpicklingError, TypeError, ValueError):
                raise _refused(path, str(error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as a PyTorch checkpoint: it is damaged, cut short or something else",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error  # fmt: skip
    if not isinstance(content, Mapping):
        raise DataError(f"{path} has no state dict", found=type(content).__name__)
    return content


def _load(path: Path, stand_in: type) -> Any:
    """The file's content with a class of its own in place of each name that PyTorch does not allow; numpy's are never
    mappings."""
    given: list[Any] = [
        (type(stand_in.__name__, (Inert if name.startswith("numpy.") else stand_in,), {}), name)
        for name in _unknown_names(path)
    ]
    with torch.serialization.safe_globals(given):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unknown_names(path: Path) -> list[str]:
    """Names in the file's pickle that PyTorch does not allow. Files older than PyTorch 1.6 are no zip archives and are
    read without: they must have tensors and plain values alone."""
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            return []
    return torch.serialization.get_unsafe_globals_in_checkpoint(path)


def _refused(path: Path, reason: str) -> DataError:
    """The error for a pickle that asks for more than can be given safely; `reason` is torch's text."""
    lines = [line.strip() for line in reason.splitlines()]
    named = next(
        (line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else ""
    )
    return DataError(
        f"{path} is refused: its pickle needs code that is not on PyTorch's list of safe types, and loading "
        "it would run that code",
        found=named[:300],
        expected="a file of weights. Where you trust this one, load it in a sandbox with the software that "
        "wrote it and save `{'state_dict': checkpoint['state_dict']}`, or the state dict as .safetensors",
    )  # fmt: skip
