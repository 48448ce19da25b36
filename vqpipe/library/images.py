"""Pictures to tensors in [-1, 1] and back, for people who have PIL images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vqpipe.data.images import centre_square, to_rgb
from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import MismatchError


def preprocess(images: Image.Image | Sequence[Image.Image], resolution: int) -> Float[Tensor, "b 3 r r"]:
    """PIL images of any mode and shape as float32 in [-1, 1], r = `resolution`.

    Upright by EXIF, transparency over white, 8-bit RGB; then the shorter side is scaled to `resolution` (Lanczos,
    antialiased) and the centre is cut out, as `vqpipe evaluate` and `vqpipe tokenize` do.

    Raises:
        MismatchError: no image, or something that is not a PIL image.
        BadImage: floating-point or 32-bit pixels, whose range is not known.
    """
    given: Any = images
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]
    if not all(isinstance(image, Image.Image) for image in listed):
        kind = next(type(image) for image in listed if not isinstance(image, Image.Image))
        raise MismatchError(
            "these are not PIL images", found=f"{kind.__module__}.{kind.__name__}",
            expected="a PIL image, or a list of them",
            run="Image.open(path) for a file, Image.fromarray(array) for pixels (H, W, 3) in uint8",
        )  # fmt: skip
    if not listed:
        raise MismatchError("there is no image to prepare", expected="a PIL image, or a list of them")
    squares = [centre_square(to_rgb(image), resolution) for image in listed]
    return to_float(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2))


def to_pil(images: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
    """Images in [-1, 1] as PIL images; values beyond are clamped.

    Raises:
        MismatchError: another shape or dtype, or values that are not finite.
    """
    expected = "floating-point values of shape (b, 3, H, W), as decode gives them"
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        found = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise MismatchError("these are not images", found=found, expected=expected)
    if not images.is_floating_point() or not bool(images.isfinite().all()):
        found = f"{images.dtype}" if not images.is_floating_point() else "values that are NaN or infinite"
        raise MismatchError("these are not images in [-1, 1]", found=found, expected=expected)
    return [Image.fromarray(image) for image in to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()]
