"""The evaluate stage: outputs and specs, byte-identical re-runs, messages on bad params and inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.evaluate import app
from tests import tiny
from tests.ranks import run_ranks
from vqpipe.artifacts.publish import file_digest, read_manifest, tree_digest
from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.artifacts.specs.evaluation import EVALUATION, REPLACED
from vqpipe.artifacts.tables import read_table
from vqpipe.boards.row import flat_evaluation
from vqpipe.data.build import DatasetParams, build_dataset
from vqpipe.errors import DataError
from vqpipe.evaluation.evaluate import evaluate_folder
from vqpipe.evaluation.measure import EvaluationMetrics
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.vision import towers
from vqpipe.vision.clip import Clip, write_clip

NUM_IMAGES = {"train": 40, "validation": 2, "test": 20}
EVALUATE: dict[str, Any] = {
    "seed": 0, "num_images": None, "batch_size": 8, "num_bootstrap": 100,
    "perceptual": {"kind": "clip", "layers": [0, 1]},
    "distances": {"features": "clip", "num_subsets": 3, "subset_images": 8, "num_neighbours": 3, "seed": 0},
    "floors": {"num_patches": 256, "num_iterations": 2, "max_num_codes": 256},
    "examples": {"num_images": 2, "num_codes": 3, "num_patches": 2},
}  # fmt: skip
TOKENIZER: dict[str, Any] = {
    **tiny.TOKENIZER, "trunk": {**tiny.TOKENIZER["trunk"], "patch": 2, "channel_multipliers": [1, 1]}
}  # fmt: skip


def picture(index: int) -> Image.Image:
    coarse = numpy_rng(index, "picture").integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((16, 16), Image.Resampling.BILINEAR)


def write_params(path: Path, section: dict[str, Any]) -> Path:
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump({"evaluate": section}, stream)
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a CLIP and a tokenizer, all with fresh weights, and a params file."""
    root = tmp_path_factory.mktemp("evaluate")
    index = 0
    for split, count in NUM_IMAGES.items():
        (root / "raw" / split).mkdir(parents=True)
        for _ in range(count):
            picture(index).save(root / "raw" / split / f"{index:03d}.png")
            index += 1
    source = {
        "kind": "image_folder", "path": str(root / "raw"), "splits": {name: name for name in NUM_IMAGES},
        "holdout": {"validation": 0.0, "test": 0.0, "seed": 0}, "classes": "none", "templates": ["a picture"],
    }  # fmt: skip
    section = {
        "source": source, "resize": {"short_side": 16, "filter": "box", "too_small": "upscale"},
        "max_bad_fraction": 0.0, "max_pixels": 4096, "shard_bytes": 1 << 20,
    }  # fmt: skip
    build_dataset(validate(section, "dataset", DatasetParams), root / "dataset")
    torch.manual_seed(0)
    model = towers.build_model(tiny.CLIP["model_cfg"], "tiny")
    write_clip(root / "clip", model, tiny.CLIP, name="tiny", tag="fresh", fitted_on=None)
    config = validate(TOKENIZER, "tokenizer", TokenizerParams)
    Tokenizer(config, build(config.quantizer, None)).save(root / "tokenizer", {})
    write_params(root / "params.yaml", EVALUATE)
    return root


def arguments(inputs: Path, out: Path, params: Path | None = None, **changes: Path) -> list[str]:
    options = {
        "dataset": inputs / "dataset", "clip": inputs / "clip", "tokenizer": inputs / "tokenizer",
        "out": out, "metrics": out.with_name(f"{out.name}.json"), "params": params or inputs / "params.yaml",
    } | changes  # fmt: skip
    return [text for name, path in options.items() for text in (f"--{name}", str(path))]


def run(inputs: Path, out: Path, params: Path | None = None, **changes: Path) -> Result:
    return CliRunner().invoke(app, arguments(inputs, out, params, **changes))


def test_it_publishes_the_evaluation_and_the_metrics_and_runs_again_to_the_same_bytes(
    inputs: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for out in (first, second):
        result = run(inputs, out)
        assert result.exit_code == 0, result.output
    manifest = read_manifest(first, EVALUATION)
    assert manifest.facts["num_images"] == NUM_IMAGES["test"]
    assert manifest.files == read_manifest(second, EVALUATION).files
    assert file_digest(tmp_path / "first.json") == file_digest(tmp_path / "second.json")
    metrics = json.loads((tmp_path / "first.json").read_text(encoding="utf-8"))
    assert metrics["bits_per_image"] == 4 * 4 * 4
    assert metrics["codes"]["code"]["num_tokens"] == NUM_IMAGES["test"] * 16
    assert {"psnr", "ssim", "l1", "l2", "clip_distance", "fd_clip", "kd_clip"} <= set(metrics)
    assert set(metrics["floors"]) == {"block_mean", "patch_kmeans"}
    assert metrics["protocol"]["distance_images"] == 20
    assert "fid" not in metrics
    assert (tmp_path / "first.lineage.json").is_file()


def test_replaced_tokens_are_kept_where_they_are_asked_for_and_change_nothing_else(
    inputs: Path, tmp_path: Path
) -> None:
    replaced = {"replaced": {"num_images": 3, "ranks": [1, 5, 4000]}}
    params = write_params(tmp_path / "params.yaml", EVALUATE | {"examples": EVALUATE["examples"] | replaced})
    for out, path in ((tmp_path / "plain", None), (tmp_path / "out", params)):
        result = run(inputs, out, path)
        assert result.exit_code == 0, result.output
    metrics, plain = (read_sealed_json(tmp_path / f"{name}.json") for name in ("out", "plain"))
    row, other = (
        flat_evaluation(EvaluationMetrics.read(tmp_path / f"{name}.json")) for name in ("out", "plain")
    )
    found = metrics.pop("replaced")
    assert not any(isinstance(value, dict | list) for value in row.values())
    assert row == other | {
        "replaced.num_images": 3, **{f"replaced.psnr_{n}": found[f"psnr_{n}"]["mean"] for n in (0, 1, 5)},
    }  # fmt: skip
    assert metrics == plain
    rows = read_table(tmp_path / "out/replaced.parquet", REPLACED).to_pylist()
    assert [row["ranks"] for row in rows] == [[1, 5]] * 3
    assert found["num_images"] == 3
    assert found["psnr_5"]["mean"] == pytest.approx(np.mean([row["psnrs"][1] for row in rows]))
    assert found["psnr_0"]["mean"] == pytest.approx(np.mean([row["psnr"] for row in rows]))
    assert not (tmp_path / "plain/replaced.parquet").exists()
    facts, without = (read_manifest(tmp_path / name, EVALUATION).facts for name in ("out", "plain"))
    assert facts == without | {"ranks_left_out": [4000]}


def test_two_ranks_publish_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    """Everything that is measured, in batches that the ranks do not share evenly."""
    examples = EVALUATE["examples"] | {"replaced": {"num_images": 5, "ranks": [1, 5]}}
    health = {"num_similar": 4, "num_mapped": 0, "num_decoded": 4}
    changes = {"batch_size": 3, "examples": examples, "health": health}
    params = write_params(tmp_path / "params.yaml", EVALUATE | changes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each rank has
    try:
        result = run(inputs, tmp_path / "one", params)
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    run_ranks("-m", "stages.evaluate", *arguments(inputs, tmp_path / "two", params))
    assert tree_digest(tmp_path / "two") == tree_digest(tmp_path / "one")
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert {"fd_clip", "floors", "ceiling", "replaced"} <= set(read_sealed_json(tmp_path / "two.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_bootstraps": 100}, "evaluate.num_bootstraps is not a field; did you mean num_bootstrap?"),
        ({"batch_size": 0}, "evaluate.batch_size"),
        ({"perceptual": {"kind": "vgg"}}, "evaluate.perceptual"),
        ({"perceptual": {"kind": "clip", "layers": [0, 9]}}, "perceptual layers do not fit CLIP"),
    ],
)
def test_bad_params_exit_2_with_their_name_and_publish_nothing(
    inputs: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    params = write_params(tmp_path / "params.yaml", EVALUATE | change)
    result = run(inputs, tmp_path / "out", params)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.json").exists()


def test_inception_and_lpips_without_weights_exit_2_naming_the_file(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for change, file in (
        ({"distances": EVALUATE["distances"] | {"features": "inception"}}, "weights-inception"),
        ({"perceptual": {"kind": "lpips", "net": "alex"}}, "alexnet-owt"),
    ):
        result = run(inputs, tmp_path / "out", write_params(tmp_path / "params.yaml", EVALUATE | change))
        assert result.exit_code == 2
        assert file in result.output


def test_a_missing_input_exits_2_with_the_next_command(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(inputs, tmp_path / "out", tokenizer=tmp_path / "none")
    assert result.exit_code == 2
    assert "dvc repro" in result.output


def test_a_drawn_sample_of_the_test_split_is_seeded(inputs: Path, tmp_path: Path) -> None:
    params = write_params(tmp_path / "params.yaml", EVALUATE | {"num_images": 12})
    assert run(inputs, tmp_path / "out", params).exit_code == 0
    metrics = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["num_images"] == metrics["protocol"]["distance_images"] == 12


def records(
    inputs: Path, out: Path, params: Path | None = None, **changes: Path
) -> dict[str, dict[str, Any]]:
    result = run(inputs, out, params, **changes)
    assert result.exit_code == 0, result.output
    measured: dict[str, dict[str, Any]] = json.loads(out.with_name(f"{out.name}.json").read_text())[
        "measured"
    ]
    return measured


def test_the_digests_follow_images_and_protocol_and_not_where_or_how_fast(
    inputs: Path, tmp_path: Path
) -> None:
    first = records(inputs, tmp_path / "first")
    assert first["images"] | {"digest": ""} == {
        "split": "test", "num_images": NUM_IMAGES["test"], "pixels": "3 x 16 x 16", "digest": "",
    }  # fmt: skip
    assert first["protocol"]["features"].startswith("clip tiny:fresh:")
    assert first["protocol"]["perceptual"].startswith("clip_distance of clip tiny:fresh:")
    assert first["protocol"]["distances"] == EVALUATE["distances"]
    shutil.copytree(inputs / "dataset", tmp_path / "elsewhere")
    faster = write_params(tmp_path / "faster.yaml", EVALUATE | {"batch_size": 3, "health": None})
    assert records(inputs, tmp_path / "second", faster, dataset=tmp_path / "elsewhere") == first
    for changes, side in (
        ({"num_images": 12}, "both"), ({"seed": 9}, "protocol"), ({"num_bootstrap": 101}, "protocol"),
        ({"floors": EVALUATE["floors"] | {"num_iterations": 1}}, "protocol"),
        ({"perceptual": {"kind": "none"}}, "protocol"),
    ):  # fmt: skip
        other = records(inputs, tmp_path / "other", write_params(tmp_path / "p.yaml", EVALUATE | changes))
        assert other["protocol"]["digest"] != first["protocol"]["digest"]
        assert (other["images"]["digest"] == first["images"]["digest"]) is (side == "protocol")


def test_the_digest_of_a_folder_is_of_its_pixels_and_not_of_its_names(inputs: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(inputs / "raw" / "test", images)
    tokenizer = Tokenizer.from_pretrained(inputs / "tokenizer")
    first = evaluate_folder(images, tokenizer)["measured"]
    for number, path in enumerate(sorted(images.iterdir(), reverse=True)):
        path.rename(tmp_path / f"{number}{path.suffix}")
    images.rmdir()
    assert evaluate_folder(tmp_path, tokenizer)["measured"] == first
    picture(99).save(tmp_path / "0.png")
    again = evaluate_folder(tmp_path, tokenizer)["measured"]
    assert again["images"]["digest"] != first["images"]["digest"]


def test_ones_own_folder_is_measured_with_bad_files_counted(inputs: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(inputs / "raw" / "test", images / "deep")
    Image.new("RGB", (40, 24), (10, 200, 30)).save(images / "wide.jpg")
    (images / "broken.png").write_bytes(b"not an image")
    (images / "notes.txt").write_text("not looked at")
    (images / ".hidden.png").write_bytes(b"")
    (images / "deep/again").symlink_to(images)
    tokenizer = Tokenizer.from_pretrained(inputs / "tokenizer")
    metrics = evaluate_folder(images, tokenizer, inputs / "clip")
    assert metrics["protocol"]["num_images"] == NUM_IMAGES["test"] + 1
    assert metrics["left_out"] == {"duplicate_path": 1, "hidden": 1, "other_file": 1, "undecodable": 1}
    assert {"psnr", "clip_distance", "fd_clip"} <= set(metrics)
    without = evaluate_folder(images, tokenizer)
    assert without["psnr"] == metrics["psnr"]
    assert "clip_distance" not in without
    assert "fd_clip" not in without


def test_a_folder_without_images_is_refused(inputs: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(inputs / "tokenizer")
    with pytest.raises(DataError, match="no usable image"):
        evaluate_folder(tmp_path, tokenizer)
    with pytest.raises(DataError, match="not a folder"):
        evaluate_folder(tmp_path / "absent", tokenizer)


def test_one_pass_of_the_clip_equals_two(inputs: Path) -> None:
    clip = Clip.load(inputs / "clip")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        embedding, blocks = clip.encode_image_and_blocks(images, (0, 1))
        torch.testing.assert_close(embedding, clip.encode_image(images))
        for block, other in zip(blocks, clip.perceptual_features(images, (0, 1)), strict=True):
            torch.testing.assert_close(block, other)
