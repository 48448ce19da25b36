"""Which part of an image a prior fills: masks of pixels, and the tokens that they hide.

White is what is to be filled, as in the masks of inpainting models; black and transparency are kept. A token is hidden
if any of its pixels is to be filled. Letters: H W pixels, r the side of the prior's images, h w its token grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vqpipe.data.images import centre_square, resize_labels, target_shape, to_rgb, turn_of, upright
from vqpipe.errors import MismatchError, ParamsError, did_you_mean
from vqpipe.library.choices import KEPT
from vqpipe.priors import PRIORS
from vqpipe.priors.contract import Prior

WHITE = 127
"""Grey levels above it are to be filled."""


def keep_mask(keep: Any, side: int) -> Bool[Tensor, "r r"]:
    """The mask that keeps one part of a square image; True is to be filled.

    Raises:
        ParamsError: not one of `KEPT`.
    """
    if keep not in KEPT:
        raise ParamsError(
            f"there is no part {keep!r} to keep{did_you_mean(str(keep), KEPT)}",
            choices=KEPT,
            run="mask= (--mask)",
        )
    mask, half, quarter = torch.ones(side, side, dtype=torch.bool), side // 2, side // 4
    parts = {
        "top": (slice(half), slice(None)), "bottom": (slice(half, None), slice(None)),
        "left": (slice(None), slice(half)), "right": (slice(None), slice(half, None)),
        "centre": (slice(quarter, side - quarter), slice(quarter, side - quarter)),
    }  # fmt: skip
    mask[parts[keep]] = False
    return mask


def mask_of(given: Any) -> Bool[np.ndarray, "H W"]:
    """A caller's mask as an array, True where it is to be filled.

    Raises:
        MismatchError: neither a PIL image nor a boolean tensor (H, W).
        BadImage: a PIL image with floating-point or 32-bit pixels.
    """
    if isinstance(given, Image.Image):
        return np.array(Image.fromarray(to_rgb(on_black(given))).convert("L")) > WHITE
    if isinstance(given, Tensor) and given.dtype == torch.bool and given.ndim == 2:
        return given.cpu().numpy()
    found = (
        f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
    )
    raise MismatchError(
        "this is not a mask", found=found, run="values > 127 for grey levels",
        expected="a PIL image whose white part is to be filled, or a boolean tensor (H, W) that is True there",
    )  # fmt: skip


def on_black(image: Image.Image) -> Image.Image:
    """A mask whose transparent part is kept, as black is."""
    if image.mode.startswith(("I", "F")) or not image.has_transparency_data:
        return image
    layer = upright(image, turn_of(image)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (0, 0, 0, 255)), layer).convert("RGB")


def fit_mask(mask: Bool[np.ndarray, "H W"], shape: tuple[int, int], side: int) -> Bool[Tensor, "r r"]:
    """The mask of an image of `shape`, resized to its pixels and cut as the image is.

    A pixel of a mask that shrinks is filled if any that it covers is; one of a mask that grows is as the nearest.

    Raises:
        MismatchError: another aspect than the image's.
    """
    height, width = shape
    if abs(mask.shape[1] - width * mask.shape[0] / height) >= 1:  # a side may be rounded
        raise MismatchError(
            "the mask does not have the image's aspect", found=f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels",
            expected=f"{width} x {height} as the image, or the same aspect",
        )  # fmt: skip
    target = target_shape(height, width, side)
    if mask.shape[0] > target[0] or mask.shape[1] > target[1]:
        grey = F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), target)[0].numpy()
    else:
        grey = resize_labels(mask.astype(np.uint8), target)
    return torch.from_numpy(centre_square(grey, side).astype(bool))


def hidden_tokens(mask: Bool[Tensor, "r r"], grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Which tokens have a pixel that is to be filled."""
    return F.adaptive_max_pool2d(mask[None].float(), grid)[0] > 0


def need_fillable(prior: Prior, hidden: Bool[Tensor, "h w"]) -> None:
    """Refuse a mask that hides nothing or everything, or tokens that the prior cannot fill.

    Raises:
        MismatchError: the message names which tokens the prior can fill, and the priors that fill any.
    """
    count, total = int(hidden.sum()), hidden.numel()
    if count in (0, total):
        raise MismatchError(
            "the mask hides nothing" if count == 0 else "the mask hides everything",
            found=f"{count} of {total} tokens to fill", expected="white (above 127) where the image is to be filled, "
            "black where it is kept, after the image is cut to a square",
            run=None if count == 0 else "vqpipe sample draws whole images",
        )  # fmt: skip
    if prior.known_tokens == "any":
        return
    able = [kind for kind in PRIORS if PRIORS[kind].known_tokens == "any"]
    if prior.known_tokens == "none":
        raise MismatchError(
            f"a prior {prior.kind} cannot complete images: it takes no known tokens",
            found=f"{total - count} known tokens of {total}",
            expected="a prior that takes them", choices=[k for k in PRIORS if PRIORS[k].known_tokens != "none"],
        )  # fmt: skip
    flat = hidden.flatten()
    first, last = int(flat.int().argmax()), int((~flat).nonzero().max())
    if last > first:
        width = hidden.shape[1]
        raise MismatchError(
            f"a prior {prior.kind} fills only what comes after all that it knows, row by row: it takes a prefix",
            found="a hidden token at row {}, column {}, before a known one at row {}, column {}".format(
                *divmod(first, width), *divmod(last, width)
            ),
            expected="a mask of the last rows, such as --keep top; or a prior that fills any tokens",
            choices=able or ["none of the priors that are installed"],
        )  # fmt: skip
