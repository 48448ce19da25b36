"""The papers' claims as data, and the rule that gives each a verdict. No verdict is written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vqpipe.report.scoreboard.columns import column, shown
from vqpipe.report.scoreboard.results import Estimate, Results

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced at this scale"
NOT_TESTABLE = "not testable here"
NOT_RUN = "not run yet"

Relation = Literal["rises", "falls", "above_all", "below_all", "no_rise", "stays", "at_least"]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    `relation` is between the rows' numbers, in their order; those of `metric`, or of `metrics`, one for each row, which
    may then name a row twice:

    - `rises`, `falls`: each row lies above (below) the one before it;
    - `above_all`, `below_all`: the first row lies above (below) every other;
    - `no_rise`: no mean lies above the first row's by more than `margin` of it;
    - `stays`: every mean differs from the first row's by at most `margin` of it;
    - `at_least`: every mean is at least `margin`.

    A row lies above another where their 95 % intervals do not overlap; where one of the two has no interval, where
    the means differ by more than `margin` of the other's. There is no verdict before all seeds of the rows are there.

    With `paired`, numbers that have two or more seeds in common are compared seed by seed: runs of one seed share first
    weights, batches and test images, so the difference is known better than either number. A row then lies above
    another where the 95 % interval of their differences (Student's t) lies above 0.
    """

    text: str
    rows: tuple[str, ...] = ()
    metric: str = "psnr"
    relation: Relation = "rises"
    margin: float = 0.05
    untestable: str | None = None
    """Why the claim cannot be tested here, whatever the rows say: what it rests on that this run does not have."""
    metrics: tuple[str, ...] = ()
    paired: bool = False

    def numbers(self) -> list[tuple[str, str]]:
        """Row and metric of each number."""
        return list(zip(self.rows, self.metrics or (self.metric,) * len(self.rows), strict=True))

    def names(self) -> list[str]:
        """What each number is called: its row, and its metric where the numbers are not all of one."""
        return [f"{row}, {column(name).label}" if self.metrics else row for row, name in self.numbers()]


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
    pairs = _pairs(claim)
    differences = [results.difference(numbers[a], numbers[b]) if claim.paired else None for a, b in pairs]
    against = [text for text in _objections(claim, values, pairs, differences) if text]
    evidence = ", ".join(
        f"{name} {shown(metric, value)}"
        for name, (_, metric), value in zip(names, numbers, found, strict=True)
    )
    if not claim.metrics:
        evidence = f"{column(claim.metric).label}: {evidence}"
    for (one, _), difference in zip(pairs, differences, strict=True):
        if difference is not None:
            evidence += f"; seed by seed {shown(numbers[one][1], difference, difference=True)}"
    departing = [row for row in dict.fromkeys(claim.rows) if results.departure(row)]
    note = [f"not in the form of VQGAN-LC's own code: {', '.join(departing)}"] if departing else []
    return Verdict(claim, NOT_REPRODUCED if against else REPRODUCED, "; ".join([evidence, *against, *note]))


def lies_above(a: Estimate, b: Estimate, margin: float) -> bool:
    """Whether `a` lies above `b` by the rule of `Claim`."""
    if _by_means(a, b):
        return a.mean - b.mean > margin * abs(b.mean)
    return a.low > b.high


def _by_means(a: Estimate, b: Estimate) -> bool:
    """Whether two numbers are compared by their means, since one of them has no interval."""
    return "none" in (a.source, b.source)


def _pairs(claim: Claim) -> list[tuple[int, int]]:
    """Which numbers are compared as above and below; none where they are judged by means alone."""
    count = len(claim.rows)
    if claim.relation in ("above_all", "below_all"):
        return [(0, other) for other in range(1, count)]
    if claim.relation in ("rises", "falls"):
        return [(row + 1, row) for row in range(count - 1)]  # the later row beside the one before it
    return []


def _objections(
    claim: Claim,
    values: Sequence[Estimate],
    pairs: Sequence[tuple[int, int]],
    differences: Sequence[Estimate | None],
) -> list[str]:
    """Why the numbers do not show the claim, a text or nothing for each comparison."""
    rows, margin = claim.names(), claim.margin
    first, others = values[0], list(zip(rows[1:], values[1:], strict=True))
    if claim.relation == "at_least":
        return [
            f"{row} is below {margin:g}"
            for row, value in zip(rows, values, strict=True)
            if value.mean < margin
        ]
    if claim.relation == "stays":
        return [
            f"{row} differs from {rows[0]} by {abs(value.mean - first.mean) / abs(first.mean):.1%}"
            for row, value in others
            if abs(value.mean - first.mean) > margin * abs(first.mean)
        ]
    if claim.relation == "no_rise":
        return [
            f"{row} lies above {rows[0]} by {(value.mean - first.mean) / abs(first.mean):.1%}"
            for row, value in others
            if value.mean - first.mean > margin * abs(first.mean)
        ]
    up = claim.relation in ("rises", "above_all")
    return [
        _objection(rows[one], values[one], rows[other], values[other], up, margin, difference)
        for (one, other), difference in zip(pairs, differences, strict=True)
    ]


def _objection(
    name: str,
    value: Estimate,
    other_name: str,
    other: Estimate,
    up: bool,
    margin: float,
    difference: Estimate | None,
) -> str:
    if difference is not None:
        above, below = difference.low > 0, difference.high < 0
    else:
        above, below = lies_above(value, other, margin), lies_above(other, value, margin)
    if above if up else below:
        return ""
    if below if up else above:
        return f"{name} and {other_name} are the other way round"
    high, low = (value, other) if up else (other, value)
    if difference is None and _by_means(high, low) and high.mean > low.mean:
        share = (high.mean - low.mean) / abs(low.mean)
        return f"{name} and {other_name} differ by {share:.1%}, and the claim asks for more than {margin:.0%}"
    return f"{name} and {other_name} cannot be told apart"
