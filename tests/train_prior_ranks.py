"""Trains every prior of the table for a few steps, as one process or as a rank, and saves its weights.

    torchrun --nproc-per-node 2 tests/train_prior_ranks.py FOLDER

What rank r ends with of a prior goes to FOLDER/KIND-CONDITION-GROUPS-r.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.properties.test_priors import CASES, batch_of, given, make, train
from vqpipe.priors import PRIORS
from vqpipe.priors.train import PriorTraining
from vqpipe.runtime.distributed import process_group, rank


def train_all(folder: Path) -> None:
    for kind, condition, groups in (case.values for case in CASES):
        if kind not in PRIORS._places:
            continue
        name = f"{kind}-{condition}-{groups}"
        prior = make(kind, condition, groups)
        # Each rank has images of its own.
        own = slice(4 * rank(), 4 * rank() + 4)
        batch = batch_of(prior, 8)[own], given(condition, 8).rows(own)
        inside = condition == "none" and PriorTraining(prior).hidden("main")
        optimizer = "muon" if inside else "adamw"
        weights = train(prior, [batch], 4, folder / name, optimizer=optimizer).weights
        save_file(
            {key: value.contiguous() for key, value in weights.items()},
            folder / f"{name}-{rank()}.safetensors",
        )


if __name__ == "__main__":
    with process_group():
        train_all(Path(sys.argv[1]))
