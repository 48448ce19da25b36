"""The board of generation: each row is a tokenizer, trained once, with the priors that are trained on it.

What a prior measured is in a row's metrics as `prior.NAME.…`, next to the tokenizer's own numbers.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator

from vqpipe.artifacts.checkpoints import is_intact
from vqpipe.artifacts.publish import publish_sealed
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.boards.board import Board
from vqpipe.boards.row import Row, flat, train_row
from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.evaluation.judges import Judges
from vqpipe.params.base import validate
from vqpipe.params.names import Name
from vqpipe.priors import PRIORS, AnyPrior
from vqpipe.priors.contract import PriorParams
from vqpipe.priors.measure_prior import train_and_measure
from vqpipe.tokenizers.tokens import TokenSet, TokensParams, write_tokens
from vqpipe.vision.clip import Clip

COMMON = "common"
"""The entry of `priors` that the others share; a block in it that has the name of a kind is for this kind."""


class GenerationBoard(Board):
    """A board whose rows are measured, and then have priors trained on them, where it names some."""

    priors: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Priors by name, as `prior.pairs` of the main pipeline without `tokenizer` and `seed`, which are the run's; and
    what they share, `common`."""
    only: dict[Name, list[Name]] = Field(default_factory=dict)
    """The priors of a row that has not all of them."""

    @model_validator(mode="after")
    def _priors_fit(self) -> Self:
        if self.tasks is not None and self.priors:
            raise ValueError("tasks and priors are both set: the rows of a board have tasks or priors")
        for name, own in self.priors.items():
            if set(own) & {"tokenizer", "seed"}:
                raise ValueError(f"priors.{name} sets tokenizer or seed, which are the run's")
        for row, names in self.only.items():
            if row not in self.rows or not set(names) <= set(self.names):
                raise ValueError(f"only.{row} names a row or a prior that the board has not")
        return self

    @property
    def names(self) -> list[str]:
        """The priors' names."""
        return [name for name in self.priors if name != COMMON]

    def identity(self, row: str, seed: int) -> dict[str, Any]:
        """As that of every board, and the row's priors."""
        chosen = {name: self.priors[name] for name in self.only.get(row, self.names)}
        own = {"priors": {COMMON: self.priors.get(COMMON, {}), **chosen}} if chosen else {}
        return {**super().identity(row, seed), **own}

    def priors_of(self, row: str, seed: int) -> dict[str, PriorParams]:
        """The params of the priors of a row, by name.

        Raises:
            ParamsError: no such row, or params that are not valid.
        """
        self._known(row)
        found = {}
        for name in self.only.get(row, self.names):
            own = {**self.priors[name], "tokenizer": row, "seed": seed}
            whole = PRIORS.entry("priors", self.priors.get(COMMON, {}), own)
            found[name] = validate(whole, f"priors.{name}", AnyPrior, "the board's params")
        return found


def train_generation_row(
    board: GenerationBoard,
    row: str,
    seed: int,
    codebook: PretrainedCodebook,
    dataset: Path,
    clip: Clip,
    judges: Judges | None,
    *,
    scratch: Path,
    device: torch.device,
) -> Row:
    """Train and measure a tokenizer and all priors of its row; a killed run resumes, and measures no prior twice.

    Args:
        codebook: that of the run, or None.
        dataset: the dataset artifact.
        clip: the run's CLIP.
        judges: of the samples; None for none.
        scratch: folder of the checkpoints.

    Raises:
        MismatchError: a codebook that does not fit the quantizer, or data that lack what a prior is conditioned on.
        TrainingError: training that does not come back from non-finite losses.
    """
    config, title = board.tokenizer(row, seed), f"{row}-{seed}"
    own = train_row(
        config, board.evaluate, codebook, dataset, clip,
        scratch=scratch / "tokenizer", device=device, title=title, probe=board.probe,
    )  # fmt: skip
    write_tokens(dataset, own.tokenizer, scratch / "tokens", TokensParams(batch_size=100), device)
    metrics, cost = dict(own.metrics), dict(own.cost)
    for name, params in board.priors_of(row, seed).items():
        done = scratch / f"{name}.json"
        if not (done.is_file() and is_intact(lambda: read_sealed_json(done), f"{name} is measured again")):  # noqa: B023
            begun = time.process_time()
            trained = train_and_measure(
                params, TokenSet.open(scratch / "tokens"), own.tokenizer, dataset, clip, judges=judges,
                scratch=scratch / name, curves=None, device=device, title=f"{title}, {name}",
            )  # fmt: skip
            assert trained is not None, "one process"
            spent = {"cpu_seconds": round(time.process_time() - begun, 3), **trained.cost}
            publish_sealed(done, {"metrics": trained.metrics.plain(), "cost": spent})
        found = read_sealed_json(done)
        metrics |= flat(found["metrics"], f"prior.{name}")
        cost |= flat(found["cost"], f"prior.{name}")
    return replace(own, metrics=metrics, cost=cost)
