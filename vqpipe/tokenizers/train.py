"""Training one tokenizer variant on a dataset, and measuring it shortly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.data.loader import ImageSplit, epoch_order, to_float, to_uint8
from vqpipe.models.perceptual import build_perceptual
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers import Prior, build
from vqpipe.runtime.distributed import own_share, rank
from vqpipe.runtime.seeds import numpy_rng, seed_everything, torch_rng
from vqpipe.tokenizers.aligned import Captions
from vqpipe.tokenizers.captioned import Captioned
from vqpipe.tokenizers.latent_init import whiten
from vqpipe.tokenizers.objective import TokenizerTraining
from vqpipe.tokenizers.prior_fit import check_prior
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.training.loop import run_training
from vqpipe.training.objective import TrainingResult
from vqpipe.training.step import over_tensors
from vqpipe.vision.clip import Clip


@dataclass(frozen=True)
class Trained:
    """The end of a training."""

    tokenizer: Tokenizer
    """In eval mode with its final weights."""
    metrics: dict[str, Any]
    """JSON content; `prior` is among it where another CLIP made the prior, `captions` where the variant has `align`."""
    aligner: Aligner | None
    """What was trained beside the tokenizer where the variant has `align`, in eval mode."""


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
    on_fit: Callable[[TrainingResult], None] | None = None,
) -> Trained:
    """Train one variant on the training split and measure it shortly on the validation split.

    Args:
        prior: what the quantizer is built on, or None.
        dataset: the dataset artifact.
        clip: the CLIP of the run, for `perceptual.kind: clip` and `align`.
        scratch: folder of the checkpoint, and of the captions' features; a run that was killed goes on from it.
        curves: where the training curves are published.
        title: names the run on the progress bar.
        on_fit: told of the end of the training, before anything is measured.

    Raises:
        MismatchError: a prior that does not fit the quantizer, or was made by another CLIP than that in the losses;
            before any image is read. With `align`: no CLIP, or one that takes shorter captions.
        DataError: `align`, and training images without a caption.
        TrainingError: training that does not come back from non-finite losses.
    """
    foreign = check_prior(config, prior, clip)
    seed_everything(config.seed, "weights")
    tokenizer = Tokenizer(config, build(config.quantizer, prior))
    split = ImageSplit.open(dataset, "train", config.resolution)
    captions = Captions(split, dataset, clip, config, scratch) if config.align is not None else None
    aligner = captions.aligner(tokenizer, config.seed) if captions is not None else None
    perceptual = build_perceptual(config.losses.perceptual, clip)
    training = TokenizerTraining(config, tokenizer, perceptual.to(device) if perceptual else None, aligner)
    training.module.to(device).train()
    if config.latent_init == "whiten":
        first = to_float(split.images(0, min(128, len(split)))).to(device)
        with torch.no_grad():
            whiten(tokenizer.quant_conv, tokenizer.encoder(first), torch_rng(config.seed, "whiten"))
    seed_everything(config.seed, "training", rank())

    batch_size = config.training.batch_size

    def batch_at(step: int) -> Tensor | Captioned:
        # Crops and flips are drawn for the whole batch, so that they do not depend on the number of ranks.
        indices, share = epoch_order(len(split), batch_size, config.seed, step), own_share(batch_size)
        rng = numpy_rng(config.seed, "augment", step, 0)
        # An image whose caption names a side is not mirrored; the draws of all others stay those without captions.
        upright = captions.names_side(indices, step) if captions is not None else None
        images = split.gather(indices, rng, config.augment.crop, config.augment.flip, share, upright)
        floats = to_float(images).to(device, non_blocking=True)
        if captions is None:
            return floats
        text = captions.batch(indices, step, share)
        return Captioned(floats, over_tensors(text, lambda part: part.to(device, non_blocking=True)))

    result = run_training(
        training, batch_at, config.training, scratch=scratch, curves=curves, device=device, title=title
    )
    if on_fit is not None:
        on_fit(result)
    for name, module in (("tokenizer", tokenizer), ("aligner", aligner)):
        if module is not None:
            module.load_state_dict(_part(result.weights, f"{name}."))
            module.eval().requires_grad_(False)
    tokenizer.latent_scale.fill_(_latent_scale(tokenizer, split, device))
    metrics = {**_metrics(tokenizer, training, result, dataset, device), **foreign}
    if captions is not None:
        metrics["captions"] = captions.metrics()
    return Trained(tokenizer, metrics, aligner)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def _latent_scale(tokenizer: Tokenizer, split: ImageSplit, device: torch.device) -> float:
    """Standard deviation of the pre-quantised latent over up to 1,024 training images."""
    latents = [
        tokenizer.encode_latent(to_float(split.images(at, min(at + 64, len(split)))).to(device)).double()
        for at in range(0, min(1024, len(split)), 64)
    ]
    return float(torch.cat(latents).std())


def _metrics(
    tokenizer: Tokenizer,
    training: TokenizerTraining,
    result: TrainingResult,
    dataset: Path,
    device: torch.device,
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
            **({} if training.aligner is None else {"aligner": count(training.aligner)}),
        },
        **({} if training.start.plateau is None else {"adversarial_start": training.start.started_at}),
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
