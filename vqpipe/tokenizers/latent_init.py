"""Starting values of the latent: white from the first step, so that codes placed by it span every dimension.

An untrained encoder's features vary along a few directions only. Codes that take their mean and covariance from such
latents stay in those directions for long, and a short training ends with a codebook of rank two.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def whiten(conv: nn.Conv2d, features: Float[Tensor, "b z h w"], seed_rotation: torch.Generator) -> None:
    """Set a 1x1 convolution so that its output over `features` has mean 0 and identity covariance.

    It keeps the strongest principal components, turned by a random rotation so that no channel is special.

    Args:
        conv: from z to d channels, d at most z.
        features: the encoder's output on a batch, with more positions than channels.
        seed_rotation: CPU generator of the rotation.
    """
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).double().cpu()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    dim = conv.out_channels
    kept = values[-dim:].clamp_min(1e-8 * values[-1])
    rotation = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.double, generator=seed_rotation)).Q
    matrix = rotation @ (vectors[:, -dim:] * kept.rsqrt()).T
    conv.weight.copy_(matrix[:, :, None, None])
    assert conv.bias is not None
    conv.bias.copy_(-matrix @ mean)
