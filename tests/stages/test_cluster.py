"""The cluster stage: its output's spec, byte-identical re-runs, messages on mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.cluster import app
from vqpipe.artifacts.publish import publish_folder, tree_digest
from vqpipe.artifacts.specs.patches import PATCH_IMAGES, PATCH_SHARD, PATCHES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.centroids import read_centroids

PARAMS = {
    "num_clusters": 6,
    "num_iterations": 5,
    "seed": 0,
    "max_points_per_centroid": None,
    "spherical": False,
}


def write_patches(folder: Path, features: torch.Tensor) -> Path:
    num, dim = features.shape
    facts = {
        "clip_id": "tiny:random:0", "dim": dim, "grid": 1, "projected": True, "num_vectors": num,
        "num_images": num, "num_shards": 1,
    }  # fmt: skip
    numbers = torch.arange(num, dtype=torch.int32)
    with publish_folder(folder, PATCHES, facts) as partial:
        rows = {"image": numbers.numpy(), "image_id": [str(n) for n in range(num)]}
        write_table(partial / "images.parquet", PATCH_IMAGES, to_table(PATCH_IMAGES, rows))
        tensors = {"features": features.half(), "image": numbers, "position": numbers * 0}
        write_tensors(partial / "patches-00000.safetensors", PATCH_SHARD, tensors)
    return folder


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    return write_patches(tmp_path / "patches", features)


def run(patches: Path, out: Path, **changes: Any) -> Result:
    params = out.parent / "params.yaml"
    with params.open("w") as stream:
        YAML().dump({"cluster": {**PARAMS, **changes}}, stream)
    arguments = [f"--patches={patches}", f"--out={out}", f"--metrics={out}.json", f"--params={params}"]
    return CliRunner().invoke(app, arguments)


def test_output_has_its_spec_and_a_rerun_the_same_bytes(patches: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = run(patches, tmp_path / name)
        assert result.exit_code == 0, result.output
    assert tree_digest(tmp_path / "first") == tree_digest(tmp_path / "second")
    prior = read_centroids(tmp_path / "first")
    assert prior.vectors.shape == (6, 5)
    assert prior.counts.sum() == 300
    assert prior.facts["clip_id"] == "tiny:random:0"
    metrics = json.loads((tmp_path / "first.json").read_text())
    assert metrics["objective"] == prior.facts["objective"]
    assert metrics["objective"] <= metrics["objective_at_start"]
    assert (metrics["num_empty"], metrics["num_vectors"], metrics["num_iterations"]) == (0, 300, 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"num_clusters": 301}, "300 vectors"), ({"num_cluster": 6}, "did you mean num_clusters?")],
)
def test_mistakes_exit_2_and_publish_nothing(
    patches: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    result = run(patches, tmp_path / "out", **changes)
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "said"), [(np.nan, "vector 7"), (None, "all vectors are the same")])
def test_useless_features_exit_2(tmp_path: Path, value: float | None, said: str) -> None:
    features = torch.ones(50, 4)
    if value is not None:
        features[7, 1] = value
    result = run(write_patches(tmp_path / "patches", features), tmp_path / "out")
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "out").exists()


def test_missing_patches_exit_2(tmp_path: Path) -> None:
    result = run(tmp_path / "none", tmp_path / "out")
    assert result.exit_code == 2
    assert "does not exist" in result.output
