"""The patch discriminator of VQGAN.

Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (arXiv 1611.07004), section
3.2.2, as used by Esser et al. (arXiv 2012.09841): 4x4 convolutions, LeakyReLU 0.2, N(0, 0.02) weights.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vqpipe.models.losses import DiscriminatorParams


class PatchDiscriminator(nn.Module):
    """Images Float[b c H W] in [-1, 1] to one unbounded logit per patch, Float[b 1 h w]."""

    def __init__(self, config: DiscriminatorParams, in_channels: int) -> None:
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, config.num_layers + 1):
            wider = config.channels * min(2**index, 8)
            stride = 1 if index == config.num_layers else 2
            # Group norm in place of batch norm keeps each image's logit free of the rest of its batch and of ranks.
            norm = nn.BatchNorm2d(wider) if config.norm == "batch" else nn.GroupNorm(8, wider)
            layers += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), norm, nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        self.apply(_initialise)
        if config.spectral_norm:
            # Miyato et al., arXiv 1802.05957, algorithm 1: one power iteration per training forward pass.
            for module in self.layers:
                if isinstance(module, nn.Conv2d):
                    spectral_norm(module)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 1 h w"]:
        return torch.as_tensor(self.layers(images))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
