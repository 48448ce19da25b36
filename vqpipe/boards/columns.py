"""How the boards show a number: the label of its column, its digits and which direction is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from vqpipe.boards.results import Estimate
from vqpipe.report.names import HIGHER, LOWER, measure
from vqpipe.tasks import TASKS

HEADS = {"fresh": "fresh heads", "own": "own heads"}
COUNTS = {1: "1 word", 3: "3 words"}
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
RANKS = (1, 5, 10)
NOT_NEGATIVE = ("fd_clip", "gfd_clip", "clip_distance", "l1", "l2")
"""Distances and errors that cannot be below 0, by the end of their name."""
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
    """A number with its interval, as the tables print it; `missing` where there is none.

    The interval of a share or of a distance ends where its range does. A difference bears its sign, and that of two
    shares is in points.
    """
    if value is None:
        return "missing"
    found = column(name)
    scale, unit = (100.0, " points" if difference else " %") if found.percent else (1.0, "")

    def one(number: float) -> str:
        return f"{number * scale:{'+' if difference else ''}.{found.digits}f}"

    if value.source == "none" or value.low == value.high:
        return f"{one(value.mean)}{unit}"
    low, high = value.low, value.high
    if not difference and (found.percent or name.rsplit(".", 1)[-1] in NOT_NEGATIVE):
        low, high = max(low, 0.0), min(high, 1.0) if found.percent else high
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
