"""A board's tables and the papers' claims of their rows, read from `claims.yaml`, and the rule of the verdicts.

The file is next to the board's params. No verdict is written by hand: `judge` computes each from the rows' metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from vqpipe.boards.results import Estimate, Results
from vqpipe.params.base import read_yaml, validate
from vqpipe.params.bounded_yaml import GENERATED
from vqpipe.report.names import HIGHER, LOWER, measure
from vqpipe.tasks import TASKS

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced at this scale"
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
    - `no_rise`: no mean is above the first row's by more than `margin` of it;
    - `stays`: every mean differs from the first row's by at most `margin` of it;
    - `at_least`, `at_most`: every mean is at least (at most) `margin`.

    A row is above another where their 95 % intervals do not overlap; where one of the two has no interval, where
    the means differ by more than `margin` of the other's. There is no verdict before all seeds of the rows are there.

    With `paired`, numbers that have two or more seeds in common are compared seed by seed: runs of one seed share first
    weights, batches and test images, so the difference is known better than either number. A row is then above
    another where the 95 % interval of their differences (Student's t) is above 0.
    """

    text: str
    rows: tuple[str, ...] = ()
    metric: str = "psnr"
    relation: Relation = "rises"
    margin: float = 0.05
    untestable: str | None = None
    """Why the claim cannot be tested here, for any numbers of the rows: what this run lacks for it."""
    metrics: tuple[str, ...] = ()
    paired: bool = False
    cause: str = ""
    """Why its verdict differs from that of the earlier page, where it does and the reason is known."""

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
    pairs = _pairs(claim)
    differences = [results.difference(numbers[a], numbers[b]) if claim.paired else None for a, b in pairs]
    against = [text for text in _objections(claim, values, pairs, differences) if text]
    evidence = ", ".join(
        f"{name} {shown(metric, value)}"
        for name, (_, metric), value in zip(names, numbers, found, strict=True)
    )
    if not claim.metrics:
        evidence = f"{column(claim.metric).label}: {evidence}"
    if claim.relation in ("no_rise", "stays"):
        evidence += f"; within {100 * claim.margin:g} %"
    for (one, _), difference in zip(pairs, differences, strict=True):
        if difference is not None:
            evidence += f"; seed by seed {shown(numbers[one][1], difference, difference=True)}"
    departing = [row for row in dict.fromkeys(claim.rows) if results.departure(row)]
    note = [f"not in the form of VQGAN-LC's own code: {', '.join(departing)}"] if departing else []
    return Verdict(claim, NOT_REPRODUCED if against else REPRODUCED, "; ".join([evidence, *against, *note]))


def is_above(a: Estimate, b: Estimate, margin: float) -> bool:
    """Whether `a` is above `b` by the rule of `Claim`."""
    if _by_means(a, b):
        return a.mean - b.mean > margin * abs(b.mean)
    return a.low > b.high


def order(results: Results, row: str, other: str, metric: str) -> int:
    """1 where a row is above another, -1 where it is below, 0 where they cannot be distinguished; both have the metric.

    Rows with seeds in common are compared seed by seed, as paired claims are; where one of two rows has no interval,
    their means must differ by 5 %.
    """
    apart = results.difference((row, metric), (other, metric))
    if apart is not None:
        return int(apart.low > 0) - int(apart.high < 0)
    ours, theirs = results.estimate(row, metric), results.estimate(other, metric)
    assert ours is not None, row
    assert theirs is not None, other
    margin = 0.05 if _by_means(ours, theirs) else 0.0
    return is_above(ours, theirs, margin) - is_above(theirs, ours, margin)


def _by_means(a: Estimate, b: Estimate) -> bool:
    """Whether two numbers are compared by their means, since one of them has no interval."""
    return "none" in (a.source, b.source)


def _pairs(claim: Claim) -> list[tuple[int, int]]:
    """Which numbers are compared as above and below; none where they are judged by means alone."""
    count = len(claim.rows)
    if claim.relation in ("above_all", "below_all"):
        return [(0, other) for other in range(1, count)]
    if claim.relation in ("rises", "falls"):
        return [(row + 1, row) for row in range(count - 1)]  # the later row and the one before it
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
    if claim.relation == "at_most":
        return [
            f"{row} is above {margin:g}"
            for row, value in zip(rows, values, strict=True)
            if value.mean > margin
        ]
    if claim.relation == "stays":
        return [
            f"{row} differs from {rows[0]} by {_percent(abs(value.mean - first.mean) / abs(first.mean))}"
            for row, value in others
            if abs(value.mean - first.mean) > margin * abs(first.mean)
        ]
    if claim.relation == "no_rise":
        return [
            f"{row} is above {rows[0]} by {_percent((value.mean - first.mean) / abs(first.mean))}"
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
        above, below = is_above(value, other, margin), is_above(other, value, margin)
    if above if up else below:
        return ""
    if below if up else above:
        return f"{name} and {other_name} are in the opposite order"
    high, low = (value, other) if up else (other, value)
    if difference is None and _by_means(high, low) and high.mean > low.mean:
        share = (high.mean - low.mean) / abs(low.mean)
        asked = f"the claim asks for more than {100 * margin:g} %"
        return f"{name} and {other_name} differ by {_percent(share)}, and {asked}"
    return f"{name} and {other_name} cannot be distinguished"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


HEADS = {"fresh": "fresh heads", "own": "own heads"}
COUNTS = {1: "1 word", 3: "3 words"}
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
RANKS = (1, 5, 10)
IMAGES = {"reconstructions": "reconstructions", "completion": "completions"}
"""Images of a prior's column other than whole samples, by a part of the metric's name."""


@dataclass(frozen=True)
class BoardColumn:
    """`percent`: a share that is shown in percent; `better` as in `Measure`."""

    label: str
    digits: int
    percent: bool = False
    better: str = ""
    unit: str = ""


def column(name: str) -> BoardColumn:
    """How a metric of a row is shown; one that is not listed here, as in the report. That of a prior names it,
    and that of a task `KIND-INPUT` its input."""
    if name in COLUMNS:
        return COLUMNS[name]
    if name.startswith("prior."):
        _, prior, *path = name.split(".")
        own = column(path[-1])
        images = [label for part, label in IMAGES.items() if part in path]
        return replace(own, label=", ".join([own.label, *images, prior]))
    if name.startswith("task."):
        kind, _, seen = name.split(".")[1].partition("-")
        if seen and kind in TASKS:
            own = column(name.replace(f"{kind}-{seen}", kind, 1))
            return replace(own, label=f"{own.label}, {seen}")
    found = measure(name)
    return BoardColumn(
        found.label, found.digits, better=found.better, unit=found.unit if found.unit == "dB" else ""
    )


def head(name: str) -> str:
    """The column's head in a table."""
    found = column(name)
    unit = ", %" if found.percent else f", {found.unit}" if found.unit else ""
    return f"{found.label}{unit}{f' {found.better}' if found.better else ''}"


def shown(name: str, value: Estimate | None, difference: bool = False) -> str:
    """A number with its interval, as the tables print it; `missing` where there is none. A difference bears its sign,
    that of two shares is in points, and its interval may leave the range of a share."""
    if value is None:
        return "missing"
    found = column(name)
    scale, unit = (100.0, " points" if difference else " %") if found.percent else (1.0, "")

    def one(number: float) -> str:
        return f"{number * scale:{'+' if difference else ''}.{found.digits}f}"

    if value.source == "none" or value.low == value.high:
        return f"{one(value.mean)}{unit}"
    is_share = found.percent and not difference
    low, high = (max(value.low, 0.0), min(value.high, 1.0)) if is_share else (value.low, value.high)
    return f"{one(value.mean)}{unit} [{one(low)}, {one(high)}]"


def _tasks() -> Iterator[tuple[str, BoardColumn]]:
    """What the tasks on captions measure, `task.KIND.HEAD.NAME`."""
    for head, who in HEADS.items():
        for count, words in COUNTS.items():
            name = f"task.masked_words.{head}.masked_{count}"
            yield f"{name}.recall", BoardColumn(f"{words}, {who}", 1, True, HIGHER)
            yield f"{name}.other_image", BoardColumn(f"{words}, {who}, other image", 1, True)
            yield f"{name}.commonest", BoardColumn(f"{words}, commonest", 1, True)
            yield f"{name}.chance", BoardColumn(f"{words}, chance", 1, True)
        for direction, way in DIRECTIONS.items():
            for rank in RANKS:
                name = f"task.retrieval.{head}.{direction}"
                yield f"{name}.r{rank}", BoardColumn(f"{way} R@{rank}, {who}", 2, True, HIGHER)
                yield f"{name}.chance_r{rank}", BoardColumn(f"{way} R@{rank}, chance", 2, True)
        name = f"task.relations.{head}.similarity"
        yield f"{name}.raw.mse", BoardColumn(f"MSE, {who}", 4, better=LOWER)
        yield f"{name}.raw.chance", BoardColumn("MSE, drawn positions", 4)
        yield f"{name}.constant", BoardColumn("MSE, one cosine", 4)
        yield f"{name}.raw.correlation", BoardColumn(f"correlation, {who}", 3, better=HIGHER)
        yield f"{name}.same_position", BoardColumn(f"one position for both words, {who}", 1, True)


def _further() -> Iterator[tuple[str, BoardColumn]]:
    """What the other tasks measure of fresh heads, and on the inputs and rules that they are compared with."""
    share = partial(BoardColumn, digits=1, percent=True)
    name = "task.classification.fresh"
    yield f"{name}.top1", share("top-1", better=HIGHER)
    yield f"{name}.top5", share("top-5", better=HIGHER)
    yield f"{name}.other_image", share("top-1, other image")
    yield f"{name}.majority", share("top-1, majority")
    yield f"{name}.chance", share("top-1, chance")
    name = "task.vqa.fresh"
    yield f"{name}.accuracy", share("accuracy", better=HIGHER)
    for rule, label in ANSWERS.items():
        yield f"{name}.{rule}", share(f"accuracy, {label}")
    yield f"{name}.chance", share("accuracy, chance")
    for wups, at in (("wups_09", "WUPS at .9"), ("wups_00", "WUPS at 0")):
        yield f"{name}.{wups}", share(at, better=HIGHER)
        for rule, label in ANSWERS.items():
            yield f"{name}.{rule}_{wups}", share(f"{at}, {label}")
    for source, (label, better) in CAPTIONS.items():
        name = f"task.captioning.fresh.{source}"
        yield f"{name}.bleu_4", share(f"BLEU-4{label}", better=better)
        yield f"{name}.rouge_l", share(f"ROUGE-L{label}", better=better)
        yield f"{name}.cider_d", BoardColumn(f"CIDEr-D{label}", 3, better=better)
    for rule, (label, better) in BOXES.items():
        name = f"task.grounding.fresh.{rule}".rstrip(".")
        yield f"{name}.accuracy", share(f"Acc@0.5{label}", better=better)
        yield f"{name}.iou", share(f"mean IoU{label}", better=better)


ANSWERS = {"other_image": "other image", "majority_question": "majority of the question"}
"""Labels of answers that do not come from the image, by their name in the metrics."""
CAPTIONS = {
    "generated": ("", HIGHER), "other_image": (", other image", ""), "commonest": (", commonest caption", ""),
    "chance": (", drawn caption", ""), "human": (", human caption", ""),
    "generated_as_human": (", by the human's references", HIGHER),
}  # fmt: skip
"""Labels of captions by their source in the metrics, and which direction is better."""
BOXES = {
    "": ("", HIGHER), "alike": (", two alike", HIGHER), "other_image": (", other image", ""),
    "any_object": (", any object", ""), "name_box": (", name's box", ""), "best_box": (", best box", ""),
    "mean_box": (", mean box", ""),
}  # fmt: skip
"""The same of boxes."""

COLUMNS: dict[str, BoardColumn] = {
    "utilisation": BoardColumn("codes used", 1, True, HIGHER),
    "perplexity_share": BoardColumn("perplexity / K", 1, True, HIGHER),
    "bits_per_image": BoardColumn("bits", 0),
    "linear_probe": BoardColumn("linear probe", 1, True, HIGHER),
    "linear_probe_chance": BoardColumn("linear probe, chance", 1, True),
    "gfd_clip": BoardColumn("gFD-CLIP", 2, better=LOWER),
    **dict(_tasks()),
    **dict(_further()),
}
