"""The adversarial loss with its adaptive weight by whole backward passes: what the step is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from vqpipe.tokenizers.objective import TokenizerObjective


def plain_weight(reconstruction: Tensor, generator: Tensor, last_weight: Tensor, maximum: float) -> Tensor:
    """|grad reconstruction| / (|grad generator| + 1e-4) at the last layer's weight, each through its whole graph."""
    (up,) = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)
    (down,) = torch.autograd.grad(generator, last_weight, retain_graph=True)
    return (up.norm() / (down.norm() + 1e-4)).clamp(0.0, maximum).detach()


class PlainObjective(TokenizerObjective):
    """Takes the two gradients through the decoder's output, and goes through discriminator and perceptual net again."""

    def _adversarial(self, recon: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        assert self.discriminator is not None
        config = self.config.losses.adversarial
        reconstruction, terms = self._reconstruction(recon, images)
        generator = -self.discriminator(recon).mean()
        last = self.tokenizer.decoder.last_weight
        weight = plain_weight(reconstruction, generator, last, config.max_adaptive_weight)
        terms |= {"adversarial": generator.detach(), "adaptive_weight": weight}
        return reconstruction + config.weight * weight * generator, terms
