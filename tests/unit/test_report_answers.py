"""The report's parts on classification and question answering: floors next to numbers, quiet rows, examples; changes
of every task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report_tree import PARAMS
from test_report_page import check_valid

from tests.properties.test_every_task import TRAINING
from tests.small_answers import NUM_DIFFERENT, PLACES, read_all, write_all
from tests.small_tasks import COMMON
from vqpipe.metrics.measured import interval
from vqpipe.params.base import validate
from vqpipe.report import about_captioning, about_classification, about_grounding, about_results, about_vqa
from vqpipe.report.about_classification import shares
from vqpipe.report.blocks import Absent, Charts, Examples, Section, Table, Terms
from vqpipe.report.build import render
from vqpipe.report.task_pairs import TaskRun, name_of, parted
from vqpipe.tasks import TASKS
from vqpipe.tasks.solve import solve_task
from vqpipe.tasks.task import task_entry

PAGES = {"classification": about_classification.section, "vqa": about_vqa.section}
CHANGES = {
    "classification": (about_classification.section, "top-1", "top1"),
    "captioning": (about_captioning.section, "CIDEr-D", "generated.cider_d"),
    "vqa": (about_vqa.section, "accuracy", "accuracy"),
    "grounding": (about_grounding.section, "Acc@0.5", "accuracy"),
}
"""By the kind of task, the measure whose change is shown: its column and its name by example."""
INPUTS = {"vq": "codes", "lc": "codes", "vq-none": "none", "vq-latents": "latents"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[TaskRun]]:
    """Each task on the codes of two tokenizers, those of `PAGES` on latents and without an image too."""
    root = write_all(tmp_path_factory.mktemp("report"), NUM_DIFFERENT)
    dataset, clip, tokenizer = read_all(root)
    found: dict[str, list[TaskRun]] = {kind: [] for kind in CHANGES}
    for kind, own in found.items():
        for at, (name, given) in enumerate(INPUTS.items()):
            if given != "codes" and kind not in PAGES:
                continue
            entry = {"kind": kind, "tokenizer": name[:2], "input": given}
            more = 180 if kind == "captioning" else 40  # fewer give both the same captions
            common = {**COMMON, "training": {**TRAINING, "num_steps": 20 + more * at}}
            config: Any = validate(task_entry(common, entry), "task", TASKS.params())
            folder = root / f"{name}-{kind}"
            folder.mkdir()
            solved = solve_task(
                config, tokenizer, None, dataset, clip,
                scratch=folder, curves=None, device=torch.device("cpu"), title=name,
            )  # fmt: skip
            own.append(
                TaskRun(
                    name,
                    solved.write(folder / "out"),
                    solved.metrics,
                    {},
                    config,
                    name_of(config, solved.metrics),
                )
            )
    return found


def blocks(section: Section, kind: Any) -> list[Any]:
    return [block for block in section.blocks if isinstance(block, kind)]


@pytest.mark.parametrize("kind", PAGES)
def test_tokenizers_come_first_and_references_are_quiet(kind: str, runs: dict[str, list[TaskRun]]) -> None:
    codes, others = parted(runs[kind])
    assert [run.label for run in (*codes, *others)] == [
        "vq", "lc", "latents of vq before quantising", "no image",
    ]  # fmt: skip
    for table in blocks(PAGES[kind](runs[kind], PARAMS), Table):
        assert [row[0].text for row in table.rows][:4] == [run.label for run in (*codes, *others)]
        assert table.quiet == frozenset(range(2, len(table.rows)))
        assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize("kind", CHANGES)
def test_numbers_are_percent_and_changes_are_of_the_same_examples(
    kind: str, runs: dict[str, list[TaskRun]]
) -> None:
    section, head, measure = CHANGES[kind]
    for first, second in (runs[kind][:2], runs[kind][1::-1]):
        table = blocks(section([first, second], PARAMS), Table)[0]
        names = [column.name for column in table.columns]
        own = names.index(head)
        assert names[own + 1] == "change"
        assert table.columns[own + 1].unit == f"points, from {first.label}"
        base, other = (run.values["fresh", measure] for run in (first, second))
        assert table.rows[0][own].text == f"{100 * np.mean(list(base.values())):.1f}"
        assert table.rows[1][own].text == f"{100 * np.mean(list(other.values())):.1f}"
        gap = interval(np.array([other[name] - base[name] for name in sorted(base)]), 100, first.config.seed)
        assert gap.mean != 0
        found = table.rows[1][own + 1]
        shown = [f"{100 * value:.1f}" for value in (gap.mean, gap.low, gap.high)]
        assert found.text.replace("\N{MINUS SIGN}", "-") == f"{'+' if gap.mean > 0 else ''}{shown[0]}"
        assert found.small.replace("\N{MINUS SIGN}", "-") == f"{shown[1]} to {shown[2]}"
        assert [row[own + 1].text for row in (table.rows[0], *table.rows[2:])] == [""] * (len(table.rows) - 1)
        assert all(len(row) == len(names) for row in table.rows)


def test_captions_have_each_bleu_in_order(runs: dict[str, list[TaskRun]]) -> None:
    table = blocks(about_captioning.section(runs["captioning"], PARAMS), Table)[0]
    assert [column.name for column in table.columns[1:5]] == [f"BLEU-{count}" for count in range(1, 5)]
    for row, run in zip(table.rows[:2], runs["captioning"], strict=True):
        found = run.metrics.fresh.generated
        scores = [found.bleu_1, found.bleu_2, found.bleu_3, found.bleu_4]
        assert [cell.text for cell in row[1:5]] == [f"{100 * score:.1f}" for score in scores]


def test_the_first_results_have_a_row_for_each_input_and_a_column_for_each_task(
    runs: dict[str, list[TaskRun]],
) -> None:
    (table,) = about_results.tasks([*runs["classification"], *runs["vqa"][:3]])
    assert [column.name for column in table.columns] == ["input", "classification", "vqa"]
    assert [row[0].text for row in table.rows] == ["vq", "lc", "latents of vq before quantising", "no image"]
    assert table.quiet == {2, 3}
    for row, at in enumerate((0, 1, 3)):
        top1 = runs["classification"][at].metrics.fresh.top1
        assert table.rows[row][1].text == f"{100 * top1.mean:.1f}"
        assert table.rows[row][1].small == f"{100 * top1.low:.1f} to {100 * top1.high:.1f}"
    assert table.rows[1][2].text == f"{100 * runs['vqa'][1].metrics.fresh.accuracy.mean:.1f}"
    assert table.rows[2][2].text == "–"  # vqa was not solved from the latents
    assert not list(about_results.tasks([]))


def test_runs_on_other_images_have_no_change(runs: dict[str, list[TaskRun]], tmp_path: Path) -> None:
    first, second = runs["vqa"][:2]
    away = replace(second, folder=tmp_path)
    table = blocks(about_vqa.section([first, away], PARAMS), Table)[0]
    assert table.rows[1][2].text == "–"


def test_kinds_of_questions_have_numbers_of_their_own(runs: dict[str, list[TaskRun]]) -> None:
    table = blocks(about_vqa.section(runs["vqa"], PARAMS), Table)[1]
    assert [found.name for found in table.columns[1:]] == ["color", "location", "number"]
    part = runs["vqa"][0].metrics.fresh.kinds["number"]
    assert table.rows[0][3].text == f"{100 * part.accuracy.mean:.1f}"
    assert table.rows[0][3].small == f"other image: {100 * part.other_image.mean:.1f}"
    assert table.rows[-1][3].text == f"{100 * part.majority_kind:.1f}"


def changed(run: TaskRun, **fresh: Any) -> TaskRun:
    """A run with other numbers of its fresh head."""
    metrics = run.metrics.model_copy(update={"fresh": run.metrics.fresh.model_copy(update=fresh)})
    return replace(run, metrics=metrics)


def test_runs_may_have_different_kinds_of_questions(runs: dict[str, list[TaskRun]]) -> None:
    first, second = runs["vqa"][:2]
    kinds = first.metrics.fresh.kinds
    fewer = changed(second, kinds={name: part for name, part in kinds.items() if name != "location"})
    more = kinds["number"].model_copy(update={"num_questions": 7, "majority_kind": 0.125})
    alone = changed(first, kinds={"number": more, "object": more})
    table = blocks(about_vqa.section([fewer, alone], PARAMS), Table)[1]
    assert [found.name for found in table.columns[1:]] == ["color", "number", "object"]
    count = kinds["number"].num_questions
    assert [found.unit for found in table.columns[1:]] == [
        f"%, n = {kinds['color'].num_questions}", f"%, n = {count} or 7", "%, n = 7",
    ]  # fmt: skip
    assert [[cell.text == "–" for cell in row[1:]] for row in table.rows[:2]] == [
        [False, False, True], [True, False, False],
    ]  # fmt: skip
    by_kind = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows[2:]}
    own = [f"{100 * kinds[name].majority_kind:.1f}" for name in ("color", "number")]
    assert by_kind["most frequent answer to its kind (lc)"] == [*own, "–"]
    assert by_kind["most frequent answer to its kind (vq)"] == ["–", "12.5", "12.5"]


@pytest.mark.parametrize(("kind", "field", "label"), [
    ("classification", "majority", "most frequent class of the training images"),
    ("vqa", "majority", "most frequent answer"),
])  # fmt: skip
def test_floors_that_differ_have_a_row_each(
    kind: str, field: str, label: str, runs: dict[str, list[TaskRun]]
) -> None:
    first, second = runs[kind][:2]
    own = getattr(first.metrics.fresh, field)
    table = blocks(PAGES[kind]([first, changed(second, **{field: 0.0625})], PARAMS), Table)[0]
    rows = {row[0].text: [cell.text for cell in row[1:3]] for row in table.rows}
    assert rows[f"{label} (vq)"] == [f"{100 * own:.1f}", ""]
    assert rows[f"{label} (lc)"] == ["6.2", ""]
    assert label not in rows
    assert all(len(row) == len(table.columns) for row in table.rows)
    same = blocks(PAGES[kind]([first, second], PARAMS), Table)[0]
    assert [row[0].text for row in same.rows].count(label) == 1


@pytest.mark.parametrize(("kind", "field"), [("classification", "num_classes"), ("vqa", "num_questions")])
def test_counts_that_differ_are_of_named_runs(kind: str, field: str, runs: dict[str, list[TaskRun]]) -> None:
    first, second = runs[kind][:2]
    same = blocks(PAGES[kind]([first, second], PARAMS), Table)[0].note
    assert same.startswith("n = ")
    assert same.count("n = ") == 1
    note = blocks(PAGES[kind]([first, changed(second, **{field: 77})], PARAMS), Table)[0].note
    assert note.startswith(f"vq: {same.split('.')[0]}. lc: n = ")
    assert "77" in note.split("lc: ")[1]


@pytest.mark.parametrize("kind", PAGES)
def test_the_measures_of_the_table_are_explained(kind: str, runs: dict[str, list[TaskRun]]) -> None:
    section = PAGES[kind](runs[kind], PARAMS)
    terms = blocks(section, Terms)[0].items
    heads = [column.name for column in blocks(section, Table)[0].columns]
    assert [name for name, _ in terms] == [name for name in heads if name not in ("input", "change")]
    assert all(about for _, about in terms)
    assert "which can mislead it" in dict(terms)["other codes"]


def test_confusions_are_shares_of_each_class(runs: dict[str, list[TaskRun]]) -> None:
    table = {"a": {"a": 1, "b": 3}, "c": {"c": 2}}
    found = shares(table, ["a", "b", "c"])
    np.testing.assert_array_equal(found, [[0.25, 0.75, 0], [0, 0, 0], [0, 0, 1]])
    charts = blocks(about_classification.section(runs["classification"], PARAMS), Charts)[0]
    assert [chart.title for chart in charts.charts] == ["vq", "lc"]
    assert all(name in charts.charts[0].svg for name in PLACES)


def test_many_classes_are_not_drawn(runs: dict[str, list[TaskRun]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about_classification, "MOST_CLASSES", 2)
    section = about_classification.section(runs["classification"], PARAMS)
    assert "more than 2 classes" in blocks(section, Absent)[0].text
    assert not blocks(section, Charts)


@pytest.mark.parametrize("kind", PAGES)
def test_the_same_images_are_shown_for_each_tokenizer(kind: str, runs: dict[str, list[TaskRun]]) -> None:
    section = PAGES[kind](runs[kind], PARAMS)
    found = blocks(section, Examples)[0]
    assert len(found.items) == min(PARAMS.num_task_examples, runs[kind][0].config.num_pictures)
    for item in found.items:
        assert [answer.title for answer in item.rows[0]] == ["vq", "lc"]
        asked = [[line.asked for line in answer.lines] for answer in item.rows[0]]
        assert asked[0] == asked[1]
    check_valid(render("page", "lead", [section]))


@pytest.mark.parametrize("kind", PAGES)
def test_what_was_not_measured_is_named(kind: str) -> None:
    section = PAGES[kind]([], PARAMS)
    assert "not measured" in blocks(section, Absent)[0].text
    assert not blocks(section, Table)
