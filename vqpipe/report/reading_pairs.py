"""Plain tokenizers beside their aligned variants: each measure's difference, paired over images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vqpipe.report.blocks import Absent, Block, Cell, Column, Table, Text
from vqpipe.report.names import HIGHER, MEASURES, cell, change
from vqpipe.report.readings import COSINES, DIRECTIONS, RANKS, Pair, Reading, Values, paired

BETTER, WORSE, UNCLEAR, EQUAL = "better", "worse", "unclear", "equal"
"""What a change is."""


@dataclass(frozen=True)
class Judged:
    """A measure that is compared: its label, its name in `MEASURES`, and chance as text."""

    label: str
    name: str
    chance: str
    plain: Values
    aligned: Mapping[str, Values]


def alignment(readings: Sequence[Reading]) -> list[Block]:
    """A table for each aligned reading beside its plain one, and where to find what alignment did besides."""
    pairs = paired(readings)
    blocks: list[Block] = []
    lonely = [
        reading.label
        for reading in readings
        if reading.aligned and reading.name not in {pair.aligned.name for pair in pairs}
    ]
    if not any(reading.aligned for reading in readings):
        told = "Nothing to compare: no aligned tokenizer, one with align in its params, has been read."
        return [Absent(told)]
    if lonely:
        told = f"Without a plain tokenizer of the same kind that has been read: {', '.join(lonely)}."
        blocks.append(Absent(told))
    for pair in pairs:
        blocks += _compared(pair)
    if pairs:
        links = [
            ("quality of the reconstructions", "tokenizers"), ("time and memory of the training", "run"),
        ]  # fmt: skip
        blocks.append(Text("What alignment did to the pictures, and what it cost:", links))
    return blocks


def _compared(pair: Pair) -> list[Block]:
    plain, aligned = pair.plain, pair.aligned
    title = f"{aligned.label} beside {plain.label}"
    judged = list(_judged(pair))
    if not judged:
        told = "not both artifacts are in this checkout, or they hold no measure of the same images"
        return [Absent(f"{title}: {told}. Run: dvc pull, or dvc repro read")]
    rows, verdicts = [], []
    for item in judged:
        row = [
            Cell(item.label, _unit(item.name)),
            Cell(item.chance),
            cell(item.name, plain.interval(item.plain)),
        ]
        for reader in aligned.readers:
            values = item.aligned.get(reader)
            row.append(cell(item.name, aligned.interval(values)) if values else Cell("–"))
            found = aligned.difference(values, item.plain)
            if found is None:
                row += [Cell("–"), Cell("other images" if values else "–")]
                continue
            said = verdict(item.name, found)
            row += [change(item.name, found), said]
            if reader == "fresh":
                verdicts.append(said.text)
        rows.append(row)
    columns = [
        Column("measure", numeric=False),
        Column("chance", f"of {plain.label}"),
        Column(plain.label, "plain, fresh heads"),
    ]
    for reader in aligned.readers:
        columns += [
            Column(aligned.label, f"{reader} heads"), Column("change", "from plain"), Column("", numeric=False),
        ]  # fmt: skip
    counts = [(word, verdicts.count(word)) for word in (BETTER, WORSE, UNCLEAR, EQUAL)]
    told = ", ".join(f"{count} {word}" for word, count in counts if count)
    lead = f"{title}, by fresh heads: of {len(verdicts)} measures {told}."
    if not verdicts:
        lead = f"{title}: read on other images, so that no change is told."
    if pair.further:
        lead += f" The two differ in more than alignment: {'; '.join(pair.further)}."
    fresh = aligned.config.align.max_tokens
    if (own := (aligned.trained.get("align") or {}).get("max_tokens", fresh)) != fresh:
        lead += f" Own heads read {own} tokens of a caption, fresh ones {fresh}, so that other words may be masked."
    note = (
        "Change: the mean of the differences on each image, with its 95 % bootstrap interval; unclear where that holds "
        "0, equal where no image differs. Of twenty such verdicts about one comes from the draw of images alone. Own "
        "heads stand beside the plain tokenizer's fresh ones, as it has none of its own."
    )
    return [Text(lead), Table(title, columns, rows, note)]


def _judged(pair: Pair) -> Iterator[Judged]:
    """The measures that the plain reading has for images, in the order of the metrics."""
    metrics = pair.plain.metrics["fresh"]

    def of(label: str, name: str, key: str, chance: str) -> Iterator[Judged]:
        base = pair.plain.values.get(("fresh", key))
        own = {reader: values for (reader, k), values in pair.aligned.values.items() if k == key}
        if base and own:
            yield Judged(label, name, chance, base, own)

    for count in pair.plain.config.masked_counts:
        part, words = f"masked_{count}", "one masked word" if count == 1 else f"{count} masked words"
        if part in metrics:
            yield from of(f"{words}: recall@1", "masked_recall", f"{part}.recall",
                          cell("masked_recall", metrics[part]["chance"]).text)  # fmt: skip
            gain = {r: v for r in pair.aligned.readers if (v := pair.aligned.gain(r, part))}
            base = pair.plain.gain("fresh", part)
            if base and gain:
                yield Judged(
                    f"{words}: the codes' part", "masked_gain", cell("masked_gain", 0.0).text, base, gain
                )
    for way, said in DIRECTIONS.items():
        for rank in RANKS if way in metrics else ():
            chance = cell(rank, metrics[way][f"chance_{rank}"]).text
            yield from of(f"{said}: {MEASURES[rank].label}", rank, f"{way}.{rank}", chance)
    for kind, said in COSINES.items():
        if kind in metrics.get("similarity", {}):
            chance = cell("similarity_chance", metrics["similarity"][kind]["chance"]["mean"]).text
            yield from of(f"words and {said}: MSE", "similarity_mse", f"similarity.{kind}", chance)


def _unit(name: str) -> str:
    found = MEASURES[name]
    return ", ".join(part for part in (found.unit, found.better) if part)


def verdict(name: str, found: Mapping[str, float]) -> Cell:
    """Whether a change `{mean, low, high}` is one for the better; the measure says which way that is."""
    sign = 1 if MEASURES[name].better == HIGHER else -1
    low, high = sorted((sign * found["low"], sign * found["high"]))
    if low == high == 0:
        return Cell(EQUAL)
    if low > 0:
        return Cell(BETTER, tone="good")
    return Cell(WORSE, tone="bad") if high < 0 else Cell(UNCLEAR)
