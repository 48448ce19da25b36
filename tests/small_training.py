"""A tokenizer with a discriminator in training, in under a second: 16 x 16 images, 8 steps, codes from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.tiny import TOKENIZER
from vqpipe.models.perceptual import Perceptual
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.runtime.seeds import seed_everything
from vqpipe.tokenizers.objective import TokenizerObjective
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.training.loop import run_training
from vqpipe.training.objective import TrainingResult

CPU = torch.device("cpu")
STEPS, BATCH, GRID = 8, 4, 16
BASE: dict[str, Any] = {
    "quantizer": {"init": "data"},
    "losses": {"adversarial": {"weight": 0.1, "start": 0.25, "warmup": 0.125}},
    "training": {
        "num_steps": STEPS, "batch_size": BATCH, "learning_rate": 3e-3, "ema_decay": 0.9, "checkpoint_every": 3,
    },
}  # fmt: skip


class Distance(Perceptual):
    """A frozen convolution's distance."""

    name = "distance"

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Conv2d(3, 8, 3)
        self.requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        return [self.net(images).tanh()]

    def compare(self, a: Any, b: Any) -> Tensor:
        return torch.as_tensor((a[0] - b[0]).square().mean(dim=(1, 2, 3)))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping; a mapping of another `kind` replaces the one below it."""
    out = dict(base)
    for name, value in over.items():
        below = out.get(name)
        deeper = isinstance(value, Mapping) and isinstance(below, Mapping)
        if deeper and value.get("kind", below.get("kind")) == below.get("kind"):  # type: ignore[union-attr]
            value = merged(below, value)  # type: ignore[arg-type]
        out[name] = value
    return out


def params(**changes: Any) -> TokenizerParams:
    """The small tokenizer's params with changes by section."""
    return validate(merged(merged(TOKENIZER, BASE), changes), "tokenizer", TokenizerParams)


def make(config: TokenizerParams, kind: type[TokenizerObjective] = TokenizerObjective) -> TokenizerObjective:
    """Fresh weights, the same for the same params."""
    seed_everything(0, "weights")
    training = kind(config, Tokenizer(config, build(config.quantizer, None)), None)
    training.module.train()
    return training


def batch_at(step: int) -> Tensor:
    """Four smooth images in [-1, 1]."""
    coarse = torch.rand(BATCH, 3, 3, 3, generator=torch.Generator().manual_seed(step)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")


def train(
    config: TokenizerParams,
    folder: Path,
    batches: Callable[[int], Tensor] = batch_at,
    training: TokenizerObjective | None = None,
) -> tuple[TokenizerObjective, TrainingResult]:
    """Train to the end, or on from the checkpoint in `folder`."""
    training = training or make(config)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    result = run_training(
        training, batches, config.training, scratch=folder, curves=folder / "curves.csv", device=CPU, title="small"
    )  # fmt: skip
    return training, result


def dying_at(step: int) -> Callable[[int], Tensor]:
    """Batches up to a step, which is interrupted."""

    def batches(number: int) -> Tensor:
        if number == step:
            raise KeyboardInterrupt
        return batch_at(number)

    return batches


def same_bytes(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two states hold the same names and bytes."""
    return set(one) == set(two) and all(
        one[name].contiguous().numpy().tobytes() == two[name].contiguous().numpy().tobytes() for name in one
    )
