"""Training a prior on tokens, and the table of priors by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from vqpipe.data.loader import epoch_order
from vqpipe.engine.loop import fit
from vqpipe.engine.trainable import FitResult, NoHooks
from vqpipe.errors import MismatchError
from vqpipe.models.transformer import decay_groups
from vqpipe.params.prior import PriorParams
from vqpipe.priors.condition import Condition
from vqpipe.priors.gpt import GPT
from vqpipe.runtime.distributed import rank, world_size
from vqpipe.runtime.seeds import derive, seed_everything
from vqpipe.tokenizers.tokens import TokenSet, TokenSplit

PRIORS: dict[str, Callable[[PriorParams, tuple[int, ...], tuple[int, int], int], GPT]] = {"gpt": GPT}
"""Priors by kind, built from their params, the codes per group, the token grid and the number of classes."""

Batch = tuple[Int64[Tensor, "b g h w"], Int64[Tensor, " b"]]


class PriorTraining(NoHooks):
    """A prior as the engine's Trainable: one phase, cross-entropy, decay on linear weights alone."""

    phases: tuple[str, ...] = ("main",)

    def __init__(self, prior: GPT, device: torch.device) -> None:
        self.module: nn.Module = prior
        self.prior, self.device = prior, device

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        return decay_groups(self.prior)

    def active(self, phase: str, progress: float) -> bool:
        return True

    def networks(self) -> list[nn.Module]:
        """The stacks of blocks; embeddings, heads and the loss stay as they are."""
        return [self.prior.shared, *self.prior.branches]

    def loss(self, phase: str, batch: Batch, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        indices, labels = (part.to(self.device) for part in batch)
        loss = self.prior.loss(indices, condition_of(self.prior, labels))
        per_token = loss.detach() / (self.prior.groups * torch.log(torch.tensor(2.0)))
        return loss, {"bits_per_token": per_token}


def condition_of(prior: GPT, labels: Int64[Tensor, " b"]) -> Condition:
    """The condition that a prior takes for images with these labels."""
    return Condition.of_class(labels) if prior.num_classes else Condition.none()


def build_prior(
    config: PriorParams, num_codes: tuple[int, ...], grid: tuple[int, int], num_classes: int
) -> GPT:
    """A prior of the params' kind with weights from the params' seed."""
    seed_everything(config.seed, "prior", "weights")
    return PRIORS[config.kind](config, num_codes, grid, num_classes)


def train_prior(
    config: PriorParams,
    tokens: TokenSet,
    train: TokenSplit,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> tuple[GPT, FitResult]:
    """Train a prior on the training split; it comes back in eval mode with its averaged or last weights.

    Raises:
        MismatchError: fewer training images than one batch, or a class condition without classes.
        TrainingError: the loss does not stay finite.
    """
    size = config.training.batch_size
    if len(train) < size:
        raise MismatchError(
            "fewer training images than one batch",
            found=f"{len(train)} images",
            expected=f"batch_size of {size} or less",
        )
    prior = build_prior(config, tokens.num_codes, tokens.grid, len(tokens.classes)).to(device).train()
    order_seed = derive(config.seed, "prior", "order")

    def batch_at(step: int) -> Batch:
        return train.batch(epoch_order(len(train), size, order_seed, step, rank(), world_size()))

    # Dropout, dropped labels and noise draw from the global generator, which checkpoints hold.
    seed_everything(config.seed, "prior", "training", rank())
    result = fit(
        PriorTraining(prior, device),
        batch_at,
        config.training,
        scratch=scratch,
        curves=curves,
        device=device,
        title=title,
    )
    prior.load_state_dict(result.weights)
    return prior.eval(), result
