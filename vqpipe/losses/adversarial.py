"""Hinge adversarial losses, the adaptive weight of VQGAN, and the R1 penalty.

Source: Esser et al., arXiv 2012.09841, section 3.1, equation 7; Mescheder et al., arXiv 1801.04406, section 4.1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.runtime.distributed import average, world_size


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

    With several ranks the gradients are averaged before their norms are taken, so that all ranks get the same weight,
    and the one that a single process gets from the whole batch.

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
    up, down = average(torch.stack([up, down])) if world_size() > 1 else (up, down)
    return (up.norm() / (down.norm() + 1e-4)).clamp(0.0, maximum).detach()


def r1_penalty(discriminator: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """1/2 the mean over real images of |grad D(x)|^2, D(x) the mean of an image's patch logits; in float32.

    Its gradient goes to the discriminator's parameters, through the gradient (a second backward pass).
    """
    images = images.detach().float().requires_grad_(True)
    with torch.autocast(images.device.type, enabled=False):
        scores = discriminator(images).flatten(1).mean(dim=1)
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return 0.5 * slope.square().flatten(1).sum(dim=1).mean()
