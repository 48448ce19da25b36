"""Pictures to tensors in [-1, 1] and back, for people who have PIL images."""

from __future__ import annotations

from collections.abc import Sequence

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
        MismatchError: no image.
        BadImage: floating-point or 32-bit pixels, whose range is not known.
    """
    listed = [images] if isinstance(images, Image.Image) else list(images)
    if not listed:
        raise MismatchError("there is no image to prepare", expected="a PIL image, or a list of them")
    squares = [centre_square(to_rgb(image), resolution) for image in listed]
    return to_float(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2))


def to_pil(images: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
    """Images in [-1, 1] as PIL images; values beyond are clamped.

    Raises:
        MismatchError: another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise MismatchError(
            "these are not images", found=f"shape {tuple(images.shape)}", expected="shape (b, 3, H, W)"
        )
    return [Image.fromarray(image) for image in to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()]
