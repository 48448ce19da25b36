"""What heads on frozen codes predict: the numbers next to chance, and examples of single images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
from markupsafe import Markup

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import MASKED_WORDS_PICTURES, RELATIONS_PICTURES, RETRIEVAL_PICTURES
from vqpipe.errors import counted
from vqpipe.metrics.measured import Interval
from vqpipe.report import about_captioning, about_classification, about_grounding, about_vqa
from vqpipe.report.about_data import curve_charts
from vqpipe.report.about_health import similarity_map
from vqpipe.report.blocks import (
    Absent,
    Answer,
    Block,
    Cell,
    Column,
    Example,
    Examples,
    Line,
    Section,
    Table,
    Terms,
    Text,
)
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import BOTH, HIGHER, MEASURES, cell, column, number
from vqpipe.report.pictures import decode_png, picture, scale_bar, signed_scale
from vqpipe.report.task_inputs import Row, Shown, by_name, picture_rows, pictured, references, side_by_side
from vqpipe.report.task_pairs import (
    COSINES,
    DIRECTIONS,
    RANKS,
    TaskRun,
    alignment,
    families,
    of_kind,
)
from vqpipe.tasks import TASKS
from vqpipe.tasks.caption_tasks import CaptionProtocol
from vqpipe.tasks.masked_words import MaskedWordsMetrics
from vqpipe.tasks.relations import WordRelationsMetrics
from vqpipe.tasks.retrieval import RetrievalMetrics

HEADS = (Column("tokenizer", numeric=False), Column("head", numeric=False))
TERMS = (
    "masked_recall", "masked_other_image", "masked_gain", *RANKS, "similarity_mse", "correlation", "same_position",
)  # fmt: skip


SECTIONS = {
    "classification": about_classification.section,
    "captioning": about_captioning.section,
    "vqa": about_vqa.section,
    "grounding": about_grounding.section,
}
"""The parts of the page on tasks that have a file of their own, in their order."""


def about_tasks(inputs: Inputs, params: ReportParams, runs: Sequence[TaskRun]) -> Section:
    """The section `Tasks on frozen codes`; `runs` are all tasks that were solved.

    Raises:
        ArtifactError: a task artifact that is damaged or of another version.
    """
    title = "Tasks on frozen codes"
    if not inputs.tasks:
        return Section("tasks", title, [Absent("No task was solved: the params name none under task.pairs.")])
    if not runs:
        absent = "Tasks are absent: none has been solved in this checkout. Run: dvc repro task"
        return Section("tasks", title, [Absent(absent)])
    blocks: list[Block] = [*_about(runs), _terms()]
    missing = [name for name in inputs.tasks if name not in inputs.task]
    if missing:
        blocks.append(Absent(f"Not solved in this checkout: {', '.join(missing)}. Run: dvc repro task"))
    away = [run.name for run in runs if not run.has_tables]
    if away:
        blocks.append(
            Absent(
                f"Pictures and differences are absent for {', '.join(away)}. Run: dvc pull, or dvc repro task"
            )
        )
    masked, found, related = (of_kind(runs, kind) for kind in ("masked_words", "retrieval", "relations"))
    others = [
        run for run in runs if run.config.kind not in (*SECTIONS, "masked_words", "retrieval", "relations")
    ]
    parts = [
        Section("task-alignment", "Effect of alignment", alignment(runs)),
        *(of(own, params) for kind, of in SECTIONS.items() if (own := of_kind(runs, kind))),
        Section("task-masked", "Masked words", [*_masked(masked), *masked_words(families(masked), params)]),
        Section("task-retrieval", "Retrieval", [*_retrieval(found), *retrieval(families(found), params)]),
        Section(
            "task-relations", "Words and codes", [*_relations(related), *relations(families(related), params)]
        ),
        *([Section("task-others", "Other tasks", [_numbers(run) for run in others])] if others else []),
        Section("task-training", "Training of the heads", _training(inputs, runs)),
    ]
    return Section("tasks", title, blocks, parts)


def _about(runs: Sequence[TaskRun]) -> list[Block]:
    kinds = list(dict.fromkeys(run.config.kind for run in runs))
    asked = [TASKS[kind].question or _words(kind) for kind in kinds]
    return [
        Text(f"What can be predicted from an image's codes: {'; '.join(asked)}."),
        Text(
            "Fresh heads are trained on frozen inputs, a tokenizer's codes or what codes are compared with, in the "
            "same way for each input: compare aligned and plain tokenizers by these. Own heads were trained together "
            "with an aligned tokenizer; plain ones have none."
        ),
        Text(
            f"Measured on the {runs[0].metrics.protocol.split} split, {_counts(runs)}.{_captions_of(runs)} "
            "Small print is the 95 % bootstrap interval over examples (images, questions, expressions; "
            f"{number(runs[0].config.num_bootstrap)} resamples); another training may differ by more."
        ),
    ]  # fmt: skip


def _counts(runs: Sequence[TaskRun]) -> str:
    """How many images were measured, by task; by pair for a task whose pairs differ."""
    counts: dict[str, set[int]] = {}
    for run in runs:
        counts.setdefault(run.config.kind, set()).add(run.metrics.protocol.num_images)
    found = [
        (
            run.name if len(counts[run.config.kind]) > 1 else _words(run.config.kind),
            counted(run.metrics.protocol.num_images, "image"),
        )
        for run in runs
    ]
    if len(set.union(*counts.values())) == 1:
        return f"n = {found[0][1]}, the same for each tokenizer"
    return f"n by task: {by_name(found, '; ')}"


def _captions_of(runs: Sequence[TaskRun]) -> str:
    """Which tasks use one caption of each image."""
    kinds = dict.fromkeys(
        _words(run.config.kind) for run in runs if isinstance(run.metrics.protocol, CaptionProtocol)
    )
    return f" One caption of each image: {', '.join(kinds)}." if kinds else ""


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _terms() -> Terms:
    return Terms("What each measure means", [(MEASURES[name].label, MEASURES[name].about) for name in TERMS])


def _head(run: TaskRun, head: str) -> list[Cell]:
    return [Cell(run.label), Cell(head)]


def _masked(runs: Sequence[TaskRun]) -> list[Block]:
    measured = [
        (count, run, head, part)
        for run in runs
        for head, metrics in run.heads.items()
        if isinstance(metrics, MaskedWordsMetrics)
        for count, part in metrics.counts.items()
    ]
    blocks: list[Block] = []
    for count in sorted({count for count, *_ in measured}):
        found = [(run, head, part) for k, run, head, part in measured if k == count]
        rows = []
        for run, head, part in found:
            gain = run.gain(head, f"masked_{count}")
            rows.append(
                [
                    *_head(run, head),
                    cell("masked_recall", part.recall),
                    cell("masked_other_image", part.other_image),
                    cell("masked_gain", run.interval(gain) if gain else None),
                    Cell(number(part.num_captions)),
                ]
            )
        quiet = len(rows)
        commonest, chance = "the most frequent word of the training captions", "chance: a word drawn evenly"
        rows += references(found, commonest, [("masked_recall", lambda part: part.commonest)], 4)
        rows += references(found, chance, [("masked_recall", lambda part: part.chance)], 4)
        short = sorted({part.num_left_out for _, _, part in found if part.num_left_out})
        left = f" Captions with fewer words are left out: {', '.join(map(number, short))}." if short else ""
        note = f"Where the gain from the codes is not above 0, the words come from the caption alone.{left} {BOTH}"
        names = ("masked_recall", "masked_other_image", "masked_gain")
        columns = [*HEADS, *map(column, names), Column("n", "captions")]
        blocks.append(Table(masked_title(count), columns, rows, note, frozenset(range(quiet, len(rows)))))
    return blocks or [Absent("Masked words were not measured: no pair of this task.")]


def masked_title(count: int) -> str:
    """How a number of masked words is called."""
    return "One masked word" if count == 1 else f"{number(count)} masked words"


def _retrieval(runs: Sequence[TaskRun]) -> list[Block]:
    both = [
        (run, head, metrics)
        for run in runs
        for head, metrics in run.heads.items()
        if isinstance(metrics, RetrievalMetrics)
    ]
    if not both:
        return [Absent("Retrieval was not measured: no pair of this task.")]
    columns = [(way, rank) for way in DIRECTIONS for rank in RANKS]
    rows = [
        [*_head(run, head), *(cell(rank, getattr(getattr(metrics, way), rank)) for way, rank in columns)]
        for run, head, metrics in both
    ]
    quiet = len(rows)
    chances = [(rank, attrgetter(f"{way}.chance_{rank}")) for way, rank in columns]
    rows += references(both, "chance", chances, 6)
    heads = [
        *HEADS,
        *(Column(MEASURES[rank].label, f"%, {DIRECTIONS[way]}", HIGHER) for way, rank in columns),
    ]
    among = {
        way: " or ".join(
            dict.fromkeys(number(getattr(metrics, way).num_candidates) for _, _, metrics in both)
        )
        for way in DIRECTIONS
    }
    note = (
        f"By the cosine of the codes' global token and the caption's feature: an image's caption among "
        f"{among['image_to_text']} different ones, a caption's image among {among['text_to_image']}. More candidates "
        f"make it harder; compare with chance. {BOTH.split(',')[0]}."
    )  # fmt: skip
    return [Table("Retrieval from codes", heads, rows, note, frozenset(range(quiet, len(rows))))]


def _relations(runs: Sequence[TaskRun]) -> list[Block]:
    found = [
        (run, head, metrics.similarity)
        for run in runs
        for head, metrics in run.heads.items()
        if isinstance(metrics, WordRelationsMetrics)
    ]
    if not found:
        return [Absent("Words and codes were not compared: no pair of this task.")]
    blocks: list[Block] = []
    for kind, vectors in COSINES.items():
        own = [item for item in found if getattr(item[2], kind) is not None]
        if not own:
            continue
        rows = []
        for run, head, similarity in own:
            cosines = getattr(similarity, kind)
            rows.append(
                [
                    *_head(run, head),
                    cell("similarity_mse", cosines.mse),
                    cell("similarity_chance", cosines.chance),
                    cell("correlation", cosines.correlation),
                    cell("same_position", similarity.same_position),
                ]
            )
        quiet = len(rows)
        rows += references(
            own,
            "one cosine for all, at best",
            [("similarity_mse", lambda similarity: similarity.constant)],
            4,
        )
        columns = [
            *HEADS, *map(column, ("similarity_mse", "similarity_chance", "correlation", "same_position")),
        ]  # fmt: skip
        note = (
            "Cosines of the words' frozen vectors and of the codes that the heads assign to them. Codes that learned "
            "the words' relations are better than both chance and one cosine for all. Words at one position have a "
            f"cosine of 1 for any codes; a word and its repetition are no pair. {BOTH}"
        )  # fmt: skip
        if kind == "projected":
            note = "The same after the heads' trained projection, which can make up for what the codes lack."
        title = f"Cosines of words and of {vectors}"
        blocks.append(Table(title, columns, rows, note, frozenset(range(quiet, len(rows)))))
    return blocks or [Absent("Words and codes were not compared: no caption has two words.")]


def _numbers(run: TaskRun) -> Table:
    """The numbers and texts of a task that the report has no section for; intervals as small print."""
    heads = list(run.heads)
    flat = {head: dict(_leaves(metrics)) for head, metrics in run.heads.items()}
    names = list(dict.fromkeys(name for own in flat.values() for name in own))
    rows = [
        [
            Cell(name.replace("_", " ").replace(".", ": ")),
            *(cell(name, flat[head].get(name)) for head in heads),
        ]
        for name in names
    ]
    columns = [Column("measure", numeric=False), *(Column(f"{head} head") for head in heads)]
    return Table(f"{run.config.kind.replace('_', ' ')}: {run.label}", columns, rows)


def _leaves(
    metrics: Metrics | Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Interval | float | str]]:
    """The numbers, intervals and texts of a metrics model by dotted name."""
    for name, value in metrics.items() if isinstance(metrics, Mapping) else metrics:
        if isinstance(value, Interval | int | float | str):
            yield f"{prefix}{name}", value
        elif isinstance(value, Metrics | Mapping):
            yield from _leaves(value, f"{prefix}{name}.")


def _training(inputs: Inputs, runs: Sequence[TaskRun]) -> list[Block]:
    columns = [
        Column("task and tokenizer", numeric=False), Column("steps"), Column("images", "per step"),
        Column("tokenizer's steps"), Column("loss", "at the end"), Column("rollbacks"),
        Column("weights", numeric=False),
    ]  # fmt: skip
    rows = []
    for run in runs:
        facts = run.metrics.training
        rows.append([
            Cell(run.name), Cell(number(facts.num_steps)), Cell(number(facts.batch_size)),
            Cell(number(facts.tokenizer_steps)), Cell(number(facts.loss, 3)), Cell(number(facts.num_rollbacks)),
            Cell(facts.weights),
        ])  # fmt: skip
    note = "Own heads were trained for their tokenizer's steps; they are comparable with fresh ones of as many steps."
    table = Table("Training of the fresh heads", columns, rows, note)
    curves = {name: curve for name, curve in inputs.curves.get("task", {}).items() if name in inputs.task}
    if not curves:
        return [table, Absent("The heads' training curves are absent. Run: dvc repro task")]
    return [table, curve_charts("Training curves of the fresh heads", curves, "Losses by optimiser step.")]


Families = Sequence[Sequence[TaskRun]]

CANDIDATE_PIXELS = 80
"""Longer side of an image that is found."""
MAP_PIXELS, LEAST_CELL, MOST_CELL = 170, 13, 18
"""Side that a map of words aims at, and the sides of its cells."""


def masked_words(families: Families, params: ReportParams) -> list[Block]:
    """Captions with masked words, and what each head predicts (LG-VQ, figure 5)."""
    rows = picture_rows(list(chain(*families)), MASKED_WORDS_PICTURES)
    blocks: list[Block] = []
    for count in sorted({row["count"] for _, row in rows}):
        own = [(run, row) for run, row in rows if row["count"] == count]
        items = [
            Example(
                row["masked"], pictured(row, params, row["caption"]), _answers(families, found, _predictions),
                f"masked: {', '.join(row['words'])}",
            )
            for found in side_by_side(own, ("image_id", "masked"), params)
            for row in (found[0][1],)
        ]  # fmt: skip
        note = (
            "Images drawn at random. For each gap, in order, the likeliest word with its probability, whether it is "
            "right, and the next ones."
        )
        blocks.append(Examples(f"{masked_title(count)}: examples", items, "" if blocks else note))
    return blocks


def retrieval(families: Families, params: ReportParams) -> list[Block]:
    """Images with the captions retrieved for them, and captions with the images retrieved (LG-VQ, figure 4)."""
    rows = picture_rows(list(chain(*families)), RETRIEVAL_PICTURES)
    wanted: tuple[tuple[str, str, str, Callable[[Row], Answer]], ...] = (
        ("image_to_text", "Captions found for an image",
         "The image and its own caption; the best captions by each head with their cosines.", _captions),
        ("text_to_image", "Images found for a caption",
         "The caption and its own image; the best images by each head with their cosines.", _images),
    )  # fmt: skip
    blocks: list[Block] = []
    for way, title, note, answer in wanted:
        own = [(run, row) for run, row in rows if row["direction"] == way]
        items = [
            Example(row["caption"], pictured(row, params, row["caption"]), _answers(families, found, answer))
            for found in side_by_side(own, ("image_id",), params)
            for row in (found[0][1],)
        ]
        if items:
            blocks.append(Examples(title, items, note))
    return blocks


def relations(families: Families, params: ReportParams) -> list[Block]:
    """Heat maps of the cosines of a caption's words and of the codes assigned to them (LG-VQ, figure 6)."""
    rows = picture_rows(list(chain(*families)), RELATIONS_PICTURES)
    items = []
    for found in side_by_side(rows, ("image_id", "words"), params):
        row = found[0][1]
        known = Answer("words", drawing=_map(row["word_cosines"], row["words"], f"words of {row['caption']}"))
        shown = [own for family in families for own in _maps(family, found)]
        items.append(Example(row["caption"], pictured(row, params, row["caption"]), shown, known=known))
    if not items:
        return []
    note = (
        "Cosines of the words, then of the codes that the heads assign to them; columns have the codes' numbers. The "
        "closer the patterns, the more of the words' relations the codes have. Blocks of one colour come from words "
        "with the same code."
    )
    scale = scale_bar("cosine", signed_scale(), "\N{MINUS SIGN}1", "1")
    return [Examples("Cosines of words and of their codes", items, note, scale)]


def _answers(
    families: Families, found: Sequence[Shown], answer: Callable[[Row], Answer]
) -> list[list[Answer]]:
    """A row of answers for each family that has some."""
    rows = []
    for family in families:
        names = {run.name for run in family}
        own = [
            _titled(answer(row), f"{run.label}, {row['head']} heads")
            for run, row in found
            if run.name in names
        ]
        if own:
            rows.append(own)
    return rows


def _titled(answer: Answer, title: str) -> Answer:
    return Answer(title, answer.lines, answer.pictures, answer.drawing, answer.note)


def _percent(chance: float) -> str:
    return f"{number(100 * chance, 0)} %" if chance >= 0.095 else f"{number(100 * chance, 1)} %"


def _predictions(row: Row) -> Answer:
    lines = []
    columns = (row[name] for name in ("words", "predictions", "chances", "right"))
    for target, words, chances, right in zip(*columns, strict=True):
        others = ", ".join(f"{word} {_percent(p)}" for word, p in zip(words[1:], chances[1:], strict=True))
        lines.append(
            Line(words[0], _percent(chances[0]), right, others, "" if len(row["words"]) == 1 else target)
        )
    return Answer("", lines)


def _captions(row: Row) -> Answer:
    lines = [
        Line(caption, number(score, 2), True if right else None)
        for caption, score, right in zip(row["captions"], row["scores"], row["right"], strict=True)
    ]
    return Answer("", lines, note="" if any(row["right"]) else "its own caption is not among them")


def _images(row: Row) -> Answer:
    found = []
    columns = (row[name] for name in ("pictures", "image_ids", "scores", "right"))
    for content, image_id, score, right in zip(*columns, strict=True):
        pixels = decode_png(content, CANDIDATE_PIXELS, f"{row['file']}: image {image_id}", "task")
        alt = f"test image {image_id}, {'right' if right else 'not right'}"
        found.append(picture(pixels, alt, number(score, 2), right))
    return Answer("", pictures=found, note="" if any(row["right"]) else "its own image is not among them")


def _map(cosines: Any, words: Sequence[str], alt: str, above: Sequence[str] | None = None) -> Markup:
    return similarity_map(
        np.array(cosines, dtype=np.float64), words, f"cosines of {alt}", above,
        cell=min(MOST_CELL, max(LEAST_CELL, MAP_PIXELS // len(words))),
    )  # fmt: skip


def _maps(family: Sequence[TaskRun], found: Sequence[Shown]) -> list[list[Answer]]:
    """A row of maps for each kind of cosines, or a single run's kinds in one row."""
    rows = [
        [answer for answer in own if answer.drawing is not None]
        for kind in COSINES
        for own in _answers([family], found, partial(_codes, kind=kind))
    ]
    rows = [own for own in rows if own]
    if rows and all(len(own) == 1 for own in rows):
        return [[answer for own in rows for answer in own]]
    return rows


def _codes(row: Row, kind: str) -> Answer:
    cosines = row["code_cosines" if kind == "raw" else "projected_cosines"]
    if cosines is None:
        return Answer("")
    names = ["/".join(map(str, codes)) for codes in row["codes"]]
    drawing = _map(cosines, row["words"], f"{COSINES[kind]} for the words of {row['caption']}", names)
    note = f"{COSINES[kind]}, {counted(len(set(names)), 'code')} for {counted(len(names), 'word')}"
    off = ~np.eye(len(names), dtype=bool)
    if off.any():
        error = (np.array(row["word_cosines"])[off] - np.array(cosines)[off]) ** 2
        note += f"; MSE {number(float(error.mean()), 3)}"
    return Answer("", drawing=drawing, note=note)
