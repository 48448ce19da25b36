"""The patches stage: its output's spec, byte-identical re-runs, messages on mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.patches import app
from tests.tiny import CLIP as CLIP_CONFIG
from tests.tiny import write_dataset
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.artifacts.specs.patches import PATCHES
from vqpipe.vision.clip import write_clip
from vqpipe.vision.features import read_vectors
from vqpipe.vision.towers import build_model

PARAMS = {"split": "train", "projected": True, "grid": 2, "batch_size": 4, "shard_bytes": 1 << 20}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches_stage")
    write_dataset(root, {"train": 10, "validation": 2, "test": 2})
    torch.manual_seed(0)
    model = build_model(CLIP_CONFIG["model_cfg"], "tiny")
    write_clip(root / "clip", model, CLIP_CONFIG, name="tiny", tag="random", fitted_on=None)
    return root


def run(inputs: Path, out: Path, dataset: str = "dataset", clip: str = "clip", **changes: Any) -> Result:
    params = out.parent / "params.yaml"
    with params.open("w") as stream:
        YAML().dump({"patches": {**PARAMS, **changes}}, stream)
    arguments = [
        f"--dataset={inputs / dataset}", f"--clip={inputs / clip}", f"--out={out}", f"--metrics={out}.json",
        f"--params={params}",
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments)


def test_output_has_its_spec_and_a_rerun_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = run(inputs, tmp_path / name)
        assert result.exit_code == 0, result.output
    assert tree_digest(tmp_path / "first") == tree_digest(tmp_path / "second")
    facts = read_manifest(tmp_path / "first", PATCHES).facts
    assert (facts["num_images"], facts["num_vectors"], facts["dim"], facts["grid"]) == (10, 40, 8, 2)
    assert facts["clip_id"] == read_manifest(inputs / "clip").facts["id"]
    assert read_vectors(tmp_path / "first").shape == (40, 8)
    metrics = json.loads((tmp_path / "first.json").read_text())
    assert metrics["num_vectors"] == 40
    assert metrics["variance_per_dim"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": 3}, "choices:  1, 2"),
        ({"gird": 2}, "did you mean grid?"),
        ({"dataset": "none"}, "does not exist"),
        ({"clip": "dataset"}, "dvc repro clip"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(
    inputs: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    result = run(inputs, tmp_path / "out", **changes)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
