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

REPORT = {
    "title": "A <small> run",
    "max_picture_pixels": 64,
    "num_dataset_images": 4,
    "num_reconstructions": 1,
    "num_pairs": 5,
    "num_edges": 5,
    "num_code_words": 4,
    "num_samples": 4,
    "num_read_examples": 2,
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
    publish_json(
        tmp_path / "artifacts/metrics/clip.json",
        {"id": "x", "image_to_text_r1": 0.5, "chance_image_to_text_r1": 0.1},
    )
    publish_text(tmp_path / "artifacts/curves/tokenizer/vq.csv", "step,ae/loss\n0,1\n1,0.5\n")
    return tmp_path


def test_it_publishes_a_page_and_metrics(folder: Path) -> None:
    assert run(folder) == (0, "")
    html = (folder / "report/index.html").read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(html)
    assert "<title>A &lt;small&gt; run</title>" in html
    metrics = read_sealed_json(folder / "report/metrics.json")
    assert metrics == {
        "clip": {"chance_image_to_text_r1": 0.1, "id": "x", "image_to_text_r1": 0.5},
        "prior": {},
        "read": {},
        "tokenizer": {},
    }
    lineage = json.loads((folder / "report/index.html.lineage.json").read_text())
    assert lineage["stage"] == "report"


def test_a_second_run_gives_the_same_bytes(folder: Path) -> None:
    run(folder)
    run(folder, "again")
    for name in ("index.html", "metrics.json"):
        assert (folder / "report" / name).read_bytes() == (folder / "again" / name).read_bytes()


def test_bad_params_are_told(folder: Path) -> None:
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


def test_a_missing_artifacts_folder_is_told(tmp_path: Path) -> None:
    write_params(tmp_path)
    code, output = run(tmp_path)
    assert code == 2
    assert "there is no artifacts folder" in output
