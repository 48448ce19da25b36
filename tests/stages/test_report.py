"""The report stage: what it publishes, its messages, and the same bytes on a second run."""

from __future__ import annotations

import json
from pathlib import Path

import html5lib
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from stages.report import app
from vqpipe.artifacts.publish import publish_json, publish_text
from vqpipe.artifacts.seal import read_sealed_json

CLIP = {
    "id": "x", "num_validation": 4, "num_texts": 8, "num_parameters": 100,
    **{
        f"{chance}{way}_{rank}": 0.1 if chance else 0.5
        for chance in ("", "chance_") for way in ("image_to_text", "text_to_image") for rank in ("r1", "r5")
    },
}  # fmt: skip
REPORT = {
    "title": "A <small> run",
    "max_picture_pixels": 64,
    "num_dataset_images": 4,
    "num_reconstructions": 1,
    "num_pairs": 5,
    "num_edges": 5,
    "num_code_words": 4,
    "num_samples": 4,
    "num_task_examples": 2,
    "error_levels": 64.0,
}


def write_params(folder: Path, **changes: object) -> Path:
    tree = {"tokenizer": {"variants": {"vq": {}}}, "prior": {"pairs": {}}, "report": {**REPORT, **changes}}
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)
    return folder / "params.yaml"


def run(folder: Path, out: str = "report") -> tuple[int, str]:
    arguments = [
        "--artifacts",
        folder / "artifacts",
        "--out",
        folder / out,
        "--params",
        folder / "params.yaml",
    ]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_params(tmp_path)
    publish_json(tmp_path / "artifacts/metrics/clip.json", CLIP)
    publish_text(tmp_path / "artifacts/curves/tokenizer/vq.csv", "step,ae/loss\n0,1\n1,0.5\n")
    return tmp_path


def test_it_publishes_a_page_and_metrics(folder: Path) -> None:
    assert run(folder) == (0, "")
    html = (folder / "report/index.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(html)
    assert "<title>A &lt;small&gt; run</title>" in html
    metrics = read_sealed_json(folder / "report/metrics.json")
    assert metrics == {"clip": CLIP, "prior": {}, "task": {}, "tokenizer": {}}
    lineage = json.loads((folder / "report/index.html.lineage.json").read_text())
    assert lineage["stage"] == "report"


def test_a_second_run_gives_the_same_bytes(folder: Path) -> None:
    run(folder)
    run(folder, "again")
    for name in ("index.html", "metrics.json"):
        assert (folder / "report" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_bad_params_are_refused(folder: Path) -> None:
    write_params(folder, num_pair=3)
    code, output = run(folder)
    assert code == 2
    assert "params.yaml: report.num_pair is not a field; did you mean num_pairs?" in output
    assert not (folder / "report").exists()


def test_a_damaged_input_leaves_the_old_report(folder: Path) -> None:
    run(folder)
    before = (folder / "report/index.html").read_bytes()
    (folder / "artifacts/metrics/clip.json").write_text("{")
    code, output = run(folder)
    assert code == 2
    assert "clip.json: cannot be read as JSON" in output
    assert (folder / "report/index.html").read_bytes() == before


def test_metrics_of_another_form_are_one_error_with_the_command(folder: Path) -> None:
    path = folder / "artifacts/metrics/clip.json"
    publish_json(path, {**CLIP, "accuracy_at_1": 0.5})
    code, output = run(folder)
    assert code == 2
    message = " ".join(output.split())
    assert "clip.json does not have the form that this version writes" in message
    assert "accuracy_at_1" in message
    assert "dvc repro clip" in message
    assert not (folder / "report").exists()


def test_a_missing_artifacts_folder_is_refused(tmp_path: Path) -> None:
    write_params(tmp_path)
    code, output = run(tmp_path)
    assert code == 2
    assert "there is no artifacts folder" in output
