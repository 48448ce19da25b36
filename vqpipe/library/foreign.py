"""Reading weights that another project wrote: tensors alone, whatever the file pretends to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from vqpipe.errors import DataError

POINTER = b"version https://git-lfs"
"""How a Git LFS pointer file begins."""
HEAD = 64
"""Bytes of a file that are looked at before it is read."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.safetensors` file or of a PyTorch checkpoint, on the CPU.

    PyTorch files are read with `weights_only=True`: nothing of them runs. A state dict is taken from under the key
    `state_dict` where there is one.

    Raises:
        DataError: no such file, a Git LFS pointer, a web page, a file that is cut short, one whose pickle holds more
            than tensors and plain values, or one without a state dict.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file", expected="a checkpoint: .ckpt, .pt, .pth or .safetensors")
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if head.startswith(POINTER):
        raise DataError(
            f"{path} is a Git LFS pointer, not the checkpoint it stands for", found=f"{path.stat().st_size} bytes",
            expected="the file itself", run="git lfs pull, in the repository that it came from",
        )  # fmt: skip
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path} is a web page, not a checkpoint", run="download the file again")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    found = content.get("state_dict", content)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(
            f"{path} holds no state dict", found=f"the keys {', '.join(sorted(map(str, content))[:12])}",
            expected="tensors by name, or a mapping `state_dict` of them",
        )  # fmt: skip
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def _torch(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as a PyTorch checkpoint: it is damaged, cut short or something else",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error  # fmt: skip
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds no state dict", found=type(content).__name__)
    return content


def _refused(path: Path, reason: str) -> DataError:
    """The error for a pickle that holds more than weights; `reason` is torch's text."""
    lines = [line.strip() for line in reason.splitlines()]
    named = next(
        (line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else ""
    )
    return DataError(
        f"{path} is refused: its pickle asks for code that is not on PyTorch's list of harmless types, and loading "
        "it would run that code",
        found=named[:300],
        expected="a file with weights alone. Where you trust this one, load it in a sandbox with the software that "
        "wrote it and save `{'state_dict': checkpoint['state_dict']}`, or the state dict as .safetensors",
    )  # fmt: skip
