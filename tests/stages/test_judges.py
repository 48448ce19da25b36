"""The judges stage: outputs and their specs, learning, resuming to the same bytes, data without columns, messages."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch.nn.functional import one_hot
from typer.testing import CliRunner, Result

from stages.judges import app
from tests.small_judges import PARAMS, write_scenes
from tests.tiny import CLASSES, write_dataset
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.artifacts.specs.judges import JUDGES
from vqpipe.data.loader import ImageSplit
from vqpipe.evaluation import judges_train
from vqpipe.evaluation.evaluate import SplitImages
from vqpipe.evaluation.judges import Judged, Judges
from vqpipe.evaluation.judges_train import JudgesMetrics, Known, measure_judges
from vqpipe.metrics.measured import ImagesDigest
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.training.step import Stepper

TRAINING = {**PARAMS["training"], "num_steps": 60, "batch_size": 8, "log_every": 20, "checkpoint_every": 20}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`scenes` has all columns, `folders` has classes alone, `plain` has none."""
    root = tmp_path_factory.mktemp("judges_stage")
    write_scenes(root / "scenes")
    numbers = {"train": 16, "validation": 2, "test": 6}
    for name, classes in (("folders", "folders"), ("plain", "none")):
        write_dataset(root / name, numbers, classes)
    return root


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


def run(dataset: Path, out: Path, training: dict[str, Any] = TRAINING, **changes: Any) -> Result:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "params.yaml").open("w") as stream:
        YAML().dump({"judges": {**PARAMS, "training": training, **changes}}, stream)
    arguments = {
        "dataset": dataset, "out": out / "judges", "metrics": out / "metrics.json",
        "curves": out / "curves.csv", "params": out / "params.yaml",
    }  # fmt: skip
    return CliRunner().invoke(app, [f"--{name}={path}" for name, path in arguments.items()])


def test_some_test_images_are_drawn_over_the_whole_split(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(inputs / "folders/dataset", tmp_path, {**TRAINING, "num_steps": 20}, crop=16)
    assert result.exit_code == 0, result.output
    judges = Judges.load(tmp_path / "judges", torch.device("cpu"))
    judges.config = judges.config.model_copy(update={"num_images": 3})
    test, digest = Known.open(inputs / "folders/dataset", "test", judges.config), ImagesDigest()
    drawn = SplitImages.draw(test.images, 3, judges.config.seed).positions
    labels = torch.from_numpy(test.images.labels)
    assert labels[drawn].tolist() != labels[:3].tolist()
    digest.add(test.images.gather(drawn, None, "centre", False))
    true = Judged(one_hot(labels[drawn], len(test.images.class_names)).float(), None, None)
    monkeypatch.setattr(judges, "judge", lambda images: true)
    measured = measure_judges(judges, test)
    assert measured["num_images"] == measured["classes"].num_images == 3
    assert measured["classes"].top1.mean == 1.0
    assert measured["measured"].images == digest.images("test")


def test_all_judges_learn_and_are_measured_with_chance_next_to_them(inputs: Path, tmp_path: Path) -> None:
    result = run(inputs / "scenes", tmp_path)
    assert result.exit_code == 0, result.output
    metrics = JudgesMetrics.read(tmp_path / "metrics.json")
    assert (metrics.num_train_images, metrics.num_images, metrics.num_steps) == (24, 8, 60)
    for name in (
        "classes", "other_classes", "maps", "other_maps", "objects", "captions", "other_captions",
    ):  # fmt: skip
        assert getattr(metrics, name) is not None, name
    assert metrics.maps is not None
    assert metrics.other_maps is not None
    assert metrics.maps.num_classes == metrics.other_maps.num_classes > 10
    with (tmp_path / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["20", "40", "60"]
    for term in ("class", "map", "heat", "name", "box", "adjective"):
        assert float(rows[-1][f"main/{term}"]) < float(rows[0][f"main/{term}"]), term
    facts = read_manifest(tmp_path / "judges", JUDGES).facts
    assert facts["classes"][:2] == ["beach", "forest"]
    assert (len(facts["categories"]), facts["reads_captions"]) == (62, True)
    loaded = Judges.load(tmp_path / "judges")
    test = ImageSplit.open(inputs / "scenes", "test", 32)
    assert loaded.segment(test.images(0, 3)).shape == (3, 32, 32)


def test_a_run_that_was_killed_resumes_to_the_same_bytes(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(inputs / "scenes", tmp_path / "whole").exit_code == 0
    step, taken = Stepper.step, []

    def killed(self: Stepper, batch: Any) -> Any:
        taken.append(self.state.step)
        if len(taken) == 45:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "other"))
    monkeypatch.setattr(Stepper, "step", killed)
    assert run(inputs / "scenes", tmp_path / "resumed").exit_code != 0
    assert run(inputs / "scenes", tmp_path / "resumed").exit_code == 0
    assert taken[45:] == list(range(40, 60))
    assert tree_digest(tmp_path / "whole/judges") == tree_digest(tmp_path / "resumed/judges")
    for name in ("metrics.json", "curves.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_classes_alone_give_a_classifier(inputs: Path, tmp_path: Path) -> None:
    result = run(inputs / "folders/dataset", tmp_path, crop=16)
    assert result.exit_code == 0, result.output
    metrics = JudgesMetrics.read(tmp_path / "metrics.json")
    assert metrics.classes is not None
    assert metrics.classes.top1.mean == 1.0
    assert metrics.other_classes is not None
    labels = ImageSplit.open(inputs / "folders/dataset", "test", 16).labels
    order = numpy_rng(0, "judges", "other").permutation(6)
    assert metrics.other_classes.top1.mean == pytest.approx((labels == labels[order]).mean())
    assert all(own is None for own in (metrics.maps, metrics.objects, metrics.captions))
    loaded = Judges.load(tmp_path / "judges")
    assert loaded.classes == CLASSES
    assert not any(name.startswith(("lateral", "segmenter", "heat")) for name in loaded.state_dict())


def test_nothing_to_judge_gives_judges_without_a_head(inputs: Path, tmp_path: Path) -> None:
    result = run(inputs / "plain/dataset", tmp_path, crop=16)
    assert result.exit_code == 0, result.output
    metrics = JudgesMetrics.read(tmp_path / "metrics.json")
    assert (metrics.num_steps, metrics.num_train_images, metrics.num_images) == (0, 0, 6)
    assert all(own is None for own in (metrics.classes, metrics.maps, metrics.objects, metrics.captions))
    loaded = Judges.load(tmp_path / "judges")
    assert not loaded.subjects
    judged = loaded.judge(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert all(own is None for own in (judged.classes, judged.maps, judged.objects))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {**TRAINING, "batch_size": 32}}, "fewer training images than one batch"),
        ({"crop": 64}, "smaller than 64 pixels"),
        ({"resolution": 24}, "judges.resolution"),
        ({"treshold": 0.3}, "did you mean threshold"),
    ],
)
def test_mistakes_are_explained(inputs: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    result = run(inputs / "scenes", tmp_path, **changes)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not (tmp_path / "judges").exists()


def test_the_protocol_names_what_changes_a_number(inputs: Path, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "first": {}, "same": {"batch_size": 5}, "other": {"threshold": 0.4},
    }  # fmt: skip
    digests = {}
    for name, change in changes.items():
        assert run(inputs / "folders/dataset", tmp_path / name, crop=16, **change).exit_code == 0
        digests[name] = JudgesMetrics.read(tmp_path / name / "metrics.json").measured.protocol["digest"]
    assert digests["first"] == digests["same"] != digests["other"]
    assert judges_train.PROTOCOL == 1
