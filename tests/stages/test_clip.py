"""The clip stage: fitted and pinned artifacts, byte-identical re-runs, resumption, messages on mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from stages.clip import app
from tests.tiny import CLIP as CLIP_CONFIG
from tests.tiny import write_dataset
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.artifacts.specs.clip import CLIP
from vqpipe.vision.clip import Clip
from vqpipe.vision.towers import build_model

FIT: dict[str, Any] = {
    "seed": 0, "embed_dim": 8, "initial_temperature": 0.07, "max_logit_scale": 100.0, "crop": "random",
    "flip": False,
    "vision": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8,
               "patch_dropout": 0.5, "pool": "avg"},
    "text": {"context_length": 8, "width": 16, "heads": 2, "layers": 1},
    "training": {
        "num_steps": 9, "batch_size": 8, "learning_rate": 1e-3, "betas": [0.9, 0.98], "weight_decay": 0.1,
        "warmup_fraction": 0.2, "final_lr_fraction": 0.0, "clip_grad_norm": 1.0, "ema_decay": 0.0,
        "precision": "fp32", "log_every": 4, "checkpoint_every": 3,
    },
}  # fmt: skip
FITTED = {"pretrained": None, "num_retrieval": 6, "fit": FIT}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clip_stage")
    write_dataset(root, {"train": 16, "validation": 6, "test": 2})
    return root / "dataset"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def run(dataset: Path, out: Path, section: dict[str, Any]) -> Result:
    params = out.parent / f"{out.name}.yaml"
    with params.open("w") as stream:
        YAML().dump({"clip": section}, stream)
    arguments = [
        f"--dataset={dataset}", f"--out={out}", f"--metrics={out}.json", f"--curves={out}.csv",
        f"--params={params}",
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments)


def test_a_fitted_clip_has_its_spec_and_a_rerun_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = run(dataset, tmp_path / name, FITTED)
        assert result.exit_code == 0, result.output
    for suffix in ("", ".json", ".csv"):
        assert tree_digest(tmp_path / f"first{suffix}") == tree_digest(tmp_path / f"second{suffix}")
    facts = read_manifest(tmp_path / "first", CLIP).facts
    assert facts["fitted_on"] == "the captions of 16 training images"
    assert Clip.load(tmp_path / "first").encode_text(["a dark picture"]).shape == (1, 8)
    metrics = json.loads((tmp_path / "first.json").read_text())
    assert metrics["id"] == facts["id"]
    assert (metrics["num_steps"], metrics["num_validation"], metrics["num_texts"]) == (9, 6, 2)
    assert metrics["chance_image_to_text_r1"] == 0.5
    assert 0 <= metrics["image_to_text_r1"] <= metrics["image_to_text_r5"] == 1
    rows = list(csv.DictReader((tmp_path / "first.csv").open()))
    assert [row["step"] for row in rows] == ["4", "8", "9"]
    assert all(float(row["main/loss"]) > 0 for row in rows)


def test_a_fit_that_was_interrupted_resumes_to_the_same_bytes(
    dataset: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(dataset, tmp_path / "whole", FITTED).exit_code == 0
    from vqpipe.training import clip

    original, calls = clip.info_nce, []

    def breaks(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(clip, "info_nce", breaks)
    assert run(dataset, tmp_path / "broken", FITTED).exit_code != 0
    assert not (tmp_path / "broken").exists()
    calls.clear()
    assert run(dataset, tmp_path / "broken", FITTED).exit_code == 0
    assert len(calls) == 3  # steps 7 to 9: the checkpoint was at 6
    assert tree_digest(tmp_path / "broken") == tree_digest(tmp_path / "whole")
    assert not list(scratch.glob("clip/*"))


def test_a_file_is_pinned(dataset: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = build_model(CLIP_CONFIG["model_cfg"], "tiny")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CLIP_CONFIG))
    source = {
        "kind": "file",
        "model": "tiny",
        "path": str(tmp_path / "weights.safetensors"),
        "config": str(tmp_path / "config.json"),
    }
    result = run(dataset, tmp_path / "clip", {"pretrained": source, "num_retrieval": 4})
    assert result.exit_code == 0, result.output
    clip = Clip.load(tmp_path / "clip")
    assert clip.id.startswith("tiny:file:")
    assert all(torch.equal(a, b) for a, b in zip(clip.model.parameters(), model.parameters(), strict=True))
    assert json.loads((tmp_path / "clip.json").read_text())["num_validation"] == 4
    assert (tmp_path / "clip.csv").read_text() == "step\n"
    lineage = json.loads((tmp_path / "clip.lineage.json").read_text())
    assert len(lineage["inputs"]) == 3


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({**FITTED, "fit": {**FIT, "embed_dims": 8}}, "did you mean embed_dim?"),
        ({"pretrained": None, "num_retrieval": 6}, "how to fit"),
        (
            {"pretrained": {"kind": "tag", "model": "ViT-B-32", "tag": "opnai"}, "num_retrieval": 6},
            "did you mean openai?",
        ),
        ({**FITTED, "fit": {**FIT, "training": {**FIT["training"], "batch_size": 17}}}, "16 of 16 images"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(
    dataset: Path, tmp_path: Path, section: dict[str, Any], said: str
) -> None:
    result = run(dataset, tmp_path / "clip", section)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "clip").exists()
    assert not (tmp_path / "clip.json").exists()
