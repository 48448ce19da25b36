"""Hinge adversarial losses and the adaptive weight of VQGAN.

Source: Esser et al., arXiv 2012.09841, section 3.1, equation 7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hinge_discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """1/2 (mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """- mean D(fake)."""
    return -fake.mean()


def adaptive_weight(
    reconstruction: Float[Tensor, ""], generator: Float[Tensor, ""], last_weight: Tensor, maximum: float
) -> Float[Tensor, ""]:
    """|grad of the reconstruction loss| / (|grad of the generator loss| + 1e-4) at the decoder's last weight.

    Args:
        reconstruction: pixel plus perceptual loss, without the quantizer's.
        generator: the generator's adversarial loss.
        last_weight: weight of the decoder's last layer.
        maximum: upper bound.

    Returns:
        A scalar without gradient, in [0, maximum].
    """
    (up,) = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)
    (down,) = torch.autograd.grad(generator, last_weight, retain_graph=True)
    return (up.norm() / (down.norm() + 1e-4)).clamp(0.0, maximum).detach()
