"""What the rows of a board measured: numbers with their intervals, and costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scipy import stats

from vqpipe.boards.board import Board, load_board
from vqpipe.errors import ArtifactError
from vqpipe.params.base import merged
from vqpipe.report.inputs import read_json

DEPARTURES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"kind": "ema"}, "cluster sizes start at 1, where VQGAN-LC's code starts them at 0 and so throws unused codes far "
     "out in the first steps"),
    ({"kind": "fc", "normalise": True}, "latents and codes are l2-normalised as in ViT-VQGAN, where VQGAN-LC's FC "
     "does not normalise and weighs the codebook term by 0.33"),
    ({"kind": "lc", "source": "random"}, "random vectors of the centroids' dimension go through the projector, where "
     "VQGAN-LC's code draws its random codes in the code's dimension (uniform in +-1/K, frozen)"),
)  # fmt: skip
"""Params by which a row is known that is not what VQGAN-LC's public code runs under that name, and the difference."""

Source = Literal["seeds", "images", "none"]


@dataclass(frozen=True)
class Estimate:
    """A row's number: the mean over its seeds and a 95 % interval.

    `source` says what the interval is over: `seeds` (Student's t), `images` (the bootstrap of one seed's images), or
    `none`, where one seed measured a number that is not a mean over images; `low` and `high` are then the mean.
    """

    mean: float
    low: float
    high: float
    source: Source
    num_seeds: int


@dataclass(frozen=True)
class Results:
    """All rows of one board: metrics and costs by row and seed; what was not run is not in them."""

    board: Board
    metrics: Mapping[str, Mapping[int, Mapping[str, Any]]]
    costs: Mapping[str, Mapping[int, Mapping[str, Any]]]

    def estimate(self, row: str, metric: str) -> Estimate | None:
        """A row's number, or None where no run of the row has it."""
        runs = [run for run in self.metrics.get(row, {}).values() if run.get(metric) is not None]
        values = [float(run[metric]) for run in runs]
        if not values:
            return None
        if len(values) > 1:
            return over_seeds(values)
        low, high = runs[0].get(f"{metric}_low"), runs[0].get(f"{metric}_high")
        if low is None or high is None:
            return Estimate(values[0], values[0], values[0], "none", 1)
        return Estimate(values[0], float(low), float(high), "images", 1)

    def difference(self, one: tuple[str, str], other: tuple[str, str]) -> Estimate | None:
        """Row and metric less row and metric, seed by seed; None with fewer than two seeds in common."""
        (a, name), (b, other_name) = one, other
        ours, theirs = self.metrics.get(a, {}), self.metrics.get(b, {})
        values = [
            float(ours[seed][name]) - float(theirs[seed][other_name])
            for seed in sorted(set(ours) & set(theirs))
            if ours[seed].get(name) is not None and theirs[seed].get(other_name) is not None
        ]
        return over_seeds(values) if len(values) > 1 else None

    def departure(self, row: str) -> str | None:
        """How a baseline's row differs from VQGAN-LC's own code, by its params; None where it does not."""
        quantizer = merged(self.board.common, self.board.rows.get(row, {})).get("quantizer", {})
        return next(
            (text for signs, text in DEPARTURES if all(quantizer.get(k) == v for k, v in signs.items())), None
        )

    def mean_cost(self, row: str, name: str) -> float | None:
        """The mean of a cost over the row's seeds, or None where it was not measured."""
        values = [float(c[name]) for c in self.costs.get(row, {}).values() if c.get(name) is not None]
        return statistics.fmean(values) if values else None

    def distinct(self, name: str) -> list[Any]:
        """The distinct values of a metrics entry over all runs, sorted as text."""
        return sorted(
            {run[name] for runs in self.metrics.values() for run in runs.values() if name in run}, key=str
        )

    def of_other_protocols(self, rows: Iterable[str] | None = None) -> dict[int, list[str]]:
        """Runs by the number of the protocol that they were made under, where it is not the board's; of all rows
        without `rows`."""
        found: dict[int, list[str]] = {}
        for row in self.metrics if rows is None else rows:
            for seed, run in self.metrics.get(row, {}).items():
                number = run.get("protocol", 0)
                if number != self.board.protocol:
                    found.setdefault(number, []).append(f"{row}-{seed}")
        return found

    def missing(self) -> list[str]:
        """Runs that the params file names and that have no metrics."""
        return [
            name for name, run in self.board.runs.items() if run.seed not in self.metrics.get(run.row, {})
        ]


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval of Student's t over two seeds or more."""
    mean, freedom = statistics.fmean(values), len(values) - 1
    half = float(stats.t.ppf(0.975, freedom)) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, "seeds", len(values))


def read_results(folder: Path) -> Results:
    """Read a board's params, metrics and costs; runs that are not there are left out.

    Raises:
        ParamsError: no params file, or one that is not valid.
        ArtifactError: a file that is no metrics file of the run that it is named after.
    """
    board = load_board(folder / "params.yaml")
    metrics: dict[str, dict[int, Mapping[str, Any]]] = {}
    costs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, run in board.runs.items():
        for into, kind in ((metrics, "metrics"), (costs, "cost")):
            path = folder / kind / f"{name}.json"
            if not path.is_file():
                continue
            content = read_json(path)
            if (content.get("row"), content.get("seed")) != (run.row, run.seed):
                raise ArtifactError(
                    f"{path} is not of run {name}",
                    found=f"row {content.get('row')}, seed {content.get('seed')}",
                )
            into.setdefault(run.row, {})[run.seed] = content
    return Results(board, metrics, costs)
