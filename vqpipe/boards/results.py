"""What the rows of a board measured: numbers with their intervals, and costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from re import fullmatch
from typing import Any, Literal

from scipy import stats

from vqpipe.boards.board import Board, RunParams, load_board
from vqpipe.errors import ArtifactError
from vqpipe.params.base import merged
from vqpipe.report.inputs import read_json

DEPARTURES: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (lambda q: q.get("kind") == "ema" and q.get("initial_size", 1) != 0,
     "cluster sizes start at 1, where VQGAN-LC's code starts them at 0 and so throws unused codes far out in the first "
     "steps"),
    (lambda q: q.get("kind") == "fc" and q.get("normalise", False),
     "latents and codes are l2-normalised as in ViT-VQGAN, where VQGAN-LC's FC does not normalise and weighs the "
     "codebook term by 0.33"),
    (lambda q: q.get("kind") == "lc" and q.get("source") == "random",
     "random vectors of the centroids' dimension go through the projector, where VQGAN-LC's code draws its random "
     "codes in the code's dimension (uniform in +-1/K, frozen)"),
    (lambda q: q.get("kind") == "lc" and not q.get("projector", True) and q.get("source") != "uniform"
     and not q.get("normalise", False),
     "latents are compared with the centroids as they are, where VQGAN-LC's code gives latents length 1"),
)  # fmt: skip
"""By what params a quantizer is known that VQGAN-LC's public code does not run under that name, and the difference."""

NEAR = 0.01
"""Numbers of bits that differ by at most this share are taken as equal: FSQ's 1,000 codes and 1,024, say."""

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
class Use:
    """Use of the codes of a row over the test split, all groups of codes together."""

    num_tokens: int
    """Tokens of one group: N."""
    num_codes: int
    """Codes of all groups: K."""
    used: float
    """Codes that are used at least once, the mean over seeds."""
    uniform: float
    """Share of the codes that uniform sampling would use: 1 - exp(-N/K) of a group, their mean weighted by K."""


@dataclass(frozen=True)
class Results:
    """All rows of one board: metrics and costs by row and seed; what was not run under its protocol is not in them."""

    board: Board
    metrics: Mapping[str, Mapping[int, Mapping[str, Any]]]
    costs: Mapping[str, Mapping[int, Mapping[str, Any]]]
    other: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Runs whose metrics are of another protocol than the board's, by its number: they are no results of the board."""

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
        return next((text for departs, text in DEPARTURES if departs(quantizer)), None)

    def mean_cost(self, row: str, name: str) -> float | None:
        """The mean of a cost over the row's seeds, or None where it was not measured."""
        values = [float(c[name]) for c in self.costs.get(row, {}).values() if c.get(name) is not None]
        return statistics.fmean(values) if values else None

    def distinct(self, name: str) -> list[Any]:
        """The distinct values of a metrics entry over all runs, sorted as text."""
        return sorted(
            {run[name] for runs in self.metrics.values() for run in runs.values() if name in run}, key=str
        )

    def is_complete(self, *rows: str) -> bool:
        """Whether every run of these rows that the params file names is there, at least one for each."""
        planned = [run for run in self.board.runs.values() if run.row in rows]
        return {run.row for run in planned} == set(rows) and all(
            run.seed in self.metrics.get(run.row, {}) for run in planned
        )

    def value(self, row: str, name: str) -> Any:
        """A metrics entry of the row's first run that has it, or None: for what is the same in every run."""
        return next(
            (run[name] for run in self.metrics.get(row, {}).values() if run.get(name) is not None), None
        )

    def use(self, row: str) -> Use | None:
        """Tokens, codes, and codes that are used; None where no run of the row counted them."""
        runs = [found for run in self.metrics.get(row, {}).values() if (found := _use(run)) is not None]
        if not runs:
            return None
        return Use(
            runs[0].num_tokens, runs[0].num_codes, statistics.fmean(run.used for run in runs), runs[0].uniform
        )

    def equal_bits(self, rows: Iterable[str]) -> list[tuple[float, list[str]]]:
        """Bits an image and the rows that spend them, fewest bits first; rows without bits are left out.

        A group has the bits of most of its rows, and a row is in it where its bits are within `NEAR` of the group's
        first row's.
        """
        bits = {row: float(value) for row in rows if (value := self.value(row, "bits_per_image")) is not None}
        groups: list[list[str]] = []
        for row in sorted(bits, key=bits.__getitem__):
            if groups and bits[row] <= bits[groups[-1][0]] * (1 + NEAR):
                groups[-1].append(row)
            else:
                groups.append([row])
        return [(statistics.mode(bits[row] for row in own), own) for own in groups]

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
    board = load_board(folder / "params.yaml", Board)
    other: dict[int, list[str]] = {}
    metrics: dict[str, dict[int, Mapping[str, Any]]] = {}
    costs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for name, run in board.runs.items():
        found = {kind: _of_run(folder / kind / f"{name}.json", run) for kind in ("metrics", "cost")}
        content = found["metrics"]
        if content is not None and (number := content.get("protocol", 0)) != board.protocol:
            other.setdefault(number, []).append(name)
            continue
        for into, kind in ((metrics, "metrics"), (costs, "cost")):
            if (own := found[kind]) is not None:
                into.setdefault(run.row, {})[run.seed] = own
    return Results(board, metrics, costs, other)


def _of_run(path: Path, run: RunParams) -> Mapping[str, Any] | None:
    """The content of a run's file, None where it is not there."""
    if not path.is_file():
        return None
    content: Mapping[str, Any] = read_json(path)
    if (content.get("row"), content.get("seed")) != (run.row, run.seed):
        raise ArtifactError(
            f"{path} is not of run {run.row}-{run.seed}",
            found=f"row {content.get('row')}, seed {content.get('seed')}",
        )
    return content


def _use(run: Mapping[str, Any]) -> Use | None:
    """Use of the codes of all groups of one run."""
    groups = [name.removesuffix(".num_codes") for name in run if fullmatch(r"codes\.\w+\.num_codes", name)]
    if not groups:
        return None
    counts = [int(run[f"{group}.num_codes"]) for group in groups]

    def codes(name: str) -> float:
        return sum(run[f"{group}.{name}"] * count for group, count in zip(groups, counts, strict=True))

    even = codes("uniform_expectation") / sum(counts)
    return Use(int(run[f"{groups[0]}.num_tokens"]), sum(counts), codes("utilisation"), even)
