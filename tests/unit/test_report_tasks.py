"""The report's section on tasks: chance next to each number, plain and aligned compared, pictures, absences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from report_tree import HOSTILE, PARAMS, evaluated, filled, write_metrics, write_params
from report_tree_tasks import KINDS, NUM_IMAGES, name_tasks, values, write_task, write_tasks
from ruamel.yaml import YAML
from test_report_page import check_valid, rows_of, shown

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_text
from vqpipe.errors import ArtifactError, ParamsError
from vqpipe.metrics.measured import Interval, interval
from vqpipe.report.about_health import similarity_map
from vqpipe.report.build import Report, build_report
from vqpipe.report.gate import breaches, deltas, flatten, parse_gate
from vqpipe.report.names import change
from vqpipe.report.task_pairs import verdict
from vqpipe.tasks import TASKS
from vqpipe.tasks.task import Task, TaskMetrics, TaskParams


class ShapeMetrics(Metrics):
    accuracy: Interval
    chance: float
    by_class: dict[str, float]
    confusion: tuple[int, ...] = ()


class ShapeParams(TaskParams):
    kind: Literal["shape"]


class Shape(Task):
    """A task that the report has no section for."""

    kind = "shape"
    Params = ShapeParams
    Metrics = TaskMetrics[ShapeMetrics]


WORDS = ("boat", "red", HOSTILE, "harbor")
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"


def made(root: Path) -> Report:
    return build_report(root / "artifacts", root / "params.yaml", PARAMS)


def section(html: str) -> str:
    start = html.index('<section id="tasks"')
    return html[start : html.index('<section id="priors"', start)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks from vq and its aligned variant, and two of them from lc, which has no aligned one."""
    root = tmp_path_factory.mktemp("tasks")
    params = write_params(root)
    name_tasks(params, {"vq": "vq", "vq+lg": "vq+lg", "rest": "lc"}, {"vq+lg": "vq"})
    write_tasks(root, "vq", {"fresh": 0.0}, WORDS)
    write_tasks(root, "vq+lg", {"fresh": 0.2, "own": 0.0}, WORDS)
    write_tasks(root, "rest", {"fresh": 0.0}, WORDS, KINDS[:2])
    return root


@pytest.fixture(scope="module")
def report(tree: Path) -> Report:
    return made(tree)


def test_every_part_is_there_and_escaped(report: Report) -> None:
    document = check_valid(report.html)
    own = section(report.html)
    for title in (
        "Effect of alignment", "One masked word", "3 masked words", "One masked word: examples",
        "Retrieval from codes", "Captions found for an image", "Images found for a caption",
        "Cosines of words and of code vectors",
        "Cosines of words and of projected code vectors", "Cosines of words and of their codes",
        "Training of the fresh heads", "Training curves of the fresh heads",
    ):  # fmt: skip
        assert f">{title}<" in own, title
    assert "<script" not in own
    assert "Fresh heads are trained on" in own
    assert "Own heads were trained together with" in own
    assert f"n = {NUM_IMAGES} images, the same for each tokenizer" in own
    assert "One caption of each image: masked words, retrieval, relations." in own
    assert "interval over examples (images, questions, expressions; 200 resamples)" in own
    assert any(HOSTILE in "".join(heading.itertext()) for heading in document.iter("h5"))


def test_images_are_counted_by_task(tree: Path, tmp_path: Path) -> None:
    def measured(name: str, count: int) -> None:
        path = tmp_path / f"copy/artifacts/metrics/task/{name}.json"
        content = json.loads(path.read_text())
        content["protocol"]["num_images"] = count
        path.write_text(json.dumps(content))

    shutil.copytree(tree, tmp_path / "copy")
    for name in ("vq", "vq+lg", "rest"):
        measured(f"{name}-retrieval", 1000)
    found = section(made(tmp_path / "copy").html)
    assert "n by task: masked words, relations: 100 images; retrieval: 1,000 images." in found
    measured("rest-retrieval", 50)
    found = section(made(tmp_path / "copy").html)
    assert (
        "n by task: masked words, relations: 100 images; vq-retrieval, vq+lg-retrieval: 1,000 images; "
        "rest-retrieval: 50 images." in found
    )


def test_masked_words_are_next_to_floors(report: Report) -> None:
    rows = rows_of(report.html, "One masked word")
    assert rows[0] == [
        "tokenizer", "head", f"recall@1|%, {UP}", "other codes|%, another image's",
        f"gain from the codes|points, {UP}",
        "n|captions",
    ]  # fmt: skip
    assert [row[:2] for row in rows[1:5]] == [
        ["vq", "fresh"], ["vq+lg", "fresh"], ["vq+lg", "own"], ["lc", "fresh"],
    ]  # fmt: skip
    assert rows[5][:3] == ["the most frequent word of the training captions", "", "17.0"]
    assert rows[6][:3] == ["chance: a word drawn evenly", "", "0.6"]
    gain = values(0.2)["masked_1.recall"] - values(0.2)["masked_1.other_image"]
    found = interval(gain, 200, 0)
    shown = [f"{100 * own:.1f}" for own in (found.mean, found.low, found.high)]
    assert rows[2][4] == f"{shown[0]}|{shown[1]} to {shown[2]}"
    assert rows[1][4] == "0.0|0.0 to 0.0"
    assert "Captions with fewer words are left out: 2." in section(report.html)


def test_retrieval_is_next_to_chance(report: Report) -> None:
    rows = rows_of(report.html, "Retrieval from codes")
    assert rows[0][2] == f"R@1|%, image to text, {UP}"
    assert rows[0][7] == f"R@10|%, text to image, {UP}"
    assert rows[-1] == ["chance", "", "1.0", "5.0", "10.0", "1.0", "5.0", "10.0"]
    assert rows[1][4] == f"{100 * values(0)['image_to_text.r10'].mean():.1f}|" + rows[1][4].split("|")[1]


def test_cosines_are_next_to_chance_and_a_constant(report: Report) -> None:
    rows = rows_of(report.html, "Cosines of words and of code vectors")
    assert [row[0] for row in rows[1:]] == ["vq", "vq+lg", "vq+lg", "one cosine for all, at best"]
    assert rows[0][2:] == [f"MSE|{DOWN}", "chance|MSE", f"correlation|{UP}", "one position|% of pairs"]
    assert rows[1][3].startswith(f"{values(0)['similarity.raw'].mean() + 0.1:.3f}|")
    assert rows[1][4:] == ["0.310", "25.0"]
    assert rows[-1][2] == "0.050"
    assert rows_of(report.html, "Cosines of words and of projected code vectors")[1][4] == "–"


def test_aligned_is_compared_with_plain_by_paired_intervals(report: Report) -> None:
    rows = rows_of(report.html, "vq+lg compared with vq")
    assert rows[0][2:5] == ["vq|plain, fresh heads", "vq+lg|fresh heads", "change|from plain"]
    by_measure = {row[0].split("|")[0]: row for row in rows[1:]}
    assert len(by_measure) == 2 * 2 + 2 * 3 + 2
    for label, measure, scale, digits in (
        ("one masked word: recall@1", "masked_1.recall", 100, 1),
        ("text to image: R@5", "text_to_image.r5", 100, 1),
        ("words and code vectors: MSE", "similarity.raw", 1, 3),
    ):
        found = interval(values(0.2)[measure] - values(0.0)[measure], 200, 0)
        sign = "+" if found.mean > 0 else ""
        bounds = (found.mean, found.low, found.high)
        shown = [f"{scale * value:.{digits}f}".replace("-", "−") for value in bounds]
        assert by_measure[label][4:6] == [f"{sign}{shown[0]}|{shown[1]} to {shown[2]}", "better"]
        assert by_measure[label][7:] == [f"{0:.{digits}f}|{0:.{digits}f} to {0:.{digits}f}", "equal"]
    assert by_measure["words and projected code vectors: MSE"][5] == "equal"
    assert by_measure["image to text: R@1"][1] == "1.0"
    own = section(report.html)
    verdicts = [row[5] for row in by_measure.values()]
    assert set(verdicts) <= {"better", "unclear", "equal"}
    counted = ", ".join(
        f"{verdicts.count(word)} {word}" for word in ("better", "unclear", "equal") if word in verdicts
    )
    assert f"vq+lg compared with vq, by fresh heads: of 12 measures {counted}." in own
    assert "differ in more than alignment" not in own
    assert "a difference here may not hold over seeds; the board of tasks (docs/scoreboard.md)" in own
    assert '<a href="#tokenizers">' in own
    assert '<a href="#run">' in own


def test_a_verdict_follows_the_measures_better_way() -> None:
    up, down, both = (Interval(mean=m, low=m - 1, high=m + 1) for m in (2, -2, 0.5))
    assert [verdict("r1", found).text for found in (up, down, both)] == ["better", "worse", "unclear"]
    assert [verdict("similarity_mse", found).tone for found in (up, down, both)] == ["bad", "good", ""]
    touching = Interval(mean=1.0, low=0.0, high=2.0)
    assert verdict("r1", touching).text == "unclear"
    assert verdict("r1", Interval(mean=0.0, low=0.0, high=0.0)).text == "equal"
    assert change("r1", Interval(mean=0.02, low=-0.01, high=0.05)).text == "+2.0"


def test_the_nearest_plain_tokenizer_is_taken_and_differences_are_named(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    root, yaml = tmp_path / "copy", YAML()
    content = yaml.load((root / "params.yaml").read_text())
    variants = content["tokenizer"]["variants"]
    variants["vq+lg"]["training"] = {"learning_rate": 2e-4}
    variants["small"] = {"codebook": "none", "quantizer": {"kind": "vq", "num_codes": 4}}
    pairs = {f"small-{kind}": {"tokenizer": "small", "kind": kind} for kind in KINDS}
    content["task"]["pairs"] = {**pairs, **content["task"]["pairs"]}
    with (root / "params.yaml").open("w") as stream:
        yaml.dump(content, stream)
    write_tasks(root, "small", {"fresh": 0.0}, WORDS)
    own = section(made(root).html)
    assert "vq+lg compared with vq," in own
    assert "differ in more than alignment: tokenizer.training.learning_rate (0.0001 and 0.0002)" in own
    variants["vq+lg"]["align"]["max_tokens"] = 20
    variants["vq+lg"]["quantizer"] = {"kind": "cvq", "num_codes": 1024}
    with (root / "params.yaml").open("w") as stream:
        yaml.dump(content, stream)
    own = section(made(root).html)
    assert "Without a plain tokenizer of the same kind and task: vq+lg." in own
    assert "compared with vq" not in own


def example_of(html: str, title: str, number: int = 0) -> Any:
    for block in check_valid(html).iter("div"):
        heading = block.find("h4")
        if block.get("class") == "examples" and heading is not None and heading.text == title:
            return list(block.iter("article"))[number]
    raise AssertionError(f"no examples {title}")


def answers(example: Any) -> list[list[str]]:
    """The answers' titles, row by row."""
    rows = [row for row in example.iter("div") if row.get("class") == "answers"]
    return [["".join(title.itertext()) for title in row.iter("h5")] for row in rows]


def test_masked_words_are_shown_side_by_side(report: Report) -> None:
    example = example_of(report.html, "3 masked words: examples")
    text = "".join(example.find("h5").itertext())
    assert text.startswith("0 ____ ____ ____ harbor")
    assert "masked: boat, red, " in text
    assert answers(example) == [
        ["vq, fresh heads", "vq+lg, fresh heads", "vq+lg, own heads"],
        ["lc, fresh heads"],
    ]
    lines = ["".join(line.itertext()) for line in example.iter("li")]
    assert lines[0] == "50 %boat: sea✗boat 12 %"
    assert lines[3] == "50 %boat: boat✓sea 12 %"
    marks = [mark.get("aria-label") for mark in example.iter("span") if mark.get("role") == "img"]
    assert marks == ["wrong"] * 3 + ["right"] * 3 + ["wrong"] * 6


def test_retrieval_marks_what_is_right(report: Report) -> None:
    example = example_of(report.html, "Captions found for an image")
    lines = ["".join(line.itertext()) for line in example.iter("li")]
    assert lines[0].startswith("0.7510 boat")
    assert not lines[0].endswith("✓")
    assert lines[2].startswith("0.750 boat")
    assert lines[2].endswith("✓")
    assert lines[3].startswith("−0.25")
    assert "".join(example.itertext()).count("its own caption is not among them") == 3
    example = example_of(report.html, "Images found for a caption")
    pictures = [p for p in example.iter("figure") if "picture" in p.get("class")]
    assert len(pictures) == 1 + 4 * 2
    assert [p.get("class") for p in pictures].count("picture right") == 1


def test_cosines_are_drawn_with_words_and_codes(report: Report) -> None:
    example = example_of(report.html, "Cosines of words and of their codes")
    assert answers(example) == [
        ["vq, fresh heads", "vq+lg, fresh heads", "vq+lg, own heads"],
        ["vq, fresh heads", "vq+lg, fresh heads"],
    ]
    notes = [note.text for note in example.iter("p") if note.get("class") == "note"]
    assert notes[0] == "code vectors, 4 codes for 4 words; MSE 0.000"
    assert notes[1] == "code vectors, 4 codes for 4 words; MSE 0.040"
    drawings = [e for e in example.iter() if str(e.tag).endswith("svg")]
    assert len(drawings) == 1 + 5
    texts = [[t.text for t in drawing.iter() if str(t.tag).endswith("text")] for drawing in drawings]
    assert texts[0][::2] == texts[0][1::2]
    assert texts[1][1::2] == ["100", "101", "102", "103"]


def test_labels_of_a_map_lie_apart() -> None:
    svg = str(similarity_map(np.eye(3), ["a", "b", "c"], "map", ["1/2", "100/200", "3/4"], cell=17))
    rows = [float(part.split('"')[0]) for part in svg.split('" y="')[2:]]
    assert np.diff(rows).tolist() == [17, 17]
    columns = [float(part.split(" ")[0]) for part in svg.split("translate(")[1:]]
    assert np.diff(columns).tolist() == [17, 17]


def test_equal_inputs_give_equal_bytes(tree: Path, report: Report) -> None:
    assert made(tree).html == report.html
    assert str(tree) not in report.html


def test_metrics_and_gates_have_the_tasks(tree: Path, report: Report, tmp_path: Path) -> None:
    found = report.metrics["task"]
    assert list(found) == [
        *(f"{name}-{kind}" for name in ("vq", "vq+lg") for kind in KINDS),
        "rest-masked_words",
        "rest-retrieval",
    ]
    recall = float(values(0.2)["masked_1.recall"].mean())
    assert found["vq+lg-masked_words"]["fresh"]["masked_1"]["recall"] == pytest.approx(recall)
    assert found["vq-relations"]["fresh"]["similarity"]["raw"] == {
        "chance": pytest.approx(values(0)["similarity.raw"].mean() + 0.1), "correlation": 0.31,
        "mse": pytest.approx(values(0)["similarity.raw"].mean()),
    }  # fmt: skip
    assert "protocol" not in found["vq-relations"]
    assert found["vq-relations"]["training"]["num_steps"] == 300
    before = flatten(json.loads(json.dumps(report.metrics)))
    shutil.copytree(tree, tmp_path / "copy")
    write_task(tmp_path / "copy", "vq+lg", "retrieval", {"fresh": 0.0, "own": 0.0}, WORDS)
    changes = deltas(before, flatten(made(tmp_path / "copy").metrics))
    gates = [f"task.vq+lg-retrieval.{head}.text_to_image.r1<-1%" for head in ("fresh", "own")]
    breached = breaches([parse_gate(gate) for gate in gates], changes)
    assert len(breached) == 1
    assert breached[0].startswith(gates[0])


def test_without_tasks_the_page_gives_the_command(tmp_path: Path) -> None:
    params = write_params(tmp_path)
    write_metrics(tmp_path, "evaluate/old", evaluated(1))  # of a variant that the params lack
    page = made(tmp_path)
    check_valid(page.html)
    assert "the params name none under task.pairs" in section(page.html)
    assert page.metrics["task"] == {}
    name_tasks(params, {"vq": "vq"}, {})
    own = section(made(tmp_path).html)
    assert "dvc repro task" in own
    assert "Effect of alignment" not in own


def test_a_plain_tokenizer_alone_has_nothing_to_compare(tmp_path: Path) -> None:
    name_tasks(write_params(tmp_path), {"vq": "vq", "lc": "lc"}, {}, ("masked_words", "relations"))
    write_tasks(tmp_path, "vq", {"fresh": 0.1}, WORDS, ("masked_words", "relations"), counts=(1,))
    page = made(tmp_path)
    check_valid(page.html)
    own = section(page.html)
    assert "no task was solved from an aligned tokenizer" in own
    assert "Not solved in this checkout: lc-masked_words, lc-relations." in own
    assert "Retrieval was not measured" in own
    assert "3 masked words" not in own
    example = example_of(page.html, "Cosines of words and of their codes")
    assert answers(example) == [["vq, fresh heads", "vq, fresh heads"]]  # both kinds of cosines in one row


def test_metrics_alone_give_the_tables(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    for kind in KINDS:
        shutil.rmtree(tmp_path / f"copy/artifacts/task/vq-{kind}")
    page = made(tmp_path / "copy")
    own = section(page.html)
    assert (
        "Pictures and differences are absent for vq-masked_words, vq-retrieval, vq-relations. Run: dvc pull"
        in own
    )
    assert "vq+lg compared with vq: not all artifacts are in this checkout" in own
    assert rows_of(page.html, "One masked word")[1][4] == "–"
    assert answers(example_of(page.html, "One masked word: examples"))[0] == [
        "vq+lg, fresh heads", "vq+lg, own heads",
    ]  # fmt: skip


def test_tasks_on_other_images_are_not_compared(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    root = tmp_path / "copy"
    write_tasks(root, "vq+lg", {"fresh": 0.2, "own": 0.2}, WORDS, first=1)
    page = made(root)
    assert "vq+lg compared with vq: measured on different images" in section(page.html)
    assert [row[4:6] for row in rows_of(page.html, "vq+lg compared with vq")[1:]] == [
        ["–", "other images"]
    ] * 12


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_it_is_no_wider_than_a_narrow_window(report: Report, tmp_path: Path) -> None:
    broken, total, overflow = shown(report.html, tmp_path, 400)
    assert total == 2 * (2 + 1 + (1 + 4 * 2) + 1)
    assert (broken, overflow) == (0, 0)


@pytest.fixture
def shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_places", {**TASKS._places, "shape": f"{__name__}:Shape"})
    monkeypatch.setattr(TASKS, "_loaded", {**TASKS._loaded, "shape": Shape})


def test_a_task_without_its_own_section_gets_a_table(shape: None, tmp_path: Path) -> None:
    name_tasks(write_params(tmp_path), {"vq": "vq", "vq+lg": "vq+lg"}, {"vq+lg": "vq"}, ("shape",))
    content = {
        "accuracy": Interval(mean=0.75, low=0.5, high=1.0), "chance": 0.125, "by_class": {HOSTILE: 0.25},
        "confusion": [3, 1],
    }  # fmt: skip
    for name in ("vq", "vq+lg"):
        measured = {"kind": "shape", "fresh": ShapeMetrics.model_validate(content)}
        write_metrics(tmp_path, f"task/{name}-shape", filled(TaskMetrics[ShapeMetrics], measured))
    publish_text(tmp_path / "artifacts/curves/task/vq-shape.csv", "step,main/loss\n10,5.5\n20,4.2\n")
    page = made(tmp_path)
    check_valid(page.html)
    assert rows_of(page.html, "shape: vq") == [
        ["measure", "fresh head"],
        ["accuracy", "0.7500|0.5000 to 1"],
        ["chance", "0.1250"],
        [f"by class: {HOSTILE}", "0.2500"],
    ]
    own = section(page.html)
    assert "What can be predicted from an image&#39;s codes: shape." in own
    assert "Training curves of the fresh heads" in own
    assert "have no comparison by image: shape" in own
    assert page.metrics["task"]["vq-shape"]["fresh"]["accuracy"] == 0.75


def test_metrics_of_a_task_that_is_not_known_are_refused(tmp_path: Path) -> None:
    name_tasks(write_params(tmp_path), {"vq": "vq"}, {}, ("shape",))
    write_metrics(tmp_path, "task/vq-shape", filled(TaskMetrics[ShapeMetrics], {"kind": "shape"}))
    with pytest.raises(
        ArtifactError, match=r"(?s)not the metrics of a known task.*masked_words.*task@vq-shape"
    ):
        made(tmp_path)


def test_pairs_of_one_task_and_tokenizer_are_told_apart(tmp_path: Path) -> None:
    name_tasks(write_params(tmp_path), {"vq": "vq", "again": "vq"}, {}, ("retrieval",))
    for name in ("vq", "again"):
        write_tasks(tmp_path, name, {"fresh": 0.0}, WORDS, ("retrieval",))
    rows = rows_of(made(tmp_path).html, "Retrieval from codes")
    assert [row[0] for row in rows[1:3]] == ["vq (vq-retrieval)", "vq (again-retrieval)"]


def test_damaged_tasks_are_refused(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    root = tmp_path / "copy"
    (root / "artifacts/task/vq-masked_words/pictures.parquet").write_bytes(b"no table")
    with pytest.raises(ArtifactError):
        made(root)
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("num_bootstrap: 200", "num_bootstraps: 200"))
    with pytest.raises(ParamsError, match=r"task\.pairs\.vq-masked_words.num_bootstraps is not a field"):
        made(root)
