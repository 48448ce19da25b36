"""The `prior` stage whole: checks, training, bits, samples beside floor and ceiling, memorisation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqpipe.data.loader import ImageSplit
from vqpipe.errors import MismatchError
from vqpipe.metrics.codes import bits_per_image
from vqpipe.metrics.distances import load_features
from vqpipe.metrics.extractors import Features
from vqpipe.metrics.measured import MEASURED, ImagesDigest, Measured, measured
from vqpipe.params.prior import PriorParams
from vqpipe.priors.condition import NO_LABEL
from vqpipe.priors.generator import Pictures, save_generator
from vqpipe.priors.gpt import GPT
from vqpipe.priors.measure import image_bits, unigram, unigram_bits, unigram_samples
from vqpipe.priors.samples import (
    TRAIN_CHUNK,
    Drawn,
    compare,
    decode_images,
    draw_samples,
    memorisation,
    sample_labels,
)
from vqpipe.priors.train import train_prior
from vqpipe.runtime.distributed import is_main
from vqpipe.runtime.seeds import torch_rng
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSet, TokenSplit
from vqpipe.vision.clip import Clip

PROTOCOL = 1
"""Number of the measuring protocol in the code: raise it when a change alters what a number means."""
NUM_SHOWN, NUM_NEAREST = 64, 16
"""Samples in the grid, and those of them that are shown with their nearest training image."""


@dataclass(frozen=True)
class FittedPrior:
    """A trained prior and what was measured; `cost` is what no rerun repeats, such as tokens per second."""

    prior: GPT
    classes: tuple[str, ...]
    averaged: bool
    metrics: dict[str, Any]
    cost: dict[str, float]
    pictures: Pictures

    def save(self, folder: Path) -> None:
        """Publish the generator artifact."""
        save_generator(folder, self.prior, self.classes, self.averaged, self.pictures)


def fit_prior(
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
) -> FittedPrior | None:
    """Train a prior on tokens and measure it; None on all ranks but the first.

    Args:
        config: the pair's params.
        tokens: the tokens artifact that `tokenizer` wrote.
        tokenizer: decodes samples, on `device`.
        dataset: the dataset artifact that the tokens are of.
        clip: the CLIP of the run, for `distances.features: clip`.
        scratch: folder of the checkpoint; a killed run goes on from it.
        curves: where the training curves are published.
        title: names the run on the progress bar.

    Raises:
        MismatchError: tokens of another tokenizer or dataset, or labels that the condition cannot use.
        SetupError: the distances' package or weights are not there.
        TrainingError: the loss does not stay finite.
    """
    splits = {name: tokens.split(name) for name in ("train", "validation", "test")}
    images = {name: ImageSplit.open(dataset, name, tokenizer.resolution) for name in ("train", "test")}
    _check(config, tokens, tokenizer, splits, images)
    features = load_features(config.distances, clip, device) if is_main() else None
    started = time.perf_counter()
    prior, result = train_prior(
        config, tokens, splits["train"], scratch=scratch, curves=curves, device=device, title=title
    )
    if features is None:
        return None
    cost = {"training_seconds": round(time.perf_counter() - started, 3)}

    n = min(config.num_samples, len(splits["test"]))
    floor = unigram(splits["train"], tokens.num_codes)
    labels = sample_labels(prior, splits["train"], n, config.seed)
    started = time.perf_counter()
    samples = draw_samples(prior, labels, config)
    cost["sampled_tokens_per_second"] = round(samples.numel() / (time.perf_counter() - started), 1)
    codes = {
        "samples": samples,
        "unigram_samples": unigram_samples(floor, n, tokens.grid, torch_rng(config.seed, "prior", "unigram")),
        "reconstructions": splits["test"].indices[:n].long(),
    }
    drawn = Drawn(codes, {name: decode_images(tokenizer, own, device) for name, own in codes.items()})
    near = memorisation(drawn, splits["train"], images["train"])
    metrics = {
        **_bits(prior, config, splits, floor),
        **compare(drawn.images, images["test"].images(0, n), features, config.distances),
        "num_samples": n,
        "nearest_train": near.metrics(),
        "num_parameters": sum(p.numel() for p in prior.parameters()),
        "num_steps": result.num_steps,
        "num_rollbacks": result.num_rollbacks,
        "weights": "ema" if result.averaged else "last",
        "condition": config.condition,
        MEASURED: _measured(images["test"], n, features, config),
    }
    rows = near.nearest["samples"].rows[:NUM_NEAREST].numpy()
    pictures = Pictures(
        samples=drawn.images["samples"][:NUM_SHOWN],
        indices=samples[:NUM_SHOWN],
        labels=labels[:NUM_SHOWN],
        unigram=drawn.images["unigram_samples"][:NUM_SHOWN],
        nearest=images["train"].gather(rows, None, "centre", False),
        nearest_ids=[images["train"].ids[row] for row in rows],
        rmse=near.nearest["samples"].rmse[:NUM_NEAREST],
        same_codes=near.shared["samples"][:NUM_NEAREST],
    )
    return FittedPrior(prior, tokens.classes, result.averaged, metrics, cost, pictures)


def _measured(test: ImageSplit, num_samples: int, features: Features, config: PriorParams) -> Measured:
    """The record of what was measured: bits over all test images, distances of samples from the first of them."""
    digest = ImagesDigest()
    for start in range(0, len(test), TRAIN_CHUNK):
        digest.add(test.images(start, start + TRAIN_CHUNK))
    protocol = {
        "version": PROTOCOL, "crop": "centre", "num_samples": num_samples, "features": features.source,
        "distances": config.distances.model_dump(mode="json"),
    }  # fmt: skip
    return measured(digest.record("test"), protocol)


def _check(
    config: PriorParams,
    tokens: TokenSet,
    tokenizer: Tokenizer,
    splits: dict[str, TokenSplit],
    images: dict[str, ImageSplit],
) -> None:
    """Whatever would fail after the training fails here, before it."""
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


def _bits(
    prior: GPT, config: PriorParams, splits: dict[str, TokenSplit], floor: list[Tensor]
) -> dict[str, Any]:
    """Bits of whole splits; of training, as many images as the test split has."""
    tokens_per_image = prior.groups * prior.num_positions
    measured = splits | {"train": splits["train"].head(len(splits["test"]))}
    bits = {
        name: float(image_bits(prior, split, config.training.batch_size).mean())
        for name, split in measured.items()
    }
    by_frequency = unigram_bits(floor, splits["test"])
    return {
        "bits_per_image": bits["test"],
        "bits_per_token": bits["test"] / tokens_per_image,
        "unigram_bits_per_token": by_frequency,
        "unigram_bits_per_image": by_frequency * tokens_per_image,
        "fixed_length_bits_per_token": bits_per_image(prior.num_codes, prior.grid) / tokens_per_image,
        "validation": {"bits_per_token": bits["validation"] / tokens_per_image},
        "train": {"bits_per_token": bits["train"] / tokens_per_image},
    }
