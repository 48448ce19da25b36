"""The task runs that were measured, and the differences between aligned and plain tokenizers, paired over images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import MANIFEST
from vqpipe.artifacts.specs.task import TASK_PER_IMAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import counted
from vqpipe.metrics.measured import Interval, interval
from vqpipe.params.base import merged, validate
from vqpipe.params.leaves import leaves
from vqpipe.report.blocks import Absent, Block, Cell, Column, Table, Text
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import HIGHER, MEASURES, cell, change
from vqpipe.tasks import TASKS
from vqpipe.tasks.masked_words import MaskedWordsMetrics
from vqpipe.tasks.relations import WordRelationsMetrics
from vqpipe.tasks.retrieval import RetrievalMetrics
from vqpipe.tasks.task import TaskMetrics, TaskParams, task_entry

RANKS = ("r1", "r5", "r10")
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}
COSINES = {"raw": "code vectors", "projected": "projected code vectors"}
"""The two kinds of cosines between codes."""

BY_EXAMPLE: dict[str, dict[str, tuple[str, str]]] = {
    "classification": {"top1": ("class: top-1", "class_top1"), "top5": ("class: top-5", "class_top5")},
    "captioning": {
        "generated.cider_d": ("caption: CIDEr-D", "caption_cider_d"),
        "generated.rouge_l": ("caption: ROUGE-L", "caption_rouge_l"),
    },
    "vqa": {
        "accuracy": ("answer: accuracy", "vqa_accuracy"),
        "wups_09": ("answer: WUPS 0.9", "wups_09"),
    },
    "grounding": {"accuracy": ("box: Acc@0.5", "box_accuracy"), "iou": ("box: mean IoU", "box_iou")},
}
"""By the kind of task, the measures that are compared example by example, the main one first: label and name in
`MEASURES`."""

Values = Mapping[str, float]
"""A measure's value by image id."""


@dataclass(frozen=True)
class TaskRun:
    """A pair of `task.pairs` whose metrics are there; `trained` are its tokenizer's params, `config` its own."""

    name: str
    folder: Path
    metrics: TaskMetrics[Any]
    trained: Mapping[str, Any]
    config: TaskParams
    label: str
    """The tokenizer's name, or what else the head saw; the pair's too, where several pairs have one task and input."""

    @property
    def of_codes(self) -> bool:
        """Whether the head saw the tokenizer's codes, and not what they are compared with."""
        return self.config.input == "codes"

    @property
    def aligned(self) -> bool:
        """Whether its tokenizer was trained with alignment losses."""
        return self.trained.get("align") is not None

    @property
    def heads(self) -> dict[str, Metrics]:
        """The metrics of the fresh head, and of the one that the tokenizer was aligned with."""
        own: dict[str, Metrics] = {} if self.metrics.own is None else {"own": self.metrics.own}
        return {"fresh": self.metrics.fresh, **own}

    @property
    def has_tables(self) -> bool:
        """Whether the artifact is there as well as its metrics."""
        return (self.folder / MANIFEST).is_file()

    @cached_property
    def values(self) -> Mapping[tuple[str, str], Values]:
        """Each measure's values by image, for (head, measure); empty without the artifact.

        Raises:
            ArtifactError: the table is damaged or of another version.
        """
        if not self.has_tables:
            return {}
        table = read_table(self.folder / "per_image.parquet", TASK_PER_IMAGE)
        found: dict[tuple[str, str], dict[str, float]] = {}
        columns = (table[name].to_pylist() for name in ("head", "measure", "image_id", "value"))
        for head, measure, image_id, value in zip(*columns, strict=True):
            found.setdefault((head, measure), {})[image_id] = value
        return found

    def gain(self, head: str, part: str) -> Values | None:
        """What the codes add to the recall of masked words, by image; None where that was not measured."""
        own = self.values.get((head, f"{part}.recall"))
        other = self.values.get((head, f"{part}.other_image"))
        if own is None or other is None or own.keys() != other.keys():
            return None
        return {image: value - other[image] for image, value in own.items()}

    def difference(self, values: Values | None, base: Values | None) -> Interval | None:
        """The mean of `values` minus `base`, image by image, with its paired-bootstrap 95 % interval.

        None where one side was not measured, or the two were not measured on the same images.
        """
        if not values or not base or values.keys() != base.keys():
            return None
        return self.interval({image: value - base[image] for image, value in values.items()})

    def interval(self, values: Values) -> Interval:
        """The mean over images with its bootstrap 95 % interval."""
        return interval(
            np.array([values[i] for i in sorted(values)]), self.config.num_bootstrap, self.config.seed
        )


@dataclass(frozen=True)
class Pair:
    """A task solved from an aligned tokenizer and from a plain one; `further`: their other differences in params."""

    plain: TaskRun
    aligned: TaskRun
    further: Sequence[str]


def task_runs(inputs: Inputs) -> list[TaskRun]:
    """Every pair whose metrics are there, in the order of the params file.

    Raises:
        ParamsError: params of a pair that do not fit the stage.
    """
    section, tokenizer = inputs.params.get("task", {}), inputs.params.get("tokenizer", {})
    trained = {
        name: merged(tokenizer.get("common", {}), own or {})
        for name, own in tokenizer.get("variants", {}).items()
    }
    configs: dict[str, TaskParams] = {
        name: validate(task_entry(section.get("common", {}), section["pairs"][name]), f"task.pairs.{name}",
                       TASKS.params())
        for name in inputs.task
    }  # fmt: skip
    seen = {name: name_of(config, inputs.task[name]) for name, config in configs.items()}
    count = [(config.kind, seen[name]) for name, config in configs.items()]
    runs = []
    for name, config in configs.items():
        several = count.count((config.kind, seen[name])) > 1
        label = f"{seen[name]} ({name})" if several else seen[name]
        own = trained.get(config.tokenizer, {})
        runs.append(TaskRun(name, inputs.folder("task", name), inputs.task[name], own, config, label))
    return runs


REFERENCES = {
    "latents": "latents of {} before quantising",
    "clip": "features of the run's CLIP",
    "patches": "k-means codes of raw patches, bits of {}",
    "none": "no image",
}
"""How the inputs are called that codes are compared with, best first; with a tokenizer's name."""


def name_of(config: TaskParams, metrics: TaskMetrics[Any]) -> str:
    """What a head saw, for readers. CLIP's features and nothing at all are the same for each tokenizer."""
    found = REFERENCES.get(config.input)
    if found is None:
        return config.tokenizer
    capped = ", capped" if metrics.protocol.input.endswith("_capped") else ""
    return found.format(config.tokenizer) + capped


def parted(runs: Sequence[TaskRun]) -> tuple[list[TaskRun], list[TaskRun]]:
    """Runs on codes, and those on other inputs in the order of `REFERENCES`."""
    kinds = list(REFERENCES)
    others = [run for run in runs if not run.of_codes]
    return [run for run in runs if run.of_codes], sorted(
        others, key=lambda run: kinds.index(run.config.input)
    )


def of_kind(runs: Sequence[TaskRun], kind: str) -> list[TaskRun]:
    """The runs of one task."""
    return [run for run in runs if run.config.kind == kind]


def paired(runs: Sequence[TaskRun]) -> list[Pair]:
    """Each run on an aligned tokenizer with the run of the same task on the plain one nearest to it.

    Nearest: the same kind of quantizer, and the fewest params that differ; of equally near ones the first.
    """
    pairs = []
    for aligned in (run for run in runs if run.aligned and run.of_codes):
        found = [
            Pair(plain, aligned, _further(plain, aligned))
            for plain in of_kind(runs, aligned.config.kind)
            if plain.of_codes and not plain.aligned and _quantizer(plain) == _quantizer(aligned)
        ]
        if found:
            pairs.append(min(found, key=lambda pair: len(pair.further)))
    return pairs


def families(runs: Sequence[TaskRun]) -> list[list[TaskRun]]:
    """Runs that are shown together: a plain one with its aligned ones; those without another are one last family."""
    groups: dict[str, list[TaskRun]] = {}
    for pair in paired(runs):
        groups.setdefault(pair.plain.name, [pair.plain]).append(pair.aligned)
    shown = {run.name for family in groups.values() for run in family}
    alone = [run for run in runs if run.name not in shown]
    return [*groups.values(), *([alone] if alone else [])]


def _quantizer(run: TaskRun) -> Any:
    return run.trained.get("quantizer", {}).get("kind")


def _further(plain: TaskRun, aligned: TaskRun) -> list[str]:
    """Differences other than alignment: params of the tokenizers, then of the task."""
    found = []
    for name, of in (("tokenizer", _tokenizer_params), ("task", _task_params)):
        a, b = of(plain), of(aligned)
        found += [
            f"{name}.{key} ({_text(a.get(key))} and {_text(b.get(key))})"
            for key in dict.fromkeys([*a, *b])
            if a.get(key) != b.get(key)
        ]
    return found


def _tokenizer_params(run: TaskRun) -> dict[str, Any]:
    return _flat({key: value for key, value in run.trained.items() if key != "align"})


def _task_params(run: TaskRun) -> dict[str, Any]:
    return _flat(run.config.model_dump(mode="json", by_alias=True, exclude={"tokenizer", "num_pictures"}))


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    return {".".join(path): value for path, value in leaves(content)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


BETTER, WORSE, UNCLEAR, EQUAL = "better", "worse", "unclear", "equal"
"""What a change is."""


@dataclass(frozen=True)
class Compared:
    """A measure of a pair: its label, its name in `MEASURES`, chance as text, and its values by image."""

    pair: Pair
    label: str
    name: str
    chance: str
    plain: Values
    aligned: Mapping[str, Values]
    """By head."""


def alignment(runs: Sequence[TaskRun]) -> list[Block]:
    """A table for each aligned tokenizer and its plain one, and links to the other effects of alignment."""
    if not any(run.aligned and run.of_codes for run in runs):
        return [
            Absent("Nothing to compare: no task was solved from an aligned tokenizer (align in its params).")
        ]
    pairs = paired(runs)
    blocks: list[Block] = []
    kinds = {run.config.kind for run in runs if not _compared(run)}
    if kinds:
        blocks.append(Absent(f"Tasks that have no comparison by image: {', '.join(sorted(kinds))}."))
    alone = {run.label for run in runs if run.aligned and run.of_codes} - {
        pair.aligned.label for pair in pairs
    }
    if alone:
        blocks.append(
            Absent(f"Without a plain tokenizer of the same kind and task: {', '.join(sorted(alone))}.")
        )
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        if not _compared(pair.plain):
            continue
        groups.setdefault((pair.plain.label, pair.aligned.label), []).append(pair)
    for (plain, aligned), own in groups.items():
        blocks += _comparison(plain, aligned, own)
    if pairs:
        links = [("quality of the reconstructions", "tokenizers"), ("time and memory of the training", "run")]
        blocks.append(Text("What alignment changes in the reconstructions, and what it costs:", links))
    return blocks


def _comparison(plain: str, aligned: str, pairs: Sequence[Pair]) -> list[Block]:
    title = f"{aligned} compared with {plain}"
    compared = [measure for pair in pairs for measure in _measures(pair)]
    if not compared:
        reason = "not all artifacts are in this checkout, or they have no measure of the same images"
        return [Absent(f"{title}: {reason}. Run: dvc pull, or dvc repro task")]
    heads = ["fresh", *(["own"] if any("own" in pair.aligned.heads for pair in pairs) else [])]
    rows, verdicts = [], []
    for item in compared:
        run = item.pair.aligned
        row = [
            Cell(item.label, _unit(item.name)), Cell(item.chance),
            cell(item.name, item.pair.plain.interval(item.plain)),
        ]  # fmt: skip
        for head in heads:
            values = item.aligned.get(head)
            row.append(cell(item.name, run.interval(values)) if values else Cell("–"))
            found = run.difference(values, item.plain)
            if found is None:
                row += [Cell("–"), Cell("other images" if values else "–")]
                continue
            outcome = verdict(item.name, found)
            row += [change(item.name, found), outcome]
            if head == "fresh":
                verdicts.append(outcome.text)
        rows.append(row)
    columns = [
        Column("measure", numeric=False), Column("chance", f"of {plain}"), Column(plain, "plain, fresh heads"),
    ]  # fmt: skip
    for head in heads:
        columns += [
            Column(aligned, f"{head} heads"), Column("change", "from plain"), Column("", numeric=False),
        ]  # fmt: skip
    counts = [(word, verdicts.count(word)) for word in (BETTER, WORSE, UNCLEAR, EQUAL)]
    summary = ", ".join(f"{count} {word}" for word, count in counts if count)
    lead = f"{title}, by fresh heads: of {counted(len(verdicts), 'measure')} {summary}."
    if not verdicts:
        lead = f"{title}: measured on different images, so no change is computed."
    if further := list(dict.fromkeys(text for pair in pairs for text in pair.further)):
        lead += f" The two differ in more than alignment: {'; '.join(further)}."
    note = (
        "Change: the mean of the differences on each example, with its 95 % bootstrap interval; unclear where that "
        "contains 0, equal where none differs. Of twenty such verdicts about one is due to the draw of examples. The "
        "intervals are over examples of one training run each and leave out the chance of the training, so a "
        "difference here may not hold over seeds; the board of tasks (docs/scoreboard.md) judges it over three. Own "
        "heads, which a plain tokenizer does not have, are compared with its fresh ones."
    )
    return [Text(lead), Table(title, columns, rows, note)]


def _compared(run: TaskRun) -> bool:
    """Whether the run's measures are compared example by example."""
    own = (MaskedWordsMetrics, RetrievalMetrics, WordRelationsMetrics)
    return run.config.kind in BY_EXAMPLE or isinstance(run.metrics.fresh, own)


def _measures(pair: Pair) -> Iterator[Compared]:
    """The measures that both runs have by image, in the order of the metrics."""
    plain, metrics = pair.plain, pair.plain.metrics.fresh

    def of(label: str, name: str, key: str, chance: str) -> Iterator[Compared]:
        base = plain.values.get(("fresh", key))
        own = {head: values for (head, k), values in pair.aligned.values.items() if k == key}
        if base and own:
            yield Compared(pair, label, name, chance, base, own)

    for key, (label, name) in BY_EXAMPLE.get(plain.config.kind, {}).items():
        chance = getattr(metrics, "chance", None) if name in ("class_top1", "vqa_accuracy") else None
        yield from of(label, name, key, "–" if chance is None else cell(name, chance).text)
    if isinstance(metrics, MaskedWordsMetrics):
        for count, found in metrics.counts.items():
            part, words = f"masked_{count}", "one masked word" if count == 1 else f"{count} masked words"
            chance = cell("masked_recall", found.chance).text
            yield from of(f"{words}: recall@1", "masked_recall", f"{part}.recall", chance)
            gain = {head: v for head in pair.aligned.heads if (v := pair.aligned.gain(head, part))}
            base = plain.gain("fresh", part)
            if base and gain:
                zero = cell("masked_gain", 0.0).text
                yield Compared(pair, f"{words}: gain from the codes", "masked_gain", zero, base, gain)
    if isinstance(metrics, RetrievalMetrics):
        for way, words in DIRECTIONS.items():
            for rank in RANKS:
                chance = cell(rank, getattr(getattr(metrics, way), f"chance_{rank}")).text
                yield from of(f"{words}: {MEASURES[rank].label}", rank, f"{way}.{rank}", chance)
    if isinstance(metrics, WordRelationsMetrics):
        for kind, words in COSINES.items():
            if (cosines := getattr(metrics.similarity, kind)) is not None:
                chance = cell("similarity_chance", cosines.chance.mean).text
                yield from of(f"words and {words}: MSE", "similarity_mse", f"similarity.{kind}", chance)


def _unit(name: str) -> str:
    found = MEASURES[name]
    return ", ".join(part for part in (found.unit, found.better) if part)


def verdict(name: str, found: Interval) -> Cell:
    """Whether a change is for the better; the measure states which way that is."""
    sign = 1 if MEASURES[name].better == HIGHER else -1
    low, high = sorted((sign * found.low, sign * found.high))
    if low == high == 0:
        return Cell(EQUAL)
    if low > 0:
        return Cell(BETTER, tone="good")
    return Cell(WORSE, tone="bad") if high < 0 else Cell(UNCLEAR)
