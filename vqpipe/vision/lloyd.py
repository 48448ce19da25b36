"""Lloyd's iterations with a stop rule, and a checkpoint after each, so that a killed run ends with the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from vqpipe.artifacts.kept import Found, keep_before, recover
from vqpipe.artifacts.spec import TensorSpec
from vqpipe.artifacts.tensors import check_tensors, read_tensors, write_tensors
from vqpipe.runtime.distributed import is_main
from vqpipe.runtime.progress import progress_bar
from vqpipe.vision.assignment import Before, Engine, assign, relocate
from vqpipe.vision.vectors import Part

CHECKPOINT = TensorSpec(
    "kmeans-checkpoint", 1, {"centroids": "F32"}, stage="cluster", about="k-means between two iterations"
)

Row = dict[str, float]
"""One row of the curve: step, objective before the step's update, empty clusters, and how many were refilled."""


@dataclass
class State:
    """Where a run stands."""

    centroids: Float32[Tensor, "k d"]
    rows: list[Row] = field(default_factory=list)
    done: bool = False

    def save(self, path: Path) -> None:
        """Write the checkpoint; atomic, with a checksum. The one at `path` becomes the one before."""
        facts = {"rows": self.rows, "done": self.done}
        with keep_before(path):
            write_tensors(path, CHECKPOINT, {"centroids": self.centroids}, facts, sealed=True)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> State:
        """Read a checkpoint of the same run."""
        tensors, facts = read_tensors(path, CHECKPOINT)
        return cls(tensors["centroids"].to(device), facts["rows"], facts["done"])


def resumable(checkpoint: Path | None, device: torch.device) -> bool:
    """Whether there is a checkpoint to go on from, after damaged ones were set aside; the same answer on all ranks."""
    return checkpoint is not None and (
        recover(checkpoint, lambda path: check_tensors(path, CHECKPOINT), device) != Found.NOTHING
    )


def lloyd(
    part: Part,
    state: State,
    engine: Engine,
    largest: float,
    *,
    num_iterations: int,
    tolerance: float | None,
    spherical: bool,
    checkpoint: Path | None,
) -> Before | None:
    """Iterate until `num_iterations`, the stop rule, or centroids that do not move; `state` is changed in place.

    Returns the last assignment and the centroids it was made with, None where no iteration was left to do.

    Args:
        part: this rank's vectors.
        state: start, or a loaded checkpoint.
        engine: what searches.
        largest: the largest absolute value among the vectors of all ranks.
        num_iterations: at most as many.
        tolerance: stop after an iteration whose objective is lower than the one before by less than this part of
            it; None never does.
        spherical: scale the centroids to unit length after each iteration.
        checkpoint: the file to write after each iteration, or None.
    """
    before: Before | None = None
    with progress_bar("k-means", num_iterations) as bar:
        bar.advance(len(state.rows))
        while not state.done and len(state.rows) < num_iterations:
            found = assign(part, state.centroids, engine, largest, before)
            empty = int((found.counts == 0).sum())
            means = found.means
            refilled = relocate(part, found, state.centroids)
            if refilled:
                means = found.means_of(state.centroids)
            if spherical:
                means = unit(means, state.centroids)
            last = state.rows[-1]["objective"] if state.rows else None
            state.rows.append(
                {
                    "step": len(state.rows) + 1,
                    "objective": found.objective,
                    "empty": empty,
                    "refilled": refilled,
                }
            )
            slow = last is not None and tolerance is not None and last - found.objective < tolerance * last
            state.done = slow or bool(torch.equal(means, state.centroids))
            before = found, state.centroids
            state.centroids = means
            if checkpoint is not None and is_main():
                state.save(checkpoint)
            bar.advance(1, f"objective {found.objective:.5g}")
    return before


def unit(means: Float32[Tensor, "k d"], before: Float32[Tensor, "k d"]) -> Float32[Tensor, "k d"]:
    """Means scaled to unit length; a mean of zero stays what it was before."""
    wide = means.double()
    norms = wide.square().sum(dim=1, keepdim=True).sqrt()
    return torch.where(norms > 0, (wide / norms.clamp(min=1e-300)).float(), before)
