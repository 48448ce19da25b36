"""Training a tokenizer: pixel, perceptual and adversarial losses around one quantizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vqpipe.data.loader import ImageSplit, epoch_order, to_float, to_uint8
from vqpipe.engine.loop import fit
from vqpipe.engine.trainable import FitResult
from vqpipe.losses.adversarial import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from vqpipe.losses.pixels import pixel_loss
from vqpipe.models.discriminator import PatchDiscriminator
from vqpipe.models.perceptual import Perceptual, build_perceptual
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers import Prior, build
from vqpipe.runtime.distributed import rank, world_size
from vqpipe.runtime.seeds import numpy_rng, seed_everything, torch_rng
from vqpipe.tokenizers.latent_init import whiten
from vqpipe.tokenizers.tokenizer import CHANNELS, Tokenizer
from vqpipe.tokenizers.watch import CodeWatch
from vqpipe.vision.clip import Clip


class TokenizerTraining:
    """The tokenizer and its discriminator as the engine's Trainable: phase `ae`, then `disc`."""

    def __init__(self, config: TokenizerParams, tokenizer: Tokenizer, perceptual: Perceptual | None) -> None:
        self.config, self.tokenizer, self.perceptual = config, tokenizer, perceptual
        self.watch = CodeWatch(tokenizer.num_codes, config.training.num_steps, config.training.log_every)
        self.module = nn.ModuleDict({"tokenizer": tokenizer, "watch": self.watch})
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
        terms |= self.watch.update(quantized.indices)
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


def train_tokenizer(
    config: TokenizerParams,
    prior: Prior,
    dataset: Path,
    clip: Clip | None,
    *,
    scratch: Path,
    curves: Path,
    device: torch.device,
    title: str,
) -> tuple[Tokenizer, dict[str, Any]]:
    """Train one variant on the training split and measure it shortly on the validation split.

    Args:
        prior: what the quantizer is built on, or None.
        dataset: the dataset artifact.
        clip: the CLIP of the run, for `perceptual.kind: clip`.
        scratch: folder of the checkpoint; a run that was killed goes on from it.
        curves: where the training curves are published.
        title: names the run on the progress bar.

    Returns:
        The tokenizer in eval mode with its final weights, and its metrics.

    Raises:
        MismatchError: a prior that does not fit the quantizer.
        TrainingError: training that does not come back from non-finite losses.
    """
    seed_everything(config.seed, "weights")
    split = ImageSplit.open(dataset, "train", config.resolution)
    tokenizer = Tokenizer(config, build(config.quantizer, prior))
    perceptual = build_perceptual(config.losses.perceptual, clip)
    training = TokenizerTraining(config, tokenizer, perceptual.to(device) if perceptual else None)
    training.module.to(device).train()
    if config.latent_init == "whiten":
        first = to_float(split.images(0, min(128, len(split)))).to(device)
        with torch.no_grad():
            whiten(tokenizer.quant_conv, tokenizer.encoder(first), torch_rng(config.seed, "whiten"))
    seed_everything(config.seed, "training", rank())

    def batch_at(step: int) -> Tensor:
        indices = epoch_order(len(split), config.training.batch_size, config.seed, step, rank(), world_size())
        rng = numpy_rng(config.seed, "augment", step, rank())
        images = split.gather(indices, rng, config.augment.crop, config.augment.flip)
        return to_float(images).to(device, non_blocking=True)

    result = fit(
        training, batch_at, config.training, scratch=scratch, curves=curves, device=device, title=title
    )
    prefix = "tokenizer."
    weights = {n[len(prefix) :]: v for n, v in result.weights.items() if n.startswith(prefix)}
    tokenizer.load_state_dict(weights)
    tokenizer.eval().requires_grad_(False)
    tokenizer.latent_scale.fill_(_latent_scale(tokenizer, split, device))
    return tokenizer, _metrics(tokenizer, training, result, dataset, device)


def _latent_scale(tokenizer: Tokenizer, split: ImageSplit, device: torch.device) -> float:
    """Standard deviation of the pre-quantised latent over up to 1,024 training images."""
    latents = [
        tokenizer.encode_latent(to_float(split.images(at, min(at + 64, len(split)))).to(device)).double()
        for at in range(0, min(1024, len(split)), 64)
    ]
    return float(torch.cat(latents).std())


def _metrics(
    tokenizer: Tokenizer, training: TokenizerTraining, result: FitResult, dataset: Path, device: torch.device
) -> dict[str, Any]:
    def count(module: nn.Module | None) -> int:
        return sum(p.numel() for p in module.parameters()) if module is not None else 0

    return {
        "num_steps": result.num_steps,
        "num_rollbacks": result.num_rollbacks,
        "weights": "ema" if result.averaged else "last",
        "parameters": {
            "encoder": count(tokenizer.encoder) + count(tokenizer.quant_conv),
            "quantizer": count(tokenizer.quantizer),  # type: ignore[arg-type]
            "decoder": count(tokenizer.decoder) + count(tokenizer.post_quant_conv),
            "discriminator": count(training.discriminator),
        },
        "latent_scale": float(tokenizer.latent_scale),
        "codes": training.watch.metrics(),
        "validation": {
            "psnr": _validation_psnr(
                tokenizer, ImageSplit.open(dataset, "validation", tokenizer.resolution), device
            )
        },
    }


@torch.no_grad()
def _validation_psnr(tokenizer: Tokenizer, split: ImageSplit, device: torch.device) -> float:
    """Mean over images of the PSNR in dB on uint8 RGB, over at most 1,000 images of the validation split."""

    def one(images: UInt8[Tensor, "b 3 h w"]) -> np.ndarray:
        recon = to_uint8(tokenizer(to_float(images).to(device))[0]).cpu()
        mse = (recon.double() - images.double()).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        return np.asarray(10 * torch.log10(255.0**2 / mse))

    stop = min(1000, len(split))
    return float(
        np.concatenate([one(split.images(at, min(at + 50, stop))) for at in range(0, stop, 50)]).mean()
    )
