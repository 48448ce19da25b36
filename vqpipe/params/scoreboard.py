"""Params of the scoreboard: rows that differ in their quantizer, runs of them, one protocol.

Rows stay plain data until `Scoreboard.tokenizer` merges them over `common`, so that a field that is added to a model
with a neutral default makes no row another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.params.base import Params, merged, read_yaml, section_of, validate
from vqpipe.params.cluster import ClusterParams
from vqpipe.params.evaluate import EvaluateParams
from vqpipe.params.tokenizer import TokenizerParams

SECTIONS = ("protocol", "common", "evaluate", "rows", "runs")
"""What `load_scoreboard` reads; a scoreboard's file holds sections of other stages beside them."""


class RunParams(Params):
    """One training of one row."""

    row: str
    """A name in `rows`."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of weights, batches and augmentation, in place of `common.seed`."""
    codebook: str
    """Folder of the codebook prior under `artifacts/`."""


class Scoreboard(Params):
    """The sections that training and measuring a row rest on."""

    protocol: Annotated[int, Field(ge=1)]
    """Number of the protocol: raise it when the code changes what a row's numbers mean, and all rows are run again."""
    common: dict[str, Any]
    """What all rows share, as `tokenizer.common` of the main pipeline."""
    evaluate: EvaluateParams
    """How every row is measured."""
    rows: dict[str, dict[str, Any]]
    """What each row changes."""
    runs: dict[str, RunParams]
    """Runs by name: `ROW-SEED`."""
    clusters: dict[str, ClusterParams]
    """Codebooks of the scoreboard's own."""

    @model_validator(mode="after")
    def _runs_fit(self) -> Self:
        for name, run in self.runs.items():
            if run.row not in self.rows:
                raise ValueError(f"run {name} is of row {run.row}, which is not among the rows")
            if name != f"{run.row}-{run.seed}":
                raise ValueError(f"run {name} should be called {run.row}-{run.seed}")
        return self

    def identity(self, row: str, seed: int) -> dict[str, Any]:
        """What makes a row's result: plain JSON content, as written in the file.

        Raises:
            ParamsError: no such row.
        """
        self._known(row)
        return {
            "protocol": self.protocol, "row": row, "seed": seed,
            "tokenizer": merged(self.common, self.rows[row]),
            "evaluate": self.evaluate.model_dump(mode="json", exclude_unset=True),
        }  # fmt: skip

    def tokenizer(self, row: str, seed: int) -> TokenizerParams:
        """The params that a row is trained with.

        Raises:
            ParamsError: no such row, or its params are not valid.
        """
        self._known(row)
        whole = merged(merged(self.common, self.rows[row]), {"seed": seed})
        return validate(whole, f"rows.{row}", TokenizerParams, "the scoreboard's params")

    def _known(self, row: str) -> None:
        if row not in self.rows:
            raise ParamsError(
                f"the scoreboard has no row {row}{did_you_mean(row, list(self.rows))}",
                choices=list(self.rows),
            )


def load_scoreboard(path: Path) -> Scoreboard:
    """Read a scoreboard's params file.

    Raises:
        ParamsError: the file is missing, or a section is missing or wrong.
    """
    data = read_yaml(path)
    content = {name: section_of(data, name, path) for name in SECTIONS}
    return validate({**content, "clusters": data.get("clusters", {})}, "scoreboard", Scoreboard, path.name)
