"""The report takes only what belongs together: metrics, curves and artifacts of one run each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_tree import filled

from vqpipe.artifacts.inputs_outputs import CURVES, JSON
from vqpipe.artifacts.publish import publish_folder, publish_text
from vqpipe.artifacts.run import stage_run
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.data.build import DatasetMetrics
from vqpipe.errors import VqpipeError
from vqpipe.report.inputs import read_inputs
from vqpipe.tokenizers.train import TokenizerMetrics

TOKENIZER = FolderSpec("tokenizer", 1, stage="tokenizer")
DATASET = FolderSpec("dataset", 1, stage="dataset")
ROOT = Path("artifacts")


def run_stages(number: int) -> None:
    with stage_run(
        "dataset", {}, [], [(ROOT / "dataset", DATASET), (ROOT / "metrics/dataset.json", JSON)]
    ) as run:
        with publish_folder(run.staged(ROOT / "dataset"), DATASET, {"number": number}):
            pass
        run.metrics(ROOT / "metrics/dataset.json", filled(DatasetMetrics, {"num_classes": number}))
    out, metrics, curves = (
        ROOT / name for name in ("tokenizer/vq", "metrics/tokenizer/vq.json", "curves/tokenizer/vq.csv")
    )
    inputs = [(ROOT / "dataset", DATASET)]
    with stage_run("tokenizer", {}, inputs, [(out, TOKENIZER), (metrics, JSON), (curves, CURVES)]) as run:
        with publish_folder(run.staged(out), TOKENIZER, {"number": number}):
            pass
        publish_text(run.staged(curves), f"step,ae/loss\n1,{number}\n")
        run.metrics(metrics, filled(TokenizerMetrics, {"validation": {"psnr": number}}))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("tokenizer:\n  variants:\n    vq: {}\n")
    run_stages(1)
    return tmp_path


def keep(path: Path) -> Callable[[], None]:
    """Remember a file, to put it back after the stages have run again."""
    raw = path.read_bytes()
    return lambda: (path.write_bytes(raw), None)[1]


def test_what_one_run_left_is_taken(store: Path) -> None:
    inputs = read_inputs(ROOT, Path("params.yaml"))
    assert inputs.dataset is not None
    assert inputs.dataset.num_classes == 1
    assert inputs.tokenizer["vq"].validation.psnr == 1
    assert inputs.curves["tokenizer"]["vq"]["ae/loss"] == [1.0]


def test_metrics_alone_are_taken(store: Path) -> None:
    """Git has metrics and curves; a clone without data has no artifacts."""
    for name in ("dataset", "tokenizer/vq"):
        (ROOT / name / "manifest.json").unlink()
        (ROOT / name).rmdir()
        (ROOT / f"{name}.lineage.json").unlink()
    assert read_inputs(ROOT, Path("params.yaml")).tokenizer["vq"].validation.psnr == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics/tokenizer/vq.json", r"vq\.json is not of artifacts/"),
        ("curves/tokenizer/vq.csv", r"vq\.json is not of artifacts/curves/tokenizer/vq\.csv"),
        ("metrics/dataset.json", r"dataset\.json is not of artifacts/dataset"),
        ("tokenizer/vq.lineage.json", "vq does not match its lineage"),
    ],
)
def test_files_of_another_run_are_refused(store: Path, name: str, message: str) -> None:
    put_back = keep(ROOT / name)
    run_stages(2)
    put_back()
    with pytest.raises(VqpipeError, match=message):
        read_inputs(ROOT, Path("params.yaml"))


@pytest.mark.parametrize(
    "name", ["metrics/tokenizer/vq.json", "curves/tokenizer/vq.csv", "metrics/dataset.json"]
)
def test_files_that_are_missing_are_named(store: Path, name: str) -> None:
    (ROOT / name).unlink()
    with pytest.raises(VqpipeError, match=rf"{name} is not there"):
        read_inputs(ROOT, Path("params.yaml"))


def test_an_artifact_of_another_version_of_its_input_is_refused(store: Path) -> None:
    kept = {
        name: (ROOT / name).read_bytes()
        for name in ("dataset/manifest.json", "dataset.lineage.json", "metrics/dataset.json")
    }
    run_stages(2)
    for name, raw in kept.items():
        (ROOT / name).write_bytes(raw)
    with pytest.raises(
        VqpipeError, match="artifacts/tokenizer/vq was made from another dataset than artifacts/dataset"
    ):
        read_inputs(ROOT, Path("params.yaml"))


@pytest.mark.parametrize(
    "name", ["metrics/tokenizer/vq.json", "metrics/dataset.json", "tokenizer/vq.lineage.json"]
)
def test_a_changed_digit_is_found(store: Path, name: str) -> None:
    path = ROOT / name
    raw = path.read_text()
    path.write_text(raw.replace("1", "2", 1))
    with pytest.raises(VqpipeError, match="damaged"):
        read_inputs(ROOT, Path("params.yaml"))
