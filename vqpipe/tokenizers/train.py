"""Training one tokenizer variant on a dataset, and measuring it shortly.

The codebook and the losses must come from one CLIP: the losses would otherwise pull towards another space than that of
the codes. A codebook of another CLIP than the run's is refused where a loss uses the run's CLIP. Where none does, or
the params state `foreign_codebook: true` (VQGAN-LC, table 8: a codebook of one data set under another), it is accepted,
and the metrics name both. A codebook without a CLIP (GloVe, random vectors) fits any. Kinds, sizes and dimensions are
checked by the quantizers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text_sides import text_side
from vqpipe.artifacts.metrics import Metrics
from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.data.loader import ImageSplit, epoch_order, to_float, to_uint8
from vqpipe.errors import MismatchError
from vqpipe.models.perceptual import build_perceptual
from vqpipe.quantizers import build
from vqpipe.runtime.distributed import own_share, rank
from vqpipe.runtime.seeds import derive, numpy_rng, seed_everything, torch_rng
from vqpipe.tokenizers.captions import CaptionedImages, CaptionMetrics, Captions
from vqpipe.tokenizers.objective import CodeUse, TokenizerObjective
from vqpipe.tokenizers.stored import StoredAligner
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.training.loop import run_training
from vqpipe.training.objective import TrainingResult
from vqpipe.vision.clip import Clip


class ParameterCounts(Metrics):
    """Parameters by part. Frozen vectors are buffers, and not counted."""

    encoder: int
    """Encoder and the 1x1 convolution after it."""
    quantizer: int
    decoder: int
    """Decoder and the 1x1 convolution before it."""
    discriminator: int
    """0 where the variant has none."""
    aligner: int | None = None
    """Where the variant has `align`."""


class ValidationMetrics(Metrics):
    """Measured right after the training, on at most 1,000 images of the validation split."""

    psnr: float
    """Mean over images of the PSNR on uint8 RGB, in dB; higher is better."""


class ForeignCodebook(Metrics):
    """Ids of two CLIPs, where they differ."""

    clip: str
    """The CLIP of the codebook."""
    run_clip: str
    """The CLIP of the run."""


class TokenizerMetrics(Metrics):
    """What the training of a tokenizer measured."""

    num_steps: int
    num_rollbacks: int
    """Returns to the last checkpoint after a loss or gradient that was not finite."""
    weights: Literal["ema", "last"]
    """Whether the published weights are averaged (`ema`) or those of the last step."""
    parameters: ParameterCounts
    adversarial_start: float | None = None
    """Part of the training in [0, 1] at which the discriminator started, where `start` is a plateau."""
    latent_scale: float
    """Standard deviation of the latent before quantisation, over up to 1,024 training images."""
    codes: CodeUse
    validation: ValidationMetrics
    codebook: ForeignCodebook | None = None
    """Where the codebook was made with another CLIP than the run's."""
    captions: CaptionMetrics | None = None
    """Where the variant has `align`."""


@dataclass(frozen=True)
class TrainedTokenizer:
    """The end of a training."""

    tokenizer: Tokenizer
    """In eval mode with its final weights."""
    metrics: TokenizerMetrics
    aligner: Aligner | None
    """What was trained together with the tokenizer where the variant has `align`, in eval mode."""
    text: str | None
    """The id of the text encoder that the captions were encoded with, where the variant has `align`."""

    def save(self, folder: Path, codebook: PretrainedCodebook) -> None:
        """Publish the tokenizer and its aligner as one artifact, which names the codebook that it was built on."""
        source = dict(codebook.facts) if codebook is not None else None
        aligner = None
        if self.aligner is not None and self.text is not None:
            aligner = StoredAligner(self.aligner, self.text)
        self.tokenizer.save(folder, {"weights": self.metrics.weights, "codebook": source}, aligner)


def train_tokenizer(
    config: TokenizerParams,
    codebook: PretrainedCodebook,
    dataset: Path,
    clip: Clip | None,
    *,
    scratch: Path,
    curves: Path,
    device: torch.device,
    title: str,
    clip_id: str | None = None,
    on_trained: Callable[[TrainingResult], None] | None = None,
) -> TrainedTokenizer:
    """Train one variant on the training split and measure it shortly on the validation split.

    Args:
        codebook: the pretrained codebook that the quantizer is built on, or None.
        dataset: the dataset artifact.
        clip: the CLIP of the run; needed where `uses_clip` says so.
        scratch: folder of the checkpoint and of the captions' features; a run that was killed resumes from it.
        curves: where the training curves are published.
        title: names the run on the progress bar.
        clip_id: the id of the CLIP of the run where `clip` is not given.
        on_trained: called at the end of the training, before anything is measured.

    Raises:
        MismatchError: a codebook that does not fit the quantizer, or of another CLIP than that in the losses; before
            any image is read. With `align`: `text` of kind `clip` and no CLIP, or an encoder that takes
            shorter captions.
        DataError: `align`, and training images without a caption, or a sentence model that cannot be used.
        SetupError: `align` with a sentence model whose package, or the library for it, is not installed.
        TrainingError: training that does not come back from non-finite losses.
    """
    foreign = check_codebook(config, codebook, clip.id if clip is not None else clip_id)
    side = None if config.align is None else text_side(config.align.text, clip)
    seed_everything(config.seed, "weights")
    tokenizer = Tokenizer(config, build(config.quantizer, codebook))
    split = ImageSplit.open(dataset, "train", config.resolution)
    validation = ImageSplit.open(dataset, "validation", config.resolution)
    captions = aligner = None
    if config.align is not None and side is not None:
        captions = Captions(
            split, dataset, side, max_tokens=config.align.max_tokens, seed=config.seed, folder=scratch
        )
        aligner = Aligner.fresh(
            config.align, side, captions.vocabulary, num_positions=math.prod(tokenizer.grid),
            latent_dim=config.quantizer.dim, code_dims=tokenizer.code_dims,
            seed=derive(config.seed, "aligner"),
        )  # fmt: skip
    perceptual = build_perceptual(config.losses.perceptual, clip)
    objective = TokenizerObjective(
        config, tokenizer, perceptual.to(device) if perceptual else None, aligner, title
    )
    objective.module.to(device).train()
    if config.latent_init == "whiten":
        first = to_float(split.images(0, min(128, len(split)))).to(device)
        with torch.no_grad():
            whiten(tokenizer.quant_conv, tokenizer.encoder(first), torch_rng(config.seed, "whiten"))
    seed_everything(config.seed, "training", rank())

    batch_size = config.training.batch_size

    def batch_at(step: int) -> Tensor | CaptionedImages:
        # Crops and flips are drawn for the whole batch, so that they do not depend on the number of ranks.
        indices, share = epoch_order(len(split), batch_size, config.seed, step), own_share(batch_size)
        rng = numpy_rng(config.seed, "augment", step, 0)
        # An image whose caption names a side is not mirrored; the draws of all others are those without captions.
        text, upright = captions.drawn(indices, step, share) if captions is not None else (None, None)
        images = split.gather(indices, rng, config.augment.crop, config.augment.flip, share, upright)
        return to_float(images) if text is None else CaptionedImages(to_float(images), text)

    result = run_training(
        objective, batch_at, config.training, scratch=scratch, curves=curves, device=device, title=title
    )
    if on_trained is not None:
        on_trained(result)
    for name, module in (("tokenizer", tokenizer), ("aligner", aligner)):
        if module is not None:
            module.load_state_dict(_part(result.weights, f"{name}."))
            module.eval().requires_grad_(False)
    tokenizer.latent_scale.fill_(_latent_scale(tokenizer, split, device))
    metrics = TokenizerMetrics(
        num_steps=result.num_steps,
        num_rollbacks=result.num_rollbacks,
        weights="ema" if result.averaged else "last",
        parameters=_count_parameters(objective),
        adversarial_start=None if objective.start.plateau is None else objective.start.started_at,
        latent_scale=float(tokenizer.latent_scale),
        codes=objective.watch.metrics(),
        validation=ValidationMetrics(psnr=_psnr(tokenizer, validation, device)),
        codebook=foreign,
        captions=None if captions is None else captions.metrics(),
    )
    return TrainedTokenizer(tokenizer, metrics, aligner, None if side is None else side.id)


def uses_clip(config: TokenizerParams) -> bool:
    """Whether the training needs the CLIP's networks, for the perceptual loss or for captions, and not its id alone."""
    return _reads_clip(config) or config.losses.perceptual.kind == "clip"


def _reads_clip(config: TokenizerParams) -> bool:
    return config.align is not None and config.align.text.kind == "clip"


def check_codebook(
    config: TokenizerParams, codebook: PretrainedCodebook, clip_id: str | None
) -> ForeignCodebook | None:
    """Both CLIPs where the codebook was made with another one than the run's, else None.

    Args:
        codebook: the pretrained codebook, or None.
        clip_id: of the run's CLIP, or None.

    Raises:
        MismatchError: a loss uses the run's CLIP, another made the codebook, and the params do not accept that.
    """
    made_by = None if codebook is None else codebook.facts.get("clip_id")
    if clip_id is None or made_by is None or made_by == clip_id:
        return None
    perceptual = config.losses.perceptual.kind == "clip" and config.losses.perceptual_weight > 0
    if (_reads_clip(config) or perceptual) and not config.foreign_codebook:
        raise MismatchError(
            "the codebook was made with another CLIP than that in the losses",
            found=f"a codebook of {made_by}, and losses of {clip_id}",
            expected=f"a codebook of {clip_id}, the option --clip with the CLIP of the codebook, or "
            "foreign_codebook: true in the variant's params",
            run="dvc repro graph" if isinstance(codebook, WordsCodebook) else "dvc repro patches cluster",
        )
    return ForeignCodebook(clip=str(made_by), run_clip=clip_id)


@torch.no_grad()
def whiten(conv: nn.Conv2d, features: Float[Tensor, "b z h w"], seed_rotation: torch.Generator) -> None:
    """Set a 1x1 convolution so that its output over `features` has mean 0 and identity covariance.

    Codes placed by a white latent span every dimension. An untrained encoder's features vary along a few directions
    only, and codes that take their mean and covariance from such a latent stay in those directions for long.

    The strongest principal components are kept, turned by a random rotation so that no channel is special.

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


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def _latent_scale(tokenizer: Tokenizer, split: ImageSplit, device: torch.device) -> float:
    latents = [
        tokenizer.encode_latent(to_float(split.images(at, min(at + 64, len(split)))).to(device)).double()
        for at in range(0, min(1024, len(split)), 64)
    ]
    return float(torch.cat(latents).std())


def _count_parameters(objective: TokenizerObjective) -> ParameterCounts:
    def count(*modules: nn.Module | None) -> int:
        return sum(p.numel() for module in modules if module is not None for p in module.parameters())

    tokenizer = objective.tokenizer
    return ParameterCounts(
        encoder=count(tokenizer.encoder, tokenizer.quant_conv),
        quantizer=count(tokenizer.quantizer),
        decoder=count(tokenizer.decoder, tokenizer.post_quant_conv),
        discriminator=count(objective.discriminator),
        aligner=None if objective.aligner is None else count(objective.aligner),
    )


@torch.no_grad()
def _psnr(tokenizer: Tokenizer, split: ImageSplit, device: torch.device) -> float:
    def one(images: UInt8[Tensor, "b 3 h w"]) -> np.ndarray:
        recon = to_uint8(tokenizer(to_float(images).to(device))[0]).cpu()
        mse = (recon.double() - images.double()).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        return np.asarray(10 * torch.log10(255.0**2 / mse))

    stop = min(1000, len(split))
    return float(
        np.concatenate([one(split.images(at, min(at + 50, stop))) for at in range(0, stop, 50)]).mean()
    )
