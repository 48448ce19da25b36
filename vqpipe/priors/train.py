"""Training a prior on the images of a tokenizer, as tokens or as latents.

Letters: b images, g groups, h w the token grid, c channels of the latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vqpipe.data.annotations import LabelMaps
from vqpipe.data.loader import ImageSplit, epoch_order
from vqpipe.errors import MismatchError
from vqpipe.models.transformer import hidden_matrices
from vqpipe.priors import PRIORS
from vqpipe.priors.contract import Batch, ImageSpace, Prior, PriorParams, check_labels, deviations
from vqpipe.priors.examples import Examples, scaled
from vqpipe.priors.text import text_encoder
from vqpipe.runtime.distributed import own_share, rank
from vqpipe.runtime.seeds import derive, seed_everything
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSet, TokenSplit
from vqpipe.training.loop import run_training
from vqpipe.training.objective import Objective, TrainingResult
from vqpipe.vision.clip import Clip


def space_of(examples: Examples, classes: tuple[str, ...]) -> ImageSpace:
    """What an image of a tokenizer's own resolution, and what is known about it, is to a prior."""
    tokenizer, text, maps = examples.tokenizer, examples.text, examples.maps
    return ImageSpace(
        tokenizer.num_codes, tokenizer.grid, classes, tokenizer.config.quantizer.dim, examples.latent_std,
        tokenizer.resolution, maps.classes if maps is not None else (),
        text.length if text is not None else 0, text.dim if text is not None else 0,
    )  # fmt: skip


@torch.no_grad()
def to_codes(prior: Prior, drawn: Tensor, tokenizer: Tokenizer) -> Int64[Tensor, "b g h w"]:
    """The codes of what a prior drew: tokens as they are, latents quantised; on the CPU."""
    if prior.models == "tokens":
        return drawn.cpu()
    return tokenizer.quantizer.indices(to_latents(prior, drawn, tokenizer)).cpu()


def to_latents(
    prior: Prior, drawn: Float[Tensor, "b c h w"], tokenizer: Tokenizer
) -> Float[Tensor, "b c h w"]:
    """Latents that a prior drew, at the scale of the tokenizer's, on its device."""
    return drawn.to(tokenizer.device) * deviations(prior.space.latent_std, tokenizer.device)


FEWEST_TEST = 4
"""Test images that measuring needs: a half of them are completed, each once with the codes of another one."""


class PriorTraining(Objective):
    """A prior in the training loop: one phase, its own loss and its own groups of parameters."""

    def __init__(self, prior: Prior) -> None:
        self.module: nn.Module = prior
        self.prior = prior

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """The prior's groups."""
        return self.prior.parameter_groups()

    def hidden(self, phase: str) -> dict[nn.Parameter, int]:
        """The matrices inside the prior's network."""
        return hidden_matrices(self.prior.inside())

    def networks(self) -> list[nn.Module]:
        """The prior's."""
        return list(self.prior.networks())

    def unused(self, phase: str) -> bool:
        """A prior's loss reaches all of its parameters."""
        return False

    def loss(self, phase: str, batch: Batch, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The prior's loss, with the conditions of some images dropped, and its columns of the curves."""
        images, condition = batch
        loss = self.prior.loss(images, self.prior.dropped(condition))
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
        return train.batch(epoch_order(len(train), size, order_seed, step)[own_share(size)], step)

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
    return prior.eval().requires_grad_(False), result


def examples_of(
    config: PriorParams, tokens: TokenSet, tokenizer: Tokenizer, dataset: Path, clip: Clip
) -> dict[str, Examples]:
    """The examples of each split, after the checks that need no training.

    Raises:
        MismatchError: tokens of another tokenizer or dataset; images without the condition where the null condition is
            not trained, or none with it; texts longer than the encoder reads; label maps smaller than the images.
    """
    splits = {name: tokens.split(name) for name in ("train", "validation", "test")}
    images = {name: ImageSplit.open(dataset, name, tokenizer.resolution) for name in splits}
    _check_inputs(config, tokens, tokenizer, splits, images)
    text = text_encoder(config.text, clip) if config.text is not None else None
    maps = {
        name: LabelMaps.open(dataset, name, tokenizer.resolution) if config.condition == "label_map" else None
        for name in splits
    }
    examples = {
        name: Examples(split, images[name], tokenizer, config, text, maps[name])
        for name, split in splits.items()
    }
    for name, own in examples.items():
        missing = int(own.without_condition.sum())
        what = {"class": "label", "text": "caption", "label_map": "label map"}.get(config.condition, "")
        if missing and (config.condition_drop == 0 or missing == len(own)):
            raise MismatchError(
                f"a prior with condition: {config.condition} needs a {what} on every {name} image"
                + ("" if missing == len(own) else " where condition_drop is 0"),
                found=f"{missing} of {len(own)} images without one",
                expected="condition_drop above 0 and images with one, or condition: none",
            )
    return scaled(examples) if PRIORS[config.kind].models == "latents" else examples


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
    if len(splits["test"]) < FEWEST_TEST:
        raise MismatchError(
            "the split test has too few images: samples are compared with them, and a half of them are completed",
            found=len(splits["test"]), expected=f"{FEWEST_TEST} or more", run="dvc repro dataset",
        )  # fmt: skip
    for name, opened in images.items():
        if opened.ids != splits[name].ids:
            raise MismatchError(
                f"the tokens are not of this dataset's {name} images",
                found=f"{len(splits[name])} rows of tokens",
                expected=f"{len(opened)} images with the same ids in the same order",
                run=f"dvc repro tokens@{config.tokenizer}",
            )
