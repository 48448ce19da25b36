"""A board's tables and the papers' claims of their rows, read from `claims.yaml`, and the rule of the verdicts.

The file is next to the board's params. No verdict is written by hand: `judge` computes each from the rows' metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as checked

from vqpipe.boards.columns import column, shown
from vqpipe.boards.results import Estimate, Results
from vqpipe.params.base import read_yaml, validate
from vqpipe.params.bounded_yaml import GENERATED

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced at this scale"
UNDECIDED = "undecided at this scale"
NOT_TESTABLE = "not testable here"
NOT_RUN = "not run yet"

QUALITY = ("psnr", "ssim", "clip_distance", "fd_clip", "utilisation", "perplexity_share")
"""The columns of a table that names none."""
_FORM = ConfigDict(extra="forbid")

Relation = Literal["rises", "falls", "above_all", "below_all", "no_rise", "stays", "at_least", "at_most"]


@checked(frozen=True, config=_FORM)
class Claim:
    """One claim of a paper.

    `relation` is between the rows' numbers, in their order; those of `metric`, or of `metrics`, one for each row, which
    may then name a row twice:

    - `rises`, `falls`: each row is above (below) the one before it;
    - `above_all`, `below_all`: the first row is above (below) every other;
    - `no_rise`: no row is above the first by more than `margin` of the first's mean;
    - `stays`: every row differs from the first by at most `margin` of the first's mean;
    - `at_least`, `at_most`: every row is at least (at most) `margin`.

    Each of these is a statement about a difference, or for the last two about a number. It holds where the whole 95 %
    interval does, fails where no part of the interval does, and is undecided otherwise. Numbers that have two or more
    seeds in common are compared seed by seed (Student's t of the differences): runs of one seed share batches and test
    images. Others differ by what is between their intervals. Where one of the two has no interval, the means decide:
    a row is above another where its mean is above by more than `margin` of the other's.

    There is no verdict before all seeds of the rows are there. One comparison that fails is enough for "not
    reproduced", and one that is undecided for "undecided" otherwise.
    """

    text: str
    rows: tuple[str, ...] = ()
    metric: str = "psnr"
    relation: Relation = "rises"
    margin: float = 0.05
    untestable: str | None = None
    """Why the claim cannot be tested here, for any numbers of the rows: what this run lacks for it."""
    metrics: tuple[str, ...] = ()
    cause: str = ""
    """Why its verdict differs from that of the earlier page, where it does and the reason is known."""

    @model_validator(mode="after")
    def _compares(self) -> Self:
        """Refuse a claim without a comparison, which nothing could contradict."""
        least = 1 if self.relation in ("at_least", "at_most") else 2
        if self.untestable is None and len(self.rows) < least:
            raise ValueError(
                f"{self.relation} needs {least} or more rows, and the claim names {len(self.rows)}"
            )
        if self.metrics and len(self.metrics) != len(self.rows):
            raise ValueError(f"metrics are {len(self.metrics)}, and rows {len(self.rows)}: one for each row")
        return self

    def numbers(self) -> list[tuple[str, str]]:
        """Row and metric of each number."""
        return list(zip(self.rows, self.metrics or (self.metric,) * len(self.rows), strict=True))

    def names(self) -> list[str]:
        """What each number is called: its row, and its metric where the numbers are not all of one."""
        return [f"{row}, {column(name).label}" if self.metrics else row for row, name in self.numbers()]


def _labelled(rows: Any) -> Any:
    """Rows by label; a plain list has the rows' own names as labels."""
    if isinstance(rows, Mapping):
        return tuple(rows.items())
    return tuple((row, row) if isinstance(row, str) else row for row in rows)


@checked(frozen=True, config=_FORM)
class BoardTable:
    """One table of a board."""

    title: str
    about: str
    """What is compared, and how the setting differs from the paper's."""
    rows: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_labelled)] = ()
    """Label and row, in the paper's order."""
    claims: tuple[Claim, ...] = ()
    metrics: tuple[str, ...] = QUALITY
    """The columns, by the names of a row's metrics; K, seeds and bits an image are in front of them in every table."""


@checked(frozen=True, config=_FORM)
class BoardClaims:
    """What `claims.yaml` contains."""

    title: str
    run: str
    """The command that runs the board's rows."""
    tables: tuple[BoardTable, ...] = Field(min_length=1)
    about: str = ""
    """What the board's numbers are, in Markdown, where the page's own words do not state it."""
    protocols: dict[int, str] = Field(default_factory=dict)
    """What each number of the protocol means, where it was raised: the page counts the runs of an older one."""
    cause: str = ""
    """As `Claim.cause`, of the claims that state none."""
    causes: dict[str, str] = Field(default_factory=dict)
    """The same for single tables, by the start of their title up to a colon."""


def read_claims(folder: Path) -> BoardClaims:
    """The tables and claims of the board in a folder.

    Raises:
        ParamsError: no `claims.yaml`, or a field that is missing, unknown or of another type.
    """
    path = folder / "claims.yaml"
    found: BoardClaims = validate(read_yaml(path, GENERATED), "claims", BoardClaims, path.as_posix())
    return found


@dataclass(frozen=True)
class Verdict:
    """`outcome` is one of the module's constants; `evidence` the numbers behind it."""

    claim: Claim
    outcome: str
    evidence: str


def judge(claim: Claim, results: Results) -> Verdict:
    """The verdict on a claim from the numbers that are there."""
    if claim.untestable is not None:
        return Verdict(claim, NOT_TESTABLE, claim.untestable)
    numbers, names = claim.numbers(), claim.names()
    found = [results.estimate(row, metric) for row, metric in numbers]
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        lacking = [name for name, value in zip(names, found, strict=True) if value is None]
        return Verdict(claim, NOT_RUN, f"missing: {', '.join(lacking)}")
    if unfinished := [name for name in results.missing() if results.board.runs[name].row in claim.rows]:
        return Verdict(claim, NOT_RUN, f"missing: {', '.join(unfinished)}")
    checks = list(_checks(claim, results, values))
    evidence = ", ".join(
        f"{name} {shown(metric, value)}"
        for name, (_, metric), value in zip(names, numbers, found, strict=True)
    )
    if not claim.metrics:
        evidence = f"{column(claim.metric).label}: {evidence}"
    if claim.relation in ("no_rise", "stays"):
        evidence += f"; within {100 * claim.margin:g} %"
    for check in checks:
        if check.difference is not None:
            of = f"{check.between}, " if len(checks) > 1 else ""
            evidence += f"; {of}seed by seed {shown(numbers[0][1], check.difference, difference=True)}"
    against = [check.text for check in checks if not check.holds]
    departing = [row for row in dict.fromkeys(claim.rows) if results.departure(row)]
    note = [f"not in the form of VQGAN-LC's own code: {', '.join(departing)}"] if departing else []
    states = {check.holds for check in checks}
    outcome = NOT_REPRODUCED if False in states else UNDECIDED if None in states else REPRODUCED
    return Verdict(claim, outcome, "; ".join([evidence, *against, *note]))


def order(results: Results, row: str, other: str, metric: str) -> int:
    """1 where a row is above another, -1 where it is below, 0 where they cannot be distinguished; both have the metric.

    By the rule of `Claim`, with a margin of 5 % where one of the two has no interval.
    """
    gap = _gap(results, (row, metric), (other, metric))
    above, below = gap.is_above(0.05), gap.is_below(0.05)
    return int(above) - int(below)


@dataclass(frozen=True)
class _Gap:
    """One number less another, each of which is there."""

    one: Estimate
    other: Estimate
    low: float
    high: float
    """Of the difference's 95 % interval; both the difference of the means where one of the two has no interval."""
    paired: Estimate | None
    """The difference seed by seed, where two or more seeds are common."""

    @property
    def by_means(self) -> bool:
        return self.paired is None and "none" in (self.one.source, self.other.source)

    def is_above(self, margin: float) -> bool:
        return self.low > (margin * abs(self.other.mean) if self.by_means else 0.0)

    def is_below(self, margin: float) -> bool:
        return self.high < (-margin * abs(self.one.mean) if self.by_means else 0.0)


def _gap(results: Results, one: tuple[str, str], other: tuple[str, str]) -> _Gap:
    """The difference of two numbers, each a row and a metric that it has."""
    ours, theirs = results.estimate(*one), results.estimate(*other)
    assert ours is not None, one
    assert theirs is not None, other
    paired = results.difference(one, other)
    if paired is not None:
        low, high = paired.low, paired.high
    elif "none" in (ours.source, theirs.source):
        low = high = ours.mean - theirs.mean
    else:
        low, high = ours.low - theirs.high, ours.high - theirs.low
    return _Gap(ours, theirs, low, high, paired)


@dataclass(frozen=True)
class _Check:
    """One comparison of a claim."""

    holds: bool | None
    """None: undecided."""
    text: str
    """What is said where it does not hold."""
    between: str = ""
    """Which number less which."""
    difference: Estimate | None = None
    """Seed by seed."""


def _checks(claim: Claim, results: Results, values: Sequence[Estimate]) -> Iterator[_Check]:
    """The comparisons that a claim consists of; its numbers are there."""
    numbers, names, margin = claim.numbers(), claim.names(), claim.margin
    relation = claim.relation
    if relation in ("at_least", "at_most"):
        for name, value in zip(names, values, strict=True):
            low, high = value.low, value.high
            holds = _side(low, high, margin) if relation == "at_least" else _side(-high, -low, -margin)
            fails = f"{name} is {'below' if relation == 'at_least' else 'above'} {margin:g}"
            yield _Check(holds, fails if holds is False else f"the interval of {name} has {margin:g} in it")
    elif relation in ("no_rise", "stays"):
        bound = margin * abs(values[0].mean)
        for name, number in zip(names[1:], numbers[1:], strict=True):
            gap = _gap(results, number, numbers[0])
            holds = _side(-gap.high, -gap.low, -bound)
            if relation == "stays":
                both = (holds, _side(gap.low, gap.high, -bound))
                holds = False if False in both else None if None in both else True
            share = _percent(gap.other.mean and (gap.one.mean - gap.other.mean) / abs(gap.other.mean))
            yield _Check(
                holds,
                f"{name} differs from {names[0]} by {share}"
                if holds is False
                else f"the interval of {name} less {names[0]}, {share}, reaches beyond that",
                f"{name} less {names[0]}",
                gap.paired,
            )
    else:
        up = relation in ("rises", "above_all")
        for one, other in _pairs(claim):
            yield _apart(_gap(results, numbers[one], numbers[other]), names[one], names[other], up, margin)


def _side(low: float, high: float, bound: float) -> bool | None:
    """Whether an interval is at or above a bound, all of it, none of it or a part (None)."""
    return True if low >= bound else False if high < bound else None


def _pairs(claim: Claim) -> list[tuple[int, int]]:
    """Which numbers are compared as above and below."""
    count = len(claim.rows)
    if claim.relation in ("above_all", "below_all"):
        return [(0, other) for other in range(1, count)]
    return [(row + 1, row) for row in range(count - 1)]  # the later row and the one before it


def _apart(gap: _Gap, name: str, other: str, up: bool, margin: float) -> _Check:
    """Whether one number is above the other, or below it."""
    above, below = gap.is_above(margin), gap.is_below(margin)
    high, low = (gap.one, gap.other) if up else (gap.other, gap.one)
    holds = True if (above if up else below) else False if (below if up else above) else None
    if holds is False:
        text = f"{name} and {other} are in the opposite order"
    elif holds is None and gap.by_means and high.mean > low.mean:
        share = _percent((high.mean - low.mean) / abs(low.mean))
        text = f"{name} and {other} differ by {share}, and the claim asks for more than {100 * margin:g} %"
    else:
        text = f"{name} and {other} cannot be distinguished"
    return _Check(holds, text, f"{name} less {other}", gap.paired)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
