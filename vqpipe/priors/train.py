"""The `prior` stage: training a prior on the images of a tokenizer, as tokens or as latents, and measuring it.

Letters: b images, g groups, h w the token grid, c channels of the latent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from vqpipe.data.loader import ImageSplit, epoch_order, to_float
from vqpipe.errors import MismatchError
from vqpipe.metrics.distances import Features, load_features
from vqpipe.metrics.measured import ImagesDigest, Measured, measured_with
from vqpipe.priors import PRIORS
from vqpipe.priors.artifact import PriorPictures, save_prior
from vqpipe.priors.contract import NO_LABEL, Batch, Condition, ImageSpace, Prior, PriorParams, check_labels
from vqpipe.priors.measure import (
    TRAIN_CHUNK,
    PriorMetrics,
    code_frequencies,
    measure_sets,
    memorisation,
    sample_batches,
    split_bits,
    unigram_samples,
)
from vqpipe.runtime.distributed import is_main, rank, world_size
from vqpipe.runtime.seeds import derive, numpy_rng, seed_everything, torch_rng
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSet, TokenSplit
from vqpipe.training.loop import run_training
from vqpipe.training.objective import Objective, TrainingResult
from vqpipe.vision.clip import Clip

PROTOCOL = 1
"""Number of the measuring protocol in the code: raise it when a change alters what a number means."""
NUM_SHOWN, NUM_NEAREST = 64, 16
"""Samples in the grid, and those of them that are shown with their nearest training image."""


@dataclass(frozen=True)
class Examples:
    """The images of one split as a prior models them, with their conditions.

    Args:
        tokens: codes and labels.
        images: pixels in the same order; only read for priors over latents.
        tokenizer: encodes pixels to latents, on its device and in eval mode.
        config: the prior's params.
    """

    tokens: TokenSplit
    images: ImageSplit
    tokenizer: Tokenizer
    config: PriorParams

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """Tokens (b, g, h, w) on the CPU, or latents (b, c, h, w) on the tokenizer's device; conditions on the CPU."""
        indices, labels = self.tokens.batch(rows)
        if PRIORS[self.config.kind].models == "tokens":
            return indices, self.condition(labels)
        chosen = np.arange(len(self))[rows]
        return self._latents(self.images.gather(chosen, None, "centre", False)), self.condition(labels)

    def condition(self, labels: Int64[Tensor, " b"]) -> Condition:
        """What the prior is given about images with these labels."""
        return Condition(labels=labels) if self.config.condition == "class" else Condition()

    def head(self, count: int) -> Examples:
        """The first `count` images."""
        return replace(self, tokens=self.tokens.head(count))

    def batches(self) -> Iterator[Batch]:
        """All images in order, in batches of the training's length."""
        size = self.config.training.batch_size
        return (self.batch(slice(start, start + size)) for start in range(0, len(self), size))

    def random_labels(self, n: int) -> Int64[Tensor, " n"]:
        """Labels drawn with the frequencies of this split; -1 where the prior is not given classes."""
        if self.config.condition != "class":
            return torch.full((n,), NO_LABEL, dtype=torch.int64)
        rows = numpy_rng(self.config.seed, "prior", "labels").integers(len(self), size=n)
        return self.tokens.labels[torch.from_numpy(rows)]

    @torch.no_grad()
    def _latents(self, images: Tensor) -> Tensor:
        device = self.tokenizer.device
        return self.tokenizer.encode_latent(to_float(images).to(device)).float() / self.tokenizer.latent_scale


def space_of(tokenizer: Tokenizer, classes: tuple[str, ...]) -> ImageSpace:
    """What an image of a tokenizer's own resolution is to a prior."""
    return ImageSpace(tokenizer.num_codes, tokenizer.grid, classes, tokenizer.config.quantizer.dim)


@torch.no_grad()
def to_codes(prior: Prior, drawn: Tensor, tokenizer: Tokenizer) -> Int64[Tensor, "b g h w"]:
    """The codes of what a prior drew: tokens as they are, latents quantised; on the CPU."""
    if prior.models == "tokens":
        return drawn.cpu()
    latents = drawn.to(tokenizer.device) * tokenizer.latent_scale
    return tokenizer.quantizer.indices(latents).cpu()


class PriorTraining(Objective):
    """A prior in the training loop: one phase, its own loss and its own groups of parameters."""

    def __init__(self, prior: Prior) -> None:
        self.module: nn.Module = prior
        self.prior = prior

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """The prior's groups."""
        return self.prior.parameter_groups()

    def networks(self) -> list[nn.Module]:
        """The prior's."""
        return list(self.prior.networks())

    def unused(self, phase: str) -> bool:
        """A prior's loss reaches all of its parameters."""
        return False

    def loss(self, phase: str, batch: Batch, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The prior's loss and its columns of the curves."""
        loss = self.prior.loss(*batch)
        return loss, self.prior.curve_terms(loss.detach())


def build_prior(config: PriorParams, space: ImageSpace) -> Prior:
    """A prior of the params' kind with weights from the params' seed."""
    seed_everything(config.seed, "prior", "weights")
    return PRIORS[config.kind](config, space)


def train_prior(
    config: PriorParams,
    space: ImageSpace,
    train: Examples,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> tuple[Prior, TrainingResult]:
    """Train a prior on the training split; it comes back in eval mode with its averaged or last weights.

    Raises:
        MismatchError: fewer training images than one batch, a class condition without classes, or a label that is not
            a class.
        TrainingError: the loss does not stay finite.
    """
    size = config.training.batch_size
    if len(train) < size:
        raise MismatchError(
            "fewer training images than one batch",
            found=f"{len(train)} images",
            expected=f"batch_size of {size} or less",
        )
    prior = build_prior(config, space).to(device).train()
    if prior.num_classes:
        check_labels(train.tokens.labels, prior.num_classes)
    order_seed = derive(config.seed, "prior", "order")

    def batch_at(step: int) -> Batch:
        return train.batch(epoch_order(len(train), size, order_seed, step, rank(), world_size()))

    # Dropout, dropped labels and noise draw from the global generator, which checkpoints contain.
    seed_everything(config.seed, "prior", "training", rank())
    result = run_training(
        PriorTraining(prior),
        batch_at,
        config.training,
        scratch=scratch,
        curves=curves,
        device=device,
        title=title,
    )
    prior.load_state_dict(result.weights)
    return prior.eval(), result


@dataclass(frozen=True)
class TrainedPrior:
    """A trained prior and what was measured; `cost` differs from run to run, such as tokens per second."""

    prior: Prior
    averaged: bool
    metrics: PriorMetrics
    cost: dict[str, float]
    pictures: PriorPictures

    def save(self, folder: Path) -> None:
        """Publish the prior artifact."""
        save_prior(folder, self.prior, self.averaged, self.pictures)


def train_and_measure(
    config: PriorParams,
    tokens: TokenSet,
    tokenizer: Tokenizer,
    dataset: Path,
    clip: Clip,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> TrainedPrior | None:
    """The `prior` stage: train a prior on the images of a tokenizer and measure it; None on all ranks but the first.

    Args:
        config: the pair's params.
        tokens: the tokens artifact that `tokenizer` wrote.
        tokenizer: encodes latents and decodes samples, on `device` and in eval mode.
        dataset: the dataset artifact that the tokens are of.
        clip: the CLIP of the run, for `distances.features: clip`.
        scratch: folder of the checkpoint, from which a killed run resumes.
        curves: where the training curves are published.
        title: names the run on the progress bar.

    Raises:
        MismatchError: tokens of another tokenizer or dataset, or labels that the condition cannot use.
        SetupError: the distances' package or weights are not there.
        TrainingError: the loss does not stay finite.
    """
    splits = {name: tokens.split(name) for name in ("train", "validation", "test")}
    images = {name: ImageSplit.open(dataset, name, tokenizer.resolution) for name in splits}
    _check_inputs(config, tokens, tokenizer, splits, images)
    examples = {name: Examples(split, images[name], tokenizer, config) for name, split in splits.items()}
    features = load_features(config.distances, clip, device) if is_main() else None
    started = time.perf_counter()
    space = space_of(tokenizer, tokens.classes)
    prior, result = train_prior(
        config, space, examples["train"], scratch=scratch, curves=curves, device=device, title=title
    )
    if features is None:
        return None
    cost = {"training_seconds": round(time.perf_counter() - started, 3)}

    n = min(config.num_samples, len(splits["test"]))
    labels = examples["train"].random_labels(n)
    started = time.perf_counter()
    batches = sample_batches(prior, examples["train"].condition(labels), n)
    samples = torch.cat([to_codes(prior, batch, tokenizer) for batch in batches])
    cost["sampled_tokens_per_second"] = round(samples.numel() / (time.perf_counter() - started), 1)
    floor = code_frequencies(splits["train"], tokens.num_codes)
    codes = {
        "samples": samples,
        "unigram_samples": unigram_samples(floor, n, tokens.grid, torch_rng(config.seed, "prior", "unigram")),
        "reconstructions": splits["test"].indices[:n].long(),
    }
    sets = measure_sets(tokenizer, codes, images["test"], features, config.distances, device)
    near = memorisation(sets, splits["train"], images["train"])
    measured_splits = examples | {"train": examples["train"].head(len(splits["test"]))}
    split_batches = {name: own.batches() for name, own in measured_splits.items()}
    metrics = PriorMetrics(
        **split_bits(prior, split_batches, splits["test"], floor),
        samples=sets.distances["samples"],
        unigram_samples=sets.distances["unigram_samples"],
        reconstructions=sets.distances["reconstructions"],
        num_samples=n,
        nearest_train=near.metrics(),
        num_parameters=sum(p.numel() for p in prior.parameters()),
        num_steps=result.num_steps,
        num_rollbacks=result.num_rollbacks,
        weights="ema" if result.averaged else "last",
        condition=config.condition,
        measured=_measured(images["test"], n, features, config),
    )
    rows = near.nearest["samples"].rows[:NUM_NEAREST].numpy()
    pictures = PriorPictures(
        samples=sets.first["samples"][:NUM_SHOWN],
        indices=samples[:NUM_SHOWN],
        labels=labels[:NUM_SHOWN],
        unigram=sets.first["unigram_samples"][:NUM_SHOWN],
        nearest=images["train"].gather(rows, None, "centre", False),
        nearest_ids=[images["train"].ids[row] for row in rows],
        rmse=near.nearest["samples"].rmse[:NUM_NEAREST],
        same_codes=near.shared["samples"][:NUM_NEAREST],
    )
    return TrainedPrior(prior, result.averaged, metrics, cost, pictures)


def _measured(test: ImageSplit, num_samples: int, features: Features, config: PriorParams) -> Measured:
    """The record of what was measured: bits over all test images, distances of samples from the first of them."""
    digest = ImagesDigest()
    for start in range(0, len(test), TRAIN_CHUNK):
        digest.add(test.images(start, start + TRAIN_CHUNK))
    protocol = {
        "version": PROTOCOL, "crop": "centre", "num_samples": num_samples, "features": features.source,
        "distances": config.distances.model_dump(mode="json"),
    }  # fmt: skip
    return measured_with(digest.images("test"), protocol)


def _check_inputs(
    config: PriorParams,
    tokens: TokenSet,
    tokenizer: Tokenizer,
    splits: dict[str, TokenSplit],
    images: dict[str, ImageSplit],
) -> None:
    """Refuse before the training what would fail after it."""
    if (tokens.num_codes, tokens.grid) != (tokenizer.num_codes, tokenizer.grid):
        raise MismatchError(
            "the tokens were not made by this tokenizer",
            found=f"codes {tokens.num_codes}, grid {tokens.grid}",
            expected=f"codes {tokenizer.num_codes}, grid {tokenizer.grid}",
            run=f"dvc repro tokens@{config.tokenizer}",
        )
    empty = [name for name, split in splits.items() if not len(split)]
    if empty:
        raise MismatchError(f"there are no tokens in {', '.join(empty)}", run="dvc repro dataset")
    for name, opened in images.items():
        if opened.ids != splits[name].ids:
            raise MismatchError(
                f"the tokens are not of this dataset's {name} images",
                found=f"{len(splits[name])} rows of tokens",
                expected=f"{len(opened)} images with the same ids in the same order",
                run=f"dvc repro tokens@{config.tokenizer}",
            )
    unlabelled = sum(int((split.labels == NO_LABEL).sum()) for split in splits.values())
    if config.condition == "class" and config.label_drop == 0 and unlabelled:
        raise MismatchError(
            "a class-conditional prior without label_drop needs a label on every image",
            found=f"{unlabelled} images without one",
            expected="label_drop above 0, or condition: none",
        )
