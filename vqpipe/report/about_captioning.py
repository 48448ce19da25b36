"""The task `captioning` on the page: scores of generated captions with references, and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vqpipe.artifacts.specs.task import CAPTIONING_PICTURES
from vqpipe.errors import counted
from vqpipe.report.blocks import (
    Absent,
    Answer,
    Block,
    Cell,
    Example,
    Examples,
    Line,
    Section,
    Table,
    Terms,
    Text,
)
from vqpipe.report.blocks import Column as Head
from vqpipe.report.inputs import ReportParams
from vqpipe.report.names import BOTH, CHANGE, MEASURES, cell, column, number
from vqpipe.report.task_inputs import Shown, add_changes, picture_rows, pictured, references, side_by_side
from vqpipe.report.task_pairs import TaskRun, parted
from vqpipe.tasks.captioning import CaptioningMetrics, CaptioningProtocol

COLUMNS: Mapping[str, Callable[[CaptioningMetrics], Any]] = {
    "caption_bleu_1": lambda found: found.generated.bleu_1,
    "caption_bleu_2": lambda found: found.generated.bleu_2,
    "caption_bleu_3": lambda found: found.generated.bleu_3,
    "caption_bleu_4": lambda found: found.generated.bleu_4,
    "caption_rouge_l": lambda found: found.generated.rouge_l,
    "caption_cider_d": lambda found: found.generated.cider_d,
    "caption_other_image": lambda found: found.other_image.cider_d,
    "caption_fewer": lambda found: (
        None if found.generated_as_human is None else found.generated_as_human.cider_d
    ),
    "caption_objects": lambda found: found.generated.objects,
    "caption_bits": lambda found: found.bits,
}
"""The table's columns and where their values are."""
WITH_JAVA: Mapping[str, Callable[[CaptioningMetrics], Any]] = {
    "caption_meteor": lambda found: found.generated.meteor,
    "caption_spice": lambda found: found.generated.spice,
}
"""Columns that are there where a run has them."""
FLOORS = {
    "commonest": "the most frequent training caption",
    "chance": "chance: a training caption drawn for each image",
}


def section(runs: Sequence[TaskRun], params: ReportParams) -> Section:
    """The part `Captions`.

    Args:
        runs: those of the task, in the order of the params file.

    Raises:
        ArtifactError: a table of pictures that is damaged or of another version.
    """
    anchor, title = "task-captioning", "Captions"
    if not runs:
        return Section(anchor, title, [Absent("Captioning was not measured: no pair of this task.")])
    codes, others = parted(runs)
    return Section(anchor, title, [*_numbers(codes, others), *_pictures([*codes, *others], params)])


def _numbers(codes: Sequence[TaskRun], others: Sequence[TaskRun]) -> list[Block]:
    ordered = [*codes, *others]
    found: list[tuple[TaskRun, CaptioningMetrics]] = [(run, run.metrics.fresh) for run in ordered]
    columns = dict(COLUMNS)
    columns |= {name: of for name, of in WITH_JAVA.items() if any(of(part) is not None for _, part in found)}
    rows = [[Cell(run.label), *(cell(name, of(part)) for name, of in columns.items())] for run, part in found]
    for name, words in FLOORS.items():
        rows += _floor(words, [(run, getattr(part, name)) for run, part in found], columns)
    human = [(run, part.human) for run, part in found if part.human is not None]
    rows += _floor("a true caption left out, against the image's others", human, columns, "caption_fewer")
    quiet = frozenset(range(len(codes), len(rows)))
    lead = (
        "One caption for each image, generated word by word from what the head sees of it (ClipCap's form; LG-VQ, "
        "table 11). A number is due to the codes as far as it is above that of the head without an image."
    )
    note = (
        f"{_counts(ordered)} Rows in italics are references: the same head and steps on another input, "
        f"then captions without a head. Small print: 95 % bootstrap interval over images. {CHANGE} {BOTH}"
    )
    absent: dict[str, list[str]] = {}
    for name, reason in sorted({item for _, part in found for item in part.absent.items()}):
        absent.setdefault(reason, []).append(name.upper())
    heads = [Head("input", numeric=False), *map(column, columns)]
    add_changes(heads, rows, ordered)
    blocks: list[Block] = [Text(lead), Table("Scores of the captions", heads, rows, note, quiet)]
    if absent:
        reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in absent.items())
        blocks.append(Absent(f"Not measured: {reasons}."))
    terms = [(MEASURES[name].label, MEASURES[name].about) for name in columns]
    return [*blocks, Terms("What each score means", terms)]


def _counts(runs: Sequence[TaskRun]) -> str:
    """What the runs counted, a sentence each; one that differs between runs once for each value, with its runs."""
    parts: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        found = run.metrics.protocol
        assert isinstance(found, CaptioningProtocol)
        for name, value in {
            "measured": f"{counted(found.num_images, 'test image')} with {counted(found.num_references, 'caption')}, "
            f"of which {number(found.num_one_word)} of one word and {number(found.num_test_cut)} cut in bits per word",
            "trained": f"heads trained on {counted(found.num_train_captions, 'caption')}, of which "
            f"{number(found.num_cut)} cut",
            "without": f"without a caption: {counted(found.num_left_out, 'test image')} and "
            f"{counted(found.num_train_left_out, 'training image')}",
            "dropped": f"captions without a word, dropped: {number(found.num_dropped)} in testing and "
            f"{number(found.num_train_dropped)} in training",
            "unknown": f"words of the test captions that the language model ({found.language_model}) does not know: "
            f"{number(found.num_unknown)}",
        }.items():
            parts.setdefault(name, {}).setdefault(value, []).append(run.label)
    sentences = []
    for own in parts.values():
        for text, labels in own.items():
            of = f" ({', '.join(labels)})" if len(own) > 1 else ""
            sentences.append(f"{text[0].upper()}{text[1:]}{of}.")
    return " ".join(sentences)


def _floor(
    words: str, found: Sequence[tuple[TaskRun, Any]], columns: Mapping[str, Any], only: str = ""
) -> list[list[Cell]]:
    """Rows of captions that no head made, as `references` gives them.

    Args:
        words: their label.
        found: the `CaptionNumbers` of each run.
        columns: of the table.
        only: the column that gets CIDEr-D, with the others empty; by default each score is in its own.
    """

    def score(name: str) -> Callable[[Any], Any]:
        if only:
            return lambda part: part.cider_d if name == only else None
        return lambda part: getattr(part, name.removeprefix("caption_"), None)

    values = [(name, score(name)) for name in columns]
    rows = references([(run, "fresh", part) for run, part in found], words, values, len(values))
    return [[label, *cells] for label, _, *cells in rows]  # no column of heads


def _pictures(runs: Sequence[TaskRun], params: ReportParams) -> list[Block]:
    """Images with their true captions and those generated from each input (LG-VQ, figure 15)."""
    shown = side_by_side(picture_rows(runs, CAPTIONING_PICTURES), ("image_id",), params)
    items = [_example(found, params) for found in shown]
    if not items:
        return []
    note = (
        "Images drawn at random, with their true captions. For each input the generated caption and its CIDEr-D, and "
        "in small print what the same head writes for another image's input."
    )
    return [Examples("Generated captions", items, note)]


def _example(found: Sequence[Shown], params: ReportParams) -> Example:
    row = found[0][1]
    title, *others = row["references"]
    answers = [
        Answer(run.label, [Line(own["caption"] or "(no word)", _points(own["cider_d"]), small=_other(own))])
        for run, own in found
    ]
    return Example(title, pictured(row, params, title), [answers], "; ".join(others))


def _points(value: float) -> str:
    return cell("caption_cider_d", value).text


def _other(row: Mapping[str, Any]) -> str:
    return f"other image: {row['other_caption'] or '(no word)'} ({_points(row['other_cider_d'])})"
