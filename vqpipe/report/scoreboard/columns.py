"""How the scoreboard shows a number: its label, its scale, and which way is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vqpipe.report.names import HIGHER, LOWER, measure
from vqpipe.report.scoreboard.results import Estimate

READERS = {"fresh": "fresh heads", "own": "own heads"}
COUNTS = {1: "1 word", 3: "3 words"}
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
RANKS = (1, 5, 10)


@dataclass(frozen=True)
class BoardColumn:
    """`percent`: a share that is shown in percent; `better` as in `Measure`."""

    label: str
    digits: int
    percent: bool = False
    better: str = ""
    unit: str = ""


def column(name: str) -> BoardColumn:
    """How a metric of a row is shown; one that is not listed here, as in the report."""
    if name in COLUMNS:
        return COLUMNS[name]
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
    and its interval may leave the range of a share."""
    if value is None:
        return "missing"
    found = column(name)
    scale, unit = (100.0, " %") if found.percent else (1.0, "")

    def one(number: float) -> str:
        return f"{number * scale:{'+' if difference else ''}.{found.digits}f}"

    if value.source == "none" or value.low == value.high:
        return f"{one(value.mean)}{unit}"
    is_share = found.percent and not difference
    low, high = (max(value.low, 0.0), min(value.high, 1.0)) if is_share else (value.low, value.high)
    return f"{one(value.mean)}{unit} [{one(low)}, {one(high)}]"


def _read() -> Iterator[tuple[str, BoardColumn]]:
    """What is read from the codes; see `vqpipe.reading.measure.measure_reading`."""
    for reader, who in READERS.items():
        for count, words in COUNTS.items():
            name = f"read.{reader}.masked_{count}"
            yield f"{name}.recall", BoardColumn(f"{words}, {who}", 1, True, HIGHER)
            yield f"{name}.other_image", BoardColumn(f"{words}, {who}, other image", 1, True)
            yield f"{name}.commonest", BoardColumn(f"{words}, commonest", 1, True)
            yield f"{name}.chance", BoardColumn(f"{words}, chance", 1, True)
        for direction, way in DIRECTIONS.items():
            for rank in RANKS:
                name = f"read.{reader}.{direction}"
                yield f"{name}.r{rank}", BoardColumn(f"{way} R@{rank}, {who}", 2, True, HIGHER)
                yield f"{name}.chance_r{rank}", BoardColumn(f"{way} R@{rank}, chance", 2, True)
        name = f"read.{reader}.similarity"
        yield f"{name}.raw.mse", BoardColumn(f"MSE, {who}", 4, better=LOWER)
        yield f"{name}.raw.chance", BoardColumn("MSE, drawn positions", 4)
        yield f"{name}.constant", BoardColumn("MSE, one cosine", 4)
        yield f"{name}.raw.correlation", BoardColumn(f"correlation, {who}", 3, better=HIGHER)
        yield f"{name}.same_position", BoardColumn(f"one position for both words, {who}", 1, True)


COLUMNS: dict[str, BoardColumn] = {
    "utilisation": BoardColumn("codes used", 1, True, HIGHER),
    "perplexity_share": BoardColumn("perplexity / K", 1, True, HIGHER),
    "bits_per_image": BoardColumn("bits", 0),
    **dict(_read()),
}
