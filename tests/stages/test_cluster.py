"""The cluster stage: its output's spec, byte-identical re-runs, messages on mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.cluster import app
from tests.codebook_folders import write_patches
from tests.ranks import run_ranks
from vqpipe.artifacts.publish import publish_folder, tree_digest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.codebooks.patches import read_patches_codebook
from vqpipe.vision.cluster import _common_rows
from vqpipe.vision.features import open_vectors
from vqpipe.vision.kmeans import KMeans

ROOT = Path(__file__).parents[2]
PARAMS = {
    "num_clusters": 6,
    "method": "kmeans",
    "algorithm": "torch",
    "start": "random",
    "num_iterations": 5,
    "seed": 0,
    "max_points_per_centroid": None,
    "spherical": False,
    "prefixes": [],
    "pull": 0.0,
}
SCRATCH = "scratch"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / SCRATCH))
    return tmp_path / SCRATCH


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    return write_patches(tmp_path / "patches", features)


def run(patches: Path, out: Path, **changes: Any) -> Result:
    with (out.parent / "params.yaml").open("w") as stream:
        YAML().dump({"cluster": {**PARAMS, **changes}}, stream)
    return CliRunner().invoke(app, arguments(patches, out))


def arguments(patches: Path, out: Path) -> list[str]:
    files = {"metrics": f"{out}.json", "curves": f"{out}.csv", "dataset": out.parent / "dataset"}
    return [
        f"--patches={patches}", f"--out={out}", f"--params={out.parent / 'params.yaml'}",
        *(f"--{name}={path}" for name, path in files.items()),
    ]  # fmt: skip


def write_dataset(folder: Path, labels: list[int | None]) -> Path:
    rows: dict[str, list[Any]] = {name: [None] * len(labels) for name in IMAGES.columns}
    rows |= {"image_id": [str(n) for n in range(len(labels))], "label": labels}
    facts = {"splits": {"train": {"images": len(labels), "shards": ["train-00000.parquet"]}}}
    with publish_folder(folder, DATASET, facts) as partial:
        write_table(partial / "train-00000.parquet", IMAGES, to_table(IMAGES, rows))
        nothing: dict[str, list[Any]] = {name: [] for name in QUARANTINE.columns}
        write_table(partial / "quarantine.parquet", QUARANTINE, to_table(QUARANTINE, nothing))
    return folder


def test_output_has_its_spec_and_a_rerun_the_same_bytes(patches: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = run(patches, tmp_path / name)
        assert result.exit_code == 0, result.output
    assert tree_digest(tmp_path / "first") == tree_digest(tmp_path / "second")
    codebook = read_patches_codebook(tmp_path / "first")
    assert codebook.vectors.shape == (6, 5)
    assert codebook.counts.sum() == 300
    assert codebook.facts["clip_id"] == "tiny:random:0"
    metrics = json.loads((tmp_path / "first.json").read_text())
    assert metrics["objective"] == codebook.facts["objective"]
    assert metrics["objective"] <= metrics["objective_at_start"]
    assert (metrics["num_empty"], metrics["num_vectors"], metrics["num_iterations"]) == (0, 300, 5)
    lines = (tmp_path / "first.csv").read_text().splitlines()
    assert lines[0] == "step,objective,empty,refilled"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4", "5"]


def test_prefixes_are_measured_and_recorded(patches: Path, tmp_path: Path) -> None:
    assert run(patches, tmp_path / "out", num_clusters=30, prefixes=[5, 10]).exit_code == 0
    codebook = read_patches_codebook(tmp_path / "out")
    assert list(codebook.prefixes) == [5, 10, 30]
    assert sorted(codebook.prefixes.values(), reverse=True) == list(codebook.prefixes.values())
    vectors = open_vectors(patches)[:].astype(np.float32)
    for k, objective in codebook.prefixes.items():
        nearest = torch.cdist(torch.from_numpy(vectors), codebook.vectors[:k]).square().min(dim=1).values
        assert objective == pytest.approx(float(nearest.mean()), rel=1e-4)
    metrics = json.loads((tmp_path / "out.json").read_text())
    assert metrics["prefixes"]["5"]["objective"] == codebook.prefixes[5]


PROGRAM = """
import os, signal, sys
from stages.cluster import app
from tests.codebook_folders import write_patches
from vqpipe.vision.kmeans import LloydState
save = LloydState.save
def save_and_die(state, path):
    save(state, path)
    if len(state.rows) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
LloydState.save = save_and_die
app(sys.argv[1:])
"""


def test_sigkill_between_iterations_changes_no_byte(patches: Path, tmp_path: Path, scratch: Path) -> None:
    assert run(patches, tmp_path / "whole", num_clusters=20, prefixes=[4]).exit_code == 0
    (tmp_path / "killed").mkdir()
    out = tmp_path / "killed" / "out"
    out.parent.joinpath("params.yaml").write_bytes((tmp_path / "params.yaml").read_bytes())
    killed = subprocess.run([sys.executable, "-c", PROGRAM, *arguments(patches, out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list((scratch / "cluster").glob("*/kmeans.safetensors"))
    result = CliRunner().invoke(app, arguments(patches, out))
    assert result.exit_code == 0, result.output
    assert tree_digest(out) == tree_digest(tmp_path / "whole")
    assert Path(f"{out}.csv").read_bytes() == Path(f"{tmp_path / 'whole'}.csv").read_bytes()
    assert not list((scratch / "cluster").glob("*"))


RANKS = """
import sys
import torch.distributed as dist
from stages.cluster import app
from tests.codebook_folders import write_patches
from vqpipe.vision.vectors import RankPart

def own(vectors, device):  # unequal parts, and one of none
    ends = [0, 7, 7, len(vectors)]
    return RankPart(vectors, ends[dist.get_rank()], ends[dist.get_rank() + 1], device)

RankPart.own = own
dist.init_process_group("gloo")
for arguments in sys.argv[1:]:
    app(arguments.split(), standalone_mode=False)
dist.destroy_process_group()
"""


def test_three_ranks_publish_the_same_bytes(tmp_path: Path) -> None:
    features = torch.randn(150, 5, generator=torch.Generator().manual_seed(1)).repeat(2, 1)
    patches = write_patches(
        tmp_path / "patches", features
    )  # twice the same: a random start has empty clusters
    runs: dict[str, dict[str, Any]] = {
        "random": {"num_clusters": 60, "prefixes": [5, 10], "max_points_per_centroid": 4},
        "plusplus": {
            "num_clusters": 40,
            "start": "plusplus",
            "prefixes": [8],
            "pull": 0.5,
            "spherical": True,
        },
        "selection": {"num_clusters": 40, "method": "selection"},
    }
    for name, changes in runs.items():
        (tmp_path / name).mkdir()
        assert run(patches, tmp_path / name / "one", **changes).exit_code == 0
    assert json.loads((tmp_path / "random/one.json").read_text())["num_refilled"] > 0
    (tmp_path / "ranks.py").write_text(RANKS)
    words = (" ".join(arguments(patches, tmp_path / name / "three")) for name in runs)
    run_ranks(tmp_path / "ranks.py", *words, count=3)
    for name in runs:
        assert tree_digest(tmp_path / name / "three") == tree_digest(tmp_path / name / "one")
        curves = [(tmp_path / name / f"{which}.csv").read_bytes() for which in ("one", "three")]
        assert curves[0] == curves[1]


@pytest.mark.parametrize("method", ["selection", "normal"])
def test_codebooks_without_k_means(patches: Path, tmp_path: Path, method: str) -> None:
    for name in ("first", "second"):
        assert run(patches, tmp_path / name, method=method, prefixes=[2]).exit_code == 0
    assert tree_digest(tmp_path / "first") == tree_digest(tmp_path / "second")
    codebook = read_patches_codebook(tmp_path / "first")
    assert (codebook.facts["method"], codebook.counts.sum()) == (method, 300)
    vectors = {tuple(row) for row in open_vectors(patches)[:].astype(np.float32).tolist()}
    own = sum(tuple(row) in vectors for row in codebook.vectors.tolist())
    assert own == (6 if method == "selection" else 0)
    assert json.loads((tmp_path / "first.json").read_text())["num_iterations"] == 0


def test_normal_vectors_have_the_features_moments(patches: Path, tmp_path: Path) -> None:
    assert run(patches, tmp_path / "out", method="normal", num_clusters=300).exit_code == 0
    drawn, features = (
        read_patches_codebook(tmp_path / "out").vectors,
        torch.from_numpy(open_vectors(patches)[:].astype(np.float32)),
    )
    torch.testing.assert_close(drawn.std(dim=0), features.std(dim=0), rtol=0.2, atol=0)
    torch.testing.assert_close(drawn.mean(dim=0), features.mean(dim=0), rtol=0, atol=0.25)


def test_per_class_divides_k_among_the_classes(tmp_path: Path) -> None:
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    labels = [0 if n % 3 else 1 for n in range(300)]
    features += 100.0 * torch.tensor(labels)[:, None]
    patches = write_patches(tmp_path / "patches", features)
    write_dataset(tmp_path / "dataset", list(labels))
    result = run(patches, tmp_path / "out", per_class=True, num_clusters=9, prefixes=[2])
    assert result.exit_code == 0, result.output
    codebook = read_patches_codebook(tmp_path / "out")
    near_one = codebook.vectors.mean(dim=1) > 50
    assert int(near_one.sum()) == 4
    assert near_one[:2].sum() == 1
    assert codebook.counts[near_one].sum() == 100
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6


def test_a_codebook_that_is_drawn_is_not_called_one_of_classes(patches: Path, tmp_path: Path) -> None:
    result = run(patches, tmp_path / "out", method="selection", per_class=True)
    assert result.exit_code == 2
    assert (
        "method selection clusters nothing class by class; per_class: false, or method: kmeans"
        in result.output
    )


def test_a_class_that_ended_early_refills_nothing_after_its_end() -> None:
    def one(steps: list[tuple[float, int, int]], count: int) -> KMeans:
        rows = tuple(
            {"objective": objective, "empty": empty, "refilled": refilled}
            for objective, empty, refilled in steps
        )
        return KMeans(np.zeros((2, 3), np.float32), np.ones(2, np.int64), 0.0, rows, count)  # type: ignore[arg-type]

    rows = _common_rows([one([(4.0, 1, 2)], 30), one([(8.0, 0, 0), (6.0, 0, 1), (5.0, 0, 0)], 10)])
    assert [row["refilled"] for row in rows] == [2, 1, 0]
    assert [row["empty"] for row in rows] == [1, 1, 1]
    assert [row["objective"] for row in rows] == [5.0, 4.5, 4.25]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "does not exist"),
        ([0] * 299 + [None], "1 of 300 images without one, first 299"),
        ([0] * 299, "1 images of the patches, first 299"),
        ([0] * 298 + [1] * 2, "class 1: 2 vectors, 3 centroids"),
    ],
)
def test_per_class_without_the_labels_it_needs(
    patches: Path, tmp_path: Path, labels: list[int | None] | None, message: str
) -> None:
    if labels is not None:
        write_dataset(tmp_path / "dataset", labels)
    result = run(patches, tmp_path / "out", per_class=True)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 301}, "300 vectors"),
        ({"num_cluster": 6}, "did you mean num_clusters?"),
        ({"prefixes": [6]}, "not all below num_clusters 6"),
        ({"prefixes": [4, 2]}, "do not rise"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(
    patches: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    result = run(patches, tmp_path / "out", **changes)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "message"), [(np.nan, "vector 7"), (None, "all vectors are the same")])
def test_useless_features_exit_2(tmp_path: Path, value: float | None, message: str) -> None:
    features = torch.ones(50, 4)
    if value is not None:
        features[7, 1] = value
    result = run(write_patches(tmp_path / "patches", features), tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_missing_patches_exit_2(tmp_path: Path) -> None:
    result = run(tmp_path / "none", tmp_path / "out")
    assert result.exit_code == 2
    assert "does not exist" in result.output
