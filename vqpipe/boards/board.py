"""Params of a board: rows that differ in their quantizer or alignment, runs of them, one protocol.

Rows stay plain data until `Board.tokenizer` merges them over `common`, so that a field that is added to a model
with a neutral default makes no row another one. So does `tasks` until `Board.tasks_of` adds their tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, model_validator

from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.evaluation.measure import EvaluateParams
from vqpipe.evaluation.probe import ProbeParams
from vqpipe.params.base import Params, merged, read_yaml, section_of, validate
from vqpipe.params.names import Name, NamePath
from vqpipe.tasks.task import TaskParams, tasks_of
from vqpipe.tokenizers.tokenizer import TokenizerParams
from vqpipe.vision.cluster import ClusterParams

SECTIONS = ("protocol", "common", "evaluate", "rows", "runs")
"""What every board has; `load_board` also reads what its model has a field for, and other stages have sections too."""
SHARED = ("common", "evaluate")
"""Sections that a board takes from the one that it names as its `base`, its own merged over them; `probe` is taken from
it whole, where the board has none."""


class RunParams(Params):
    """One training of one row."""

    row: Name
    """A name in `rows`."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of weights, batches and augmentation, in place of `common.seed`."""
    codebook: NamePath
    """Folder of the codebook under `artifacts/`."""


class Board(Params):
    """The sections that training and measuring a row need."""

    protocol: Annotated[int, Field(ge=1)]
    """Number of the protocol: raise it when the code changes what a row's numbers mean, and all rows are run again."""
    common: dict[str, Any]
    """What all rows share, as `tokenizer.common` of the main pipeline."""
    evaluate: EvaluateParams
    """How every row is measured."""
    rows: dict[Name, dict[str, Any]]
    """What each row changes."""
    runs: dict[Name, RunParams]
    """Runs by name: `ROW-SEED`."""
    clusters: dict[Name, ClusterParams] = Field(default_factory=dict)
    """Codebooks of the board's own."""
    probe: ProbeParams | None = None
    """The linear probe of every row; null or absent for none."""
    tasks: dict[str, Any] | None = None
    """What is solved from every row after it is measured, as `task.common` of the main pipeline; null for nothing. The
    tasks' seed is the run's own."""

    @model_validator(mode="after")
    def _runs_fit(self) -> Self:
        for name, run in self.runs.items():
            if run.row not in self.rows:
                raise ValueError(f"run {name} is of row {run.row}, which is not among the rows")
            if name != f"{run.row}-{run.seed}":
                raise ValueError(f"run {name} should be called {run.row}-{run.seed}")
        if self.tasks is not None and "tokenizer" in self.tasks:
            raise ValueError("tasks.tokenizer is set, and the tasks are solved from every row")
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
            **({} if self.probe is None else {"probe": self.probe.model_dump(mode="json", exclude_unset=True)}),
            **({} if self.tasks is None else {"tasks": self.tasks}),
        }  # fmt: skip

    def tokenizer(self, row: str, seed: int) -> TokenizerParams:
        """The params that a row is trained with.

        Raises:
            ParamsError: no such row, or its params are not valid.
        """
        self._known(row)
        whole = merged(merged(self.common, self.rows[row]), {"seed": seed})
        return validate(whole, f"rows.{row}", TokenizerParams, "the board's params")

    def tasks_of(self, row: str, seed: int) -> dict[str, TaskParams]:
        """The tasks that are solved from a row, by kind; none on a board without `tasks`.

        The run's seed is the tasks' too: the interval over seeds then contains the chance of the heads and of the
        captions drawn, and rows of one seed have the same heads and captions.

        Raises:
            ParamsError: no such row, or the section is not valid.
        """
        self._known(row)
        if self.tasks is None:
            return {}
        return tasks_of(self.tasks, "the board's params", tokenizer=row, seed=seed)

    def plain(self, row: str) -> str | None:
        """The row that has the same params as this one but for its alignment, of which it has none; None for none.

        Raises:
            ParamsError: no such row.
        """
        self._known(row)

        def split(name: str) -> tuple[Any, dict[str, Any]]:
            whole = merged(self.common, self.rows[name])
            return whole.get("align"), {key: value for key, value in whole.items() if key != "align"}

        align, rest = split(row)
        if align is None:
            return None
        return next((other for other in self.rows if split(other) == (None, rest)), None)

    def _known(self, row: str) -> None:
        if row not in self.rows:
            raise ParamsError(
                f"the board has no row {row}{did_you_mean(row, list(self.rows))}",
                choices=list(self.rows),
            )


B = TypeVar("B", bound=Board)


def load_board(path: Path, model: type[B]) -> B:
    """Read a board's params file; with `base: FILE`, a path from its own folder, over what that file shares.

    Args:
        path: the params file.
        model: `Board`, or one with further sections, such as `GenerationBoard`; both read the file of any board.

    Raises:
        ParamsError: the file or its base is missing, or a section is missing or wrong.
    """
    data = _with_base(read_yaml(path), path)
    content = {name: section_of(data, name, path) for name in SECTIONS}
    further = {name: data[name] for name in model.model_fields if name in data}
    return validate({**content, **further}, "board", model, path.name)


def _with_base(data: dict[str, Any], path: Path) -> dict[str, Any]:
    if "base" not in data:
        return data
    if not isinstance(data["base"], str):
        raise ParamsError(
            f"{path.name}: base is no path", found=repr(data["base"]), expected="such as ../params.yaml"
        )
    file = path.parent / data["base"]
    base = read_yaml(file)
    if "base" in base:
        raise ParamsError(
            f"{path.name}: base names a board that has a base itself",
            found=data["base"],
            expected="the board that states common and evaluate whole",
        )
    shared = {name: merged(section_of(base, name, file), data.get(name, {})) for name in SHARED}
    return {"probe": base.get("probe"), **data, **shared}
