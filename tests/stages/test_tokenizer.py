"""The tokenizer stage: what it publishes, what it refuses, and that a rerun gives the same bytes."""

from __future__ import annotations

import csv
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from stages import tokenizer as stage
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.artifacts.publish import read_manifest, tree_digest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.artifacts.specs.tokenizer import TOKENIZER as SPEC
from vqpipe.data.loader import ImageSplit
from vqpipe.tokenizers import train
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizer")
    write_dataset(root, {"train": 12, "validation": 4, "test": 4})
    write_tiny_clip(root / "clip")
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    return root


def common() -> dict[str, Any]:
    section = deepcopy(TOKENIZER)
    section["training"] |= {
        "num_steps": 4,
        "batch_size": 4,
        "log_every": 2,
        "checkpoint_every": 2,
        "ema_decay": 0.9,
    }
    section["losses"]["perceptual"] = {"kind": "clip", "layers": [0]}
    section["losses"]["perceptual_weight"] = 0.1
    section["losses"]["adversarial"] |= {"weight": 0.5, "start": 0.5}
    return section


def run(inputs: Path, work: Path, section: dict[str, Any], variant: str = "v", **changes: Any) -> Result:
    work.mkdir(exist_ok=True)
    (work / "params.yaml").write_text(json.dumps({"tokenizer": {"common": section, "variants": {"v": {}}}}))
    options: dict[str, Any] = {
        "variant": variant, "codebook": inputs / "none", "out": work / "out", "metrics": work / "m.json",
        "curves": work / "c.csv", "dataset": inputs / "dataset", "clip": inputs / "clip",
        "params": work / "params.yaml", **changes,
    }  # fmt: skip
    return CliRunner().invoke(
        stage.app, [w for name, value in options.items() for w in (f"--{name}", str(value))]
    )


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


def test_it_publishes_its_spec_metrics_curves_and_sidecars_and_reruns_to_the_same_bytes(
    inputs: Path, tmp_path: Path
) -> None:
    done = run(inputs, tmp_path / "a", common())
    assert done.exit_code == 0, done.output
    folder = tmp_path / "a/out"
    assert read_manifest(folder, SPEC).facts["weights"] == "ema"
    assert Tokenizer.from_pretrained(folder).latent_scale.item() > 0
    metrics = json.loads((tmp_path / "a/m.json").read_text())
    assert metrics["num_steps"] == 4
    assert metrics["validation"]["psnr"] > 0
    rows = list(csv.DictReader((tmp_path / "a/c.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert rows[0]["disc/loss"] == ""
    assert rows[1]["disc/loss"] != ""
    assert {"ae/l1", "ae/clip_distance", "ae/codes_in_batch_0"} <= set(rows[0])
    assert (tmp_path / "a/out.lineage.json").is_file()
    assert not list((tmp_path / "scratch").rglob("*.safetensors"))
    assert run(inputs, tmp_path / "b", common()).exit_code == 0
    assert tree_digest(folder) == tree_digest(tmp_path / "b/out")
    assert (tmp_path / "a/m.json").read_bytes() == (tmp_path / "b/m.json").read_bytes()


def test_a_clip_of_which_only_the_id_is_needed_is_not_loaded(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> Clip:
        raise AssertionError("loaded")

    monkeypatch.setattr(Clip, "load", load)
    section = common()
    section["losses"] |= {"perceptual": {"kind": "none"}, "perceptual_weight": 0.0}
    done = run(inputs, tmp_path / "a", section)
    assert done.exit_code == 0, done.output
    assert isinstance(run(inputs, tmp_path / "b", common()).exception, AssertionError)


DISCRIMINATOR = TOKENIZER["losses"]["adversarial"]["discriminator"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizer": {"num_code": 16}}, "num_code is not a field; did you mean num_codes?"),
        ({"codebook": "words"}, "quantizer vq needs codebook none, but codebook is words"),
        ({"resolution": 18}, "not a multiple of the trunk's downsampling"),
        ({"training": {"precision": "fp64"}}, "training.precision"),
        ({"losses": {"perceptual": {"layers": [9]}}}, "perceptual layers do not fit CLIP"),
        (
            {"losses": {"adversarial": {"discriminator": DISCRIMINATOR | {"num_layers": 3}}}},
            "the discriminator with num_layers 3 leaves no patch of images of 16 pixels",
        ),
        (
            {"trunk": {"channels": 48, "channel_multipliers": [1, 3]}},
            "levels of 144 channels cannot be divided into 32 groups",
        ),
        (
            {"trunk": {"patch": 16, "channel_multipliers": [1], "adaptive_norm": True}},
            "the latent has one position",
        ),
    ],
)
def test_bad_params_exit_2_with_their_name_and_publish_nothing(
    inputs: Path, tmp_path: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "run_training", lambda *_, **__: pytest.fail("the training began"))
    section = common()
    for name, value in change.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                section[name][key] = {**section[name][key], **inner} if isinstance(inner, dict) else inner
        else:
            section[name] = value
    done = run(inputs, tmp_path / "a", section)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "a/out").exists()


def test_validation_images_that_are_too_small_are_refused_before_the_training(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ImageSplit.open

    def small(dataset: Path, split: str, resolution: int) -> ImageSplit:
        return opened(dataset, split, resolution * (2 if split == "validation" else 1))

    monkeypatch.setattr(train.ImageSplit, "open", small)
    monkeypatch.setattr(train, "run_training", lambda *_, **__: pytest.fail("the training began"))
    done = run(inputs, tmp_path / "a", common())
    assert done.exit_code == 2
    assert "4 of 4 validation images are smaller than 32 pixels" in done.output


def test_an_unknown_variant_lists_those_there_are(inputs: Path, tmp_path: Path) -> None:
    done = run(inputs, tmp_path / "a", common(), variant="w")
    assert done.exit_code == 2
    assert "choices:  v" in done.output


def test_a_folder_that_is_no_codebook_is_refused_with_the_next_command(inputs: Path, tmp_path: Path) -> None:
    done = run(inputs, tmp_path / "a", common(), codebook=inputs / "clip")
    assert done.exit_code == 2
    assert "is not a pretrained codebook" in done.output
    done = run(inputs, tmp_path / "a", common(), codebook=inputs / "nothing")
    assert done.exit_code == 2
    assert "run:" in done.output
