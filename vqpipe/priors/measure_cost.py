"""What training and sampling cost: seconds of all steps; seconds per image, one at a time and many at once, and passes
through the network.

These differ from machine to machine and belong in the cost sidecar, not in the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqpipe.artifacts.checkpoints import is_intact
from vqpipe.artifacts.publish import publish_sealed
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.priors.contract import Condition, Prior, SamplingParams
from vqpipe.runtime.seeds import torch_rng
from vqpipe.training.objective import TrainingResult

BATCHES = (1, 4, 16, 64, 256, 1024)
"""Images at once that are tried on a GPU, which refuses what does not fit."""
ON_CPU = 64
"""No larger batch is tried on a CPU, where the system would end the process."""
SECONDS = 3.0
"""No larger batch is tried after one that took half of this, nor after this much in total."""


@dataclass
class Evaluations:
    """Passes of single images through each network; with guidance, an image passes with and without its condition."""

    rows: dict[int, int] = field(default_factory=dict)
    captured: bool = False
    """Whether some ran while a graph was captured on CUDA: its replays are not seen, so that counts are too small. A
    prior that captures one states its number (`Prior.network_evaluations`)."""

    @property
    def most(self) -> int | None:
        """Passes through the network with the most of them; None where they are not known."""
        return None if self.captured or not self.rows else max(self.rows.values())


@contextmanager
def counted(prior: Prior) -> Iterator[Evaluations]:
    """Count the forward calls of `prior.networks()` while this is open."""
    found = Evaluations()

    def count(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
        found.rows[id(network)] = found.rows.get(id(network), 0) + len(inputs[0])
        found.captured |= inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()

    hooks = [network.register_forward_pre_hook(count, with_kwargs=True) for network in prior.networks()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def known_batch(sampling: SamplingParams, batch: int, seconds: float) -> dict[int, float]:
    """Seconds per image of `batch` images by how many were drawn at once, which `sampling.batch` limits; nothing where
    it does not divide them: a prior may then make even passes or a short last one."""
    size = min(batch, getattr(sampling, "batch", None) or batch)
    return {size: seconds} if batch % size == 0 else {}


def training_cost(result: TrainingResult, note: Path) -> dict[str, float]:
    """Seconds of all steps of a training, at the pace of those of this process, so that a run that was stopped and
    resumed is not cheaper for it; without texts that are encoded before the first step.

    Args:
        note: where they are noted; a process that finds the training at its end takes them from there.

    Returns:
        `training_seconds`; nothing where the note is needed and is not there, or is damaged.
    """
    took = result.cost
    if took.num_steps:
        publish_sealed(note, {"training_seconds": round(took.seconds * result.num_steps / took.num_steps, 3)})
    elif not (
        note.is_file() and is_intact(lambda: read_sealed_json(note), "the training's time is not known")
    ):
        return {}
    return read_sealed_json(note)


def sampling_cost(
    prior: Prior,
    conditions: Callable[[slice], Condition],
    n: int,
    known: Mapping[int, float] | None = None,
    seconds: float = SECONDS,
) -> dict[str, float]:
    """Seconds per image at batch 1 and at the fastest of `BATCHES` that was tried, and passes through the network.

    Decoding is not included. Each batch is drawn once; that of one image a first time before, uncounted.

    Args:
        conditions: those of some of `n` images.
        n: no larger batch is tried, nor one above `sampling.batch`; on a CPU also none above `ON_CPU`.
        known: seconds per image by batch, measured before.
        seconds: about how long all of it may take.

    Returns:
        `sampling_seconds_per_image_batch_1`, `sampling_seconds_per_image`, `sampling_batch`, and where they are known
        `network_evaluations_per_image`.
    """
    sampling = prior.config.sampling
    with counted(prior) as evaluations:
        _draw(prior, conditions(slice(0, 1)), 1)
    per_image: dict[int, float] = {}
    most = min(n, getattr(sampling, "batch", None) or n)
    most = min(most, ON_CPU) if prior.device.type == "cpu" else most
    for batch in (batch for batch in BATCHES if batch <= most and batch not in (known or {})):
        condition = conditions(slice(0, batch))
        started = time.perf_counter()
        try:
            _draw(prior, condition, batch)
        except torch.OutOfMemoryError:
            break
        taken = time.perf_counter() - started
        per_image[batch] = taken / batch
        if taken > seconds / 2 or sum(size * each for size, each in per_image.items()) > seconds:
            break
    per_image = {**(known or {}), **per_image}
    best = min(per_image, key=per_image.__getitem__)
    found = {
        "sampling_seconds_per_image_batch_1": round(per_image[1], 6),
        "sampling_seconds_per_image": round(per_image[best], 6),
        "sampling_batch": float(best),
    }
    passes = prior.network_evaluations(sampling) if evaluations.most is None else evaluations.most
    if passes is not None:
        found["network_evaluations_per_image"] = float(passes)
    return found


def _draw(prior: Prior, condition: Condition, batch: int) -> None:
    """Draw a batch in one pass, and wait for it."""
    sampling = prior.config.sampling
    if "batch" in type(sampling).model_fields:
        sampling = sampling.model_copy(update={"batch": None})
    prior.sample(condition, batch, sampling, torch_rng(prior.config.seed, "prior", "cost")).cpu()
