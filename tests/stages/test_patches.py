"""The patches stage: its output's spec, byte-identical re-runs, messages on mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.patches import app
from tests.tiny import CLIP as CLIP_CONFIG
from tests.tiny import TOKENIZER, write_dataset
from vqpipe.artifacts.publish import publish_folder, read_manifest, tree_digest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES
from vqpipe.artifacts.specs.patches import PATCHES
from vqpipe.artifacts.tables import read_table, write_table
from vqpipe.codebooks.patches import read_patches_codebook
from vqpipe.errors import MismatchError
from vqpipe.params.base import merged, validate
from vqpipe.quantizers import build
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.tokenizers.train import check_codebook
from vqpipe.vision.clip import write_clip
from vqpipe.vision.cluster import ClusterParams, write_patches_codebook
from vqpipe.vision.efficientnet import EfficientNetLite0, EfficientNetLite0Params
from vqpipe.vision.features import open_vectors
from vqpipe.vision.towers import build_model

ROOT = Path(__file__).parents[2]
PARAMS = {
    "split": "train", "projected": True, "grid": 2, "batch_size": 4, "shard_bytes": 1 << 20,
}  # fmt: skip
SMALL = {"batch_size": 3, "shard_bytes": 1 << 10}
"""Shards of 16 images."""
KILLED = """
import os, signal, sys
from stages.patches import app
from vqpipe.vision import patches

write = patches.write_tensors
def write_three(path, *rest):
    if path.name == "patches-00003.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, *rest)
patches.write_tensors = write_three
app(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches_stage")
    write_dataset(root, {"train": 70, "validation": 2, "test": 2})
    torch.manual_seed(0)
    model = build_model(CLIP_CONFIG["model_cfg"], "tiny")
    write_clip(root / "clip", model, CLIP_CONFIG, name="tiny", tag="random", fitted_on=None)
    return root


def arguments(
    inputs: Path, out: Path, dataset: str = "dataset", clip: str = "clip", **changes: Any
) -> list[str]:
    params = out.parent / "params.yaml"
    with params.open("w") as stream:
        YAML().dump({"patches": {**PARAMS, **changes}}, stream)
    return [
        f"--dataset={inputs / dataset}", f"--clip={inputs / clip}", f"--out={out}", f"--metrics={out}.json",
        f"--params={params}",
    ]  # fmt: skip


def run(inputs: Path, out: Path, **changes: Any) -> Result:
    return CliRunner().invoke(app, arguments(inputs, out, **changes))


def start(command: list[str], scratch: Path) -> subprocess.Popen[str]:
    env = os.environ | {
        "OMP_NUM_THREADS": "1", "VQPIPE_DEVICE": "cpu", "VQPIPE_WORKERS": "1", "VQPIPE_SCRATCH": str(scratch),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *command], env=env, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_output_has_its_spec_and_a_rerun_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = run(inputs, tmp_path / name)
        assert result.exit_code == 0, result.output
    assert tree_digest(tmp_path / "first") == tree_digest(tmp_path / "second")
    facts = read_manifest(tmp_path / "first", PATCHES).facts
    assert (facts["num_images"], facts["num_vectors"], facts["dim"], facts["grid"]) == (70, 280, 8, 2)
    assert facts["clip_id"] == read_manifest(inputs / "clip").facts["id"]
    assert open_vectors(tmp_path / "first").shape == (280, 8)
    metrics = json.loads((tmp_path / "first.json").read_text())
    assert metrics["num_vectors"] == 280
    assert metrics["variance_per_dim"] > 0


def test_another_tower_needs_no_clip_and_its_codebook_trains_lc(inputs: Path, tmp_path: Path) -> None:
    tower = {"kind": "efficientnet_lite0", "path": str(tmp_path / "lite0.pth"), "stride": 8, "image_size": 32}
    changes = {"tower": tower, "projected": False, "grid": 2, "clip": "none"}
    for seed, name in ((0, "first"), (0, "again"), (1, "other")):
        torch.manual_seed(seed)
        network = EfficientNetLite0(validate(tower, "patches.tower", EfficientNetLite0Params))
        torch.save(network.state_dict(), tmp_path / "lite0.pth")
        result = run(inputs, tmp_path / name, **changes)
        assert result.exit_code == 0, result.output
    assert tree_digest(tmp_path / "first") == tree_digest(tmp_path / "again")
    assert tree_digest(tmp_path / "first") != tree_digest(tmp_path / "other")
    facts = read_manifest(tmp_path / "first", PATCHES).facts
    assert (facts["num_vectors"], facts["dim"], facts["projected"]) == (280, 40, False)
    assert facts["clip_id"].startswith("efficientnet_lite0:stride8@32:")
    lineage = json.loads((tmp_path / "first.lineage.json").read_text())
    assert list(lineage["specs"].values()) == ["dataset"]

    section = {
        "num_clusters": 12, "method": "kmeans", "algorithm": "torch", "start": "random", "num_iterations": 3, "seed": 0,
        "spherical": False, "prefixes": [], "pull": 0.0,
    }  # fmt: skip
    params = validate(section, "cluster", ClusterParams)
    write_patches_codebook(tmp_path / "first", params, tmp_path / "centroids")
    codebook = read_patches_codebook(tmp_path / "centroids")
    assert codebook.facts["clip_id"] == facts["clip_id"]
    quantizer = {
        "kind": "lc", "num_codes": 12, "dim": 4, "distance": "euclidean", "beta": 0.33, "beta_on": "codebook",
        "init": "standard",
    }  # fmt: skip
    in_clip = merged(
        TOKENIZER["losses"], {"perceptual": {"kind": "clip", "layers": [0]}, "perceptual_weight": 1.0}
    )
    plain = merged(TOKENIZER, {"codebook": "patches", "quantizer": quantizer, "losses": in_clip})
    with pytest.raises(MismatchError, match="efficientnet_lite0"):
        check_codebook(validate(plain, "t", TokenizerParams), codebook, "tiny:random:0")
    accepted = validate({**plain, "foreign_codebook": True}, "t", TokenizerParams)
    foreign = check_codebook(accepted, codebook, "tiny:random:0")
    assert foreign is not None
    assert foreign.clip == facts["clip_id"]
    tokenizer = Tokenizer(accepted, build(accepted.quantizer, codebook)).eval()
    tokenizer.save(tmp_path / "tokenizer", {"weights": "last", "codebook": dict(codebook.facts)})
    loaded, images = Tokenizer.from_pretrained(tmp_path / "tokenizer"), torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(loaded.decode(loaded.encode(images)), tokenizer(images)[0])


def test_workers_change_no_byte(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(inputs, tmp_path / "one", **SMALL).exit_code == 0
    monkeypatch.setenv("VQPIPE_WORKERS", "3")
    assert run(inputs, tmp_path / "three", **SMALL).exit_code == 0
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "three")


def test_a_killed_run_resumes_after_its_last_whole_shard(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "whole", **SMALL).exit_code == 0
    scratch = tmp_path / "scratch"
    assert not list(scratch.rglob("*.safetensors"))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    process = start([str(script), *arguments(inputs, tmp_path / "out", **SMALL)], scratch)
    assert process.wait() == -signal.SIGKILL, process.communicate()
    kept = {path: path.stat().st_ino for path in (scratch / "patches").glob("*/*.safetensors")}
    assert len(kept) == 3
    assert not (tmp_path / "out").exists()
    assert run(inputs, tmp_path / "out", **SMALL).exit_code == 0
    published = {path.stat().st_ino for path in (tmp_path / "out").glob("*.safetensors")}
    assert set(kept.values()) < published  # the very files of the killed run
    assert len(published) == 5
    assert tree_digest(tmp_path / "out") == tree_digest(tmp_path / "whole")
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not list(scratch.rglob("*.safetensors"))


def test_two_ranks_publish_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "one", **SMALL).exit_code == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "stages.patches"]
    process = start([*launch, *arguments(inputs, tmp_path / "two", **SMALL)], tmp_path / "scratch")
    assert process.wait() == 0, process.communicate()
    assert tree_digest(tmp_path / "two") == tree_digest(tmp_path / "one")
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def damage(dataset: Path, out: Path, rows: list[int]) -> None:
    """A copy of the dataset whose train images of some rows are cut short."""
    manifest = read_manifest(dataset, DATASET)
    (name,) = manifest.facts["splits"]["train"]["shards"]
    with publish_folder(out, DATASET, manifest.facts) as partial:
        shutil.copytree(dataset, partial, dirs_exist_ok=True)
        table = read_table(dataset / name, IMAGES)
        images = [
            png[: len(png) // 2] if at in rows else png
            for at, png in enumerate(table.column("image").to_pylist())
        ]
        at = table.column_names.index("image")
        write_table(partial / name, IMAGES, table.set_column(at, "image", pa.array(images, pa.binary())))


def test_an_image_that_was_damaged_in_the_dataset_is_named_and_nothing_is_published(
    inputs: Path, tmp_path: Path
) -> None:
    damage(inputs / "dataset", tmp_path / "damaged", [40, 69])
    ids = read_table(inputs / "dataset/train-00000.parquet", IMAGES, ["image_id"]).column(0).to_pylist()
    changes: dict[str, Any] = {**SMALL, "dataset": str(tmp_path / "damaged")}
    result = run(inputs, tmp_path / "out", **changes)
    assert result.exit_code == 2
    assert f"train-00000.parquet: image {ids[40]} is damaged" in result.output
    assert "truncated" in result.output
    assert "dvc repro dataset" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 3}, "choices:  1, 2"),
        ({"gird": 2}, "did you mean grid?"),
        ({"max_bad_fraction": 0.01}, "patches.max_bad_fraction is not a field"),
        ({"dataset": "none"}, "does not exist"),
        ({"clip": "dataset"}, "expected: clip v1"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(
    inputs: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    result = run(inputs, tmp_path / "out", **changes)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
