"""Pixel reconstruction losses."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vqpipe.params.losses import ReconstructionParams


def pixel_loss(
    config: ReconstructionParams, recon: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Weighted mean absolute and mean squared error of images in [-1, 1], and both terms unweighted."""
    l1, l2 = F.l1_loss(recon, images), F.mse_loss(recon, images)
    return config.l1 * l1 + config.l2 * l2, {"l1": l1.detach(), "l2": l2.detach()}
