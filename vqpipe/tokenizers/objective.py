"""What a tokenizer is trained on: pixel, perceptual, quantizer, adversarial and alignment losses, in two phases."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.models.discriminator import PatchDiscriminator
from vqpipe.models.losses import (
    DiscriminatorStart,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    pixel_loss,
    r1_penalty,
)
from vqpipe.models.perceptual import Perceptual
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers.contract import QuantizerModule
from vqpipe.runtime.distributed import synchronised_norms
from vqpipe.tokenizers.captioned import Captioned, images_of
from vqpipe.tokenizers.tokenizer import CHANNELS, Tokenizer
from vqpipe.tokenizers.watch import CodeWatch, count_codes


class TokenizerTraining:
    """The tokenizer and its discriminator as the engine's Trainable: phase `ae`, then `disc`.

    Batches are images (b 3 h w) in [-1, 1]; with an aligner, `Captioned` ones. The aligner is trained in phase `ae`
    with the tokenizer, and is no part of it.
    """

    def __init__(
        self,
        config: TokenizerParams,
        tokenizer: Tokenizer,
        perceptual: Perceptual | None,
        aligner: Aligner | None = None,
    ) -> None:
        assert (aligner is None) == (config.align is None)
        self.config, self.tokenizer, self.perceptual, self.aligner = config, tokenizer, perceptual, aligner
        training = config.training
        self.watch = CodeWatch(
            tokenizer.num_codes, training.num_steps, training.log_every, training.accumulate
        )
        self.module = nn.ModuleDict({"tokenizer": tokenizer, "watch": self.watch})
        self.phases: tuple[str, ...] = ("ae",)
        self.discriminator: nn.Module | None = None
        adversarial = config.losses.adversarial
        self.start = DiscriminatorStart(adversarial.start)
        if adversarial.weight > 0:
            discriminator = PatchDiscriminator(adversarial.discriminator, CHANNELS)
            self.discriminator = synchronised_norms(discriminator)
            self.module["discriminator"], self.module["start"] = self.discriminator, self.start
            self.phases = ("ae", "disc")
        if aligner is not None:
            self.module["aligner"] = aligner
        self._fakes: deque[Tensor] = deque()
        """The micro-batches' reconstructions, from phase `ae` to phase `disc`."""

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        modules = [self.module["tokenizer" if phase == "ae" else "discriminator"]]
        if phase == "ae" and self.aligner is not None:
            modules.append(self.aligner)
        scale = 1.0 if phase == "ae" else self.config.losses.adversarial.discriminator.lr_scale
        return [
            {"params": [p for p in module.parameters() if p.requires_grad], "lr_scale": scale}
            for module in modules
        ]

    def active(self, phase: str, progress: float) -> bool:
        return phase == "ae" or self.start.passed(progress)

    def networks(self) -> list[nn.Module]:
        """Encoder and decoder. The search stays as it is, and so do the perceptual net and the discriminator: the
        adaptive weight goes backward through both before the loss does, which a compiled graph allows only once."""
        return [self.tokenizer.encoder, self.tokenizer.decoder]

    def uncompiled(self) -> list[nn.Module]:
        """The decoder's last layer, at whose weight the adaptive weight compares gradients."""
        return [self.tokenizer.decoder.out]

    def begin(self, batches: Sequence[Any], progress: float) -> None:
        """Codes that start from data start from the whole batch, whatever the number of micro-batches."""
        self._fakes.clear()
        quantizer = self.tokenizer.quantizer
        assert isinstance(quantizer, QuantizerModule)
        if len(batches) > 1 and quantizer.waits_for_data():
            with torch.no_grad():
                quantizer.initialise(
                    torch.cat([self.tokenizer.encode_latent(images_of(part)) for part in batches])
                )

    def observe(self, terms: Mapping[str, float], progress: float) -> None:
        """Tell the discriminator's start how the reconstruction goes."""
        if self.discriminator is not None and self.start.plateau is not None:
            self.start.observe(terms["ae/reconstruction"], progress)

    def loss(
        self, phase: str, batch: Float[Tensor, "b 3 h w"] | Captioned, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """VQGAN's two objectives (arXiv 2012.09841, equations 4 to 7), the first with the aligner's losses added
        (LG-VQ, arXiv 2405.14206, equation 9), which take no part in the adaptive weight."""
        if phase == "disc":
            return self._discriminator_loss(images_of(batch), progress)
        return self._autoencoder_loss(batch, progress)

    def _autoencoder_loss(
        self, batch: Tensor | Captioned, progress: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        losses, images = self.config.losses, images_of(batch)
        recon, quantized = self.tokenizer(images, progress)
        recon = recon.float()
        self._fakes.append(recon.detach())
        reconstruction, pixel_terms = pixel_loss(losses.reconstruction, recon, images)
        terms: dict[str, Tensor | float] = {**pixel_terms, "quantizer": quantized.loss.detach()}
        terms |= {name: value.detach() for name, value in quantized.terms.items()}
        for index, (indices, count) in enumerate(
            zip(quantized.indices.unbind(1), self.tokenizer.num_codes, strict=True)
        ):
            terms[f"codes_in_batch_{index}"] = (count_codes(indices.reshape(-1), count) > 0).sum()
        terms |= self.watch.update(quantized.indices)
        if self.perceptual is not None:
            distance = self.perceptual(recon, images).mean()
            terms[self.perceptual.name] = distance.detach()
            reconstruction = reconstruction + losses.perceptual_weight * distance
        if self.start.plateau is not None:
            terms["reconstruction"] = reconstruction.detach()
        total = reconstruction + losses.quantizer_weight * quantized.loss
        adversarial = losses.adversarial
        if self.discriminator is not None and self.start.passed(progress, adversarial.warmup):
            self.discriminator.requires_grad_(False)
            generator = hinge_generator_loss(self.discriminator(recon).float())
            self.discriminator.requires_grad_(True)
            weight = adaptive_weight(
                reconstruction, generator, self.tokenizer.decoder.last_weight, adversarial.max_adaptive_weight
            )
            terms |= {"generator": generator.detach(), "adaptive_weight": weight}
            total = total + adversarial.weight * weight * generator
        if self.aligner is not None:
            assert isinstance(batch, Captioned)
            alignment, align_terms = self.aligner(quantized, batch.text, progress)
            terms |= {"align": alignment.detach(), **align_terms}
            total = total + alignment
        return total, terms

    def _discriminator_loss(
        self, images: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        assert self.discriminator is not None
        fakes = self._fakes.popleft()
        real, fake = self.discriminator(images).float(), self.discriminator(fakes).float()
        terms: dict[str, Tensor | float] = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        loss = hinge_discriminator_loss(real, fake)
        r1 = self.config.losses.adversarial.r1
        if r1 is not None and round(progress * self.config.training.num_steps) % r1.every == 0:
            penalty = r1_penalty(self.discriminator, images)
            terms["r1"] = penalty.detach()
            loss = loss + r1.weight * r1.every * penalty
        return loss, terms
