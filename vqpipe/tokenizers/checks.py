"""Checks of a tokenizer's public calls: shapes, dtypes and values that it does not take, and how to correct them.

`check_form` reads no value, so it costs nothing and never waits for the device; `check_values` makes one pass over
the images and waits for its result. A training step uses only `check_form`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vqpipe.errors import MismatchError

FARTHEST = 1.5
"""Largest magnitude of a pixel that is accepted. Images are in [-1, 1]; bicubic and Lanczos resizing overshoot at
edges, by up to 0.4. Pixels in 0..255 and images that were normalised by ImageNet's mean and deviation go further.
Images in [0, 1] cannot be distinguished from bright ones, so they pass."""
FROM_BYTES = "images.float() / 127.5 - 1 for pixels in 0..255, or tokenizer.preprocess(PIL image)"
FROM_NORMALISED = (
    "(images * std + mean) * 2 - 1 for images that were normalised, or tokenizer.preprocess(PIL image)"
)


def check_form(images: Any, multiple: int, device: torch.device) -> None:
    """Raise `MismatchError` unless `images` is a floating-point tensor (b, 3, H, W) with sides that divide.

    Args:
        images: the caller's value.
        multiple: H and W must be multiples of it, at least one each.
        device: where the tokenizer is.
    """
    expected = f"a floating-point tensor (batch, 3, H, W) in [-1, 1], H and W multiples of {multiple}"
    if not isinstance(images, Tensor):
        raise MismatchError(
            "these are not images for a tokenizer", found=f"{type(images).__module__}.{type(images).__name__}",
            expected=expected, run="tokenizer.preprocess(image) for PIL images, torch.from_numpy(array) for NumPy's",
        )  # fmt: skip
    shape = tuple(images.shape)
    found = f"{images.dtype} of shape {shape}"
    if images.ndim != 4 or shape[1] != 3:
        raise MismatchError(
            "the images do not have the shape that a tokenizer takes", found=found, expected=expected,
            run=_reshaped(shape),
        )  # fmt: skip
    if not images.is_floating_point():
        raise MismatchError(
            "the images are not floating-point", found=found, expected=expected, run=FROM_BYTES
        )
    if images.device != device:
        raise MismatchError(
            "the images are on another device than the tokenizer", found=images.device, expected=device,
            run=f"images.to({str(device)!r})",
        )  # fmt: skip
    height, width = shape[2:]
    if min(height, width) < multiple or height % multiple or width % multiple:
        low = [max(side // multiple, 1) * multiple for side in (height, width)]
        fits = height >= multiple and width >= multiple
        crop = (
            f"crop or resize to {low[0]} x {low[1]}"
            if fits
            else f"resize to at least {multiple} x {multiple}"
        )
        raise MismatchError(
            f"the images' sides are not multiples of {multiple}, the pixels along the side of one index",
            found=f"{height} x {width}", expected=expected, run=f"{crop}, or tokenizer.preprocess(PIL image)",
        )  # fmt: skip


def check_values(images: Tensor) -> None:
    """Raise `MismatchError` where a pixel is not finite or further from 0 than `FARTHEST`; one pass over the images."""
    if images.numel() == 0 or torch.compiler.is_exporting():
        return
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()
    if math.isnan(low) or math.isinf(low) or math.isinf(high):
        bad = int((~images.detach().isfinite()).sum())
        raise MismatchError(
            "the images have values that are not finite", found=f"{bad:,} of {images.numel():,} are NaN or infinite",
            expected="finite values in [-1, 1]",
        )  # fmt: skip
    if low < -FARTHEST or high > FARTHEST:
        raise MismatchError(
            "the images are not in [-1, 1]", found=f"{low:.4g} to {high:.4g}",
            expected=f"[-1, 1]; up to {FARTHEST} either way, as resizing leaves it",
            run=FROM_BYTES if low >= 0 else FROM_NORMALISED,
        )  # fmt: skip


def check_eval(module: nn.Module, call: str) -> None:
    """Raise `MismatchError` where a part is in training mode, in which `call` would be random or move codes."""
    if any(part.training for part in module.modules()):
        raise MismatchError(
            f"`{call}` needs the tokenizer in eval mode", found="training mode, in which dropout is on and codes move",
            run="tokenizer.eval()",
        )  # fmt: skip


def _reshaped(shape: tuple[int, ...]) -> str:
    """How images of a wrong shape become (b, 3, H, W)."""
    if len(shape) == 3 and shape[0] == 3:
        return "images.unsqueeze(0) for one image"
    if len(shape) == 3 and shape[-1] == 3:
        return "images.permute(2, 0, 1).unsqueeze(0) for one image with channels last"
    if len(shape) == 4 and shape[-1] == 3:
        return "images.permute(0, 3, 1, 2) for channels last"
    if len(shape) == 4 and shape[1] == 1:
        return "images.expand(-1, 3, -1, -1) for grey images"
    if len(shape) == 4 and shape[1] == 4:
        return "tokenizer.preprocess(PIL image), which lays transparency over white"
    return "tokenizer.preprocess(PIL image)"
