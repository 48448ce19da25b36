"""What a tokenizer is trained on: pixel, perceptual, quantizer and adversarial losses, in two phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from vqpipe.losses.pixels import pixel_loss
from vqpipe.models.discriminator import PatchDiscriminator
from vqpipe.models.perceptual import Perceptual
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.tokenizers.tokenizer import CHANNELS, Tokenizer


class TokenizerTraining:
    """The tokenizer and its discriminator as the engine's Trainable: phase `ae`, then `disc`."""

    def __init__(self, config: TokenizerParams, tokenizer: Tokenizer, perceptual: Perceptual | None) -> None:
        self.config, self.tokenizer, self.perceptual = config, tokenizer, perceptual
        self.module = nn.ModuleDict({"tokenizer": tokenizer})
        self.phases: tuple[str, ...] = ("ae",)
        self.discriminator: PatchDiscriminator | None = None
        if config.losses.adversarial.weight > 0:
            self.discriminator = PatchDiscriminator(config.losses.adversarial.discriminator, CHANNELS)
            self.module["discriminator"] = self.discriminator
            self.phases = ("ae", "disc")
        self._fake: Tensor | None = None

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        module = self.module["tokenizer" if phase == "ae" else "discriminator"]
        scale = 1.0 if phase == "ae" else self.config.losses.adversarial.discriminator.lr_scale
        return [{"params": [p for p in module.parameters() if p.requires_grad], "lr_scale": scale}]

    def active(self, phase: str, progress: float) -> bool:
        return phase == "ae" or progress >= self.config.losses.adversarial.start

    def loss(
        self, phase: str, batch: Float[Tensor, "b 3 h w"], progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """VQGAN's two objectives (arXiv 2012.09841, equations 4 to 7)."""
        return self._discriminator_loss(batch) if phase == "disc" else self._autoencoder_loss(batch, progress)

    def _autoencoder_loss(self, images: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        losses = self.config.losses
        recon, quantized = self.tokenizer(images, progress)
        recon = recon.float()
        self._fake = recon.detach()
        reconstruction, pixel_terms = pixel_loss(losses.reconstruction, recon, images)
        terms: dict[str, Tensor | float] = {**pixel_terms, "quantizer": quantized.loss.detach()}
        terms |= {name: value.detach() for name, value in quantized.terms.items()}
        for index, indices in enumerate(quantized.indices.unbind(1)):
            terms[f"codes_in_batch_{index}"] = float(indices.unique().numel())
        if self.perceptual is not None:
            distance = self.perceptual(recon, images).mean()
            terms[self.perceptual.name] = distance.detach()
            reconstruction = reconstruction + losses.perceptual_weight * distance
        total = reconstruction + losses.quantizer_weight * quantized.loss
        adversarial = losses.adversarial
        if self.discriminator is not None and progress >= adversarial.start + adversarial.warmup:
            self.discriminator.requires_grad_(False)
            generator = hinge_generator_loss(self.discriminator(recon).float())
            self.discriminator.requires_grad_(True)
            weight = adaptive_weight(
                reconstruction, generator, self.tokenizer.decoder.last_weight, adversarial.max_adaptive_weight
            )
            terms |= {"generator": generator.detach(), "adaptive_weight": weight}
            total = total + adversarial.weight * weight * generator
        return total, terms

    def _discriminator_loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        assert self.discriminator is not None
        assert self._fake is not None
        real, fake = self.discriminator(images).float(), self.discriminator(self._fake).float()
        terms: dict[str, Tensor | float] = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        return hinge_discriminator_loss(real, fake), terms
