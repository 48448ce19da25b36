"""The read stage end to end: fresh heads on frozen codes, own heads beside them, and that it says the same twice."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from stages import read as stage
from stages import tokenizer as tokenizer_stage
from tests.small_training import merged
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.artifacts.publish import read_manifest, tree_digest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.reading import (
    READING,
    READING_MASKED,
    READING_PER_IMAGE,
    READING_RETRIEVAL,
    READING_SIMILARITY,
)
from vqpipe.artifacts.specs.tokenizer import NO_PRIOR
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import SetupError
from vqpipe.reading import read

HEADS: dict[str, Any] = {
    "width": 8, "num_layers": 1, "num_heads": 1, "max_tokens": 8,
    "global": {
        "weight": 1.0, "directions": "both", "temperature": {"kind": "fixed", "value": 0.1}, "gather": False,
    },
    "masked": {
        "weight": 1.0, "mean": 0.5, "std": 0.1, "low": 0.1, "high": 0.3, "num_layers": 1, "width": 8, "dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "relationship": {"weight": 1.0, "projection": "mlp"},
}  # fmt: skip
COMMON: dict[str, Any] = {
    "align": HEADS, "training": None, "seed": 0, "num_images": 7, "masked_counts": [1, 3], "batch_size": 4,
    "num_bootstrap": 100, "examples": {"num_images": 2, "num_candidates": 2, "num_predictions": 3},
}  # fmt: skip
TEMPLATES = ["a {} picture", "one rather {} thing", "{}"]
STEPS = {
    "training": {"num_steps": 6, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "ema_decay": 0.9}
}
FSQ = {"kind": "fsq", "dim": 4, "levels": [5, 5, 3, 3], "margin": 0.001, "shift": "atanh"}
VARIANTS: dict[str, Any] = {
    "plain": STEPS,
    "lg": {**STEPS, "align": {**deepcopy(HEADS), "relationship": None, "max_tokens": 7}},
    "fsq": {**STEPS, "quantizer": FSQ},
}


def invoke(app: Any, **options: Any) -> Result:
    return CliRunner().invoke(
        app, [word for name, value in options.items() for word in (f"--{name}", str(value))]
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a CLIP, and a plain, an aligned and a lattice tokenizer with their aligners."""
    root = tmp_path_factory.mktemp("read")
    write_dataset(root, {"train": 12, "validation": 4, "test": 9}, templates=TEMPLATES)
    write_tiny_clip(root / "clip")
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_PRIOR, {}))
    variants = {name: merged(deepcopy(TOKENIZER), own) for name, own in VARIANTS.items()}
    (root / "params.yaml").write_text(json.dumps({"tokenizer": {"common": {}, "variants": variants}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(root / "scratch"))
        for name in VARIANTS:
            done = invoke(
                tokenizer_stage.app, variant=name, prior=root / "none", out=root / name,
                aligner=root / f"{name}-aligner", metrics=root / "m.json", curves=root / "c.csv",
                dataset=root / "dataset", clip=root / "clip", params=root / "params.yaml",
            )  # fmt: skip
            assert done.exit_code == 0, done.output
    return root


def run(inputs: Path, work: Path, name: str, aligner: str | None = None, **changes: Any) -> Result:
    work.mkdir(exist_ok=True)
    params = {"read": {"common": merged(COMMON, changes), "variants": {name: {"tokenizer": name}}}}
    (work / "params.yaml").write_text(json.dumps(params))
    return invoke(
        stage.app, variant=name, tokenizer=inputs / name, aligner=inputs / f"{aligner or name}-aligner",
        out=work / "out", metrics=work / "m.json", curves=work / "c.csv", dataset=inputs / "dataset",
        clip=inputs / "clip", params=work / "params.yaml",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def aligned(inputs: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(inputs / "scratch"))
        done = run(inputs, inputs / "lg-read", "lg")
    assert done.exit_code == 0, done.output
    return inputs / "lg-read"


def test_an_aligned_tokenizer_is_read_by_fresh_heads_and_by_its_own(aligned: Path) -> None:
    metrics = json.loads((aligned / "m.json").read_text())
    assert metrics["fresh"]["heads"] == "global, masked, relationship"
    assert metrics["own"]["heads"] == "global, masked"
    assert metrics["training"]["num_steps"] == metrics["training"]["tokenizer_steps"] == 6
    assert metrics["protocol"]["num_images"] == metrics["measured"]["images"]["num_images"] == 7
    for reader in ("fresh", "own"):
        found = metrics[reader]
        for count in (1, 3):
            part = found[f"masked_{count}"]
            assert part["num_captions"] + part["num_left_out"] == 7
            assert 0 <= part["recall"]["low"] <= part["recall"]["mean"] <= part["recall"]["high"] <= 1
            assert 0 < part["chance"] < 0.2
        assert found["masked_1"]["num_left_out"] == 0
        assert found["masked_3"]["num_left_out"] > 0
        assert found["image_to_text"]["num_candidates"] <= 6
        assert found["text_to_image"]["num_candidates"] == 7
        assert found["text_to_image"]["r10"]["mean"] == 1.0 == found["text_to_image"]["chance_r10"]
        assert 0 <= found["similarity"]["same_position"] <= 1
    assert "projected" in metrics["fresh"]["similarity"]
    assert "projected" not in metrics["own"]["similarity"]


def test_the_tables_hold_what_the_pictures_need(aligned: Path) -> None:
    out = aligned / "out"
    assert read_manifest(out, READING).facts["readers"] == ["fresh", "own"]
    masked = read_table(out / "masked.parquet", READING_MASKED).to_pylist()
    assert {(row["reader"], row["count"]) for row in masked} >= {("fresh", 1), ("own", 1)}
    for row in masked:
        assert len(row["words"]) == row["count"] == row["masked"].split().count("____") == len(row["right"])
        for word, own, chances, right in zip(
            row["words"], row["predictions"], row["chances"], row["right"], strict=True
        ):
            assert len(own) == 3
            assert chances == sorted(chances, reverse=True)
            assert not right or own[0] == word
            assert word in row["caption"]
    retrieval = read_table(out / "retrieval.parquet", READING_RETRIEVAL).to_pylist()
    assert len(retrieval) == 2 * 2 * 2
    for row in retrieval:
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["right"] == [text == row["caption"] for text in row["captions"]] or row["pictures"]
        assert len(row["pictures"]) == (2 if row["direction"] == "text_to_image" else 0)
        assert row["picture"].startswith(b"\x89PNG")
    for row in read_table(out / "similarity.parquet", READING_SIMILARITY).to_pylist():
        words = len(row["words"])
        assert " ".join(row["words"]) == row["caption"]
        assert len(row["positions"]) == len(row["codes"]) == words
        assert (row["projected_cosines"] is not None) == (row["reader"] == "fresh")
        for name in ("word_cosines", "code_cosines"):
            square = torch.tensor(row[name])
            assert square.shape == (words, words)
            torch.testing.assert_close(square.diagonal(), torch.ones(words))
        for a, b in zip(row["codes"], row["code_cosines"][0], strict=True):
            assert a != row["codes"][0] or b == pytest.approx(1, abs=1e-5)


def test_the_metrics_are_the_means_of_the_table(aligned: Path) -> None:
    metrics = json.loads((aligned / "m.json").read_text())
    rows = read_table(aligned / "out/per_image.parquet", READING_PER_IMAGE).to_pylist()
    for measure, wanted in (
        ("masked_1.recall", metrics["fresh"]["masked_1"]["recall"]["mean"]),
        ("text_to_image.r1", metrics["fresh"]["text_to_image"]["r1"]["mean"]),
        ("similarity.raw", metrics["fresh"]["similarity"]["raw"]["mse"]["mean"]),
    ):
        values = [row["value"] for row in rows if row["reader"] == "fresh" and row["measure"] == measure]
        assert values
        assert sum(values) / len(values) == pytest.approx(wanted)


def test_it_says_the_same_twice_and_in_other_batches_of_images(
    aligned: Path, inputs: Path, tmp_path: Path
) -> None:
    tokenizer = tree_digest(inputs / "lg")
    assert run(inputs, tmp_path / "again", "lg").exit_code == 0
    assert tree_digest(inputs / "lg") == tokenizer
    assert tree_digest(tmp_path / "again/out") == tree_digest(aligned / "out")
    assert (tmp_path / "again/m.json").read_bytes() == (aligned / "m.json").read_bytes()
    assert (tmp_path / "again/c.csv").read_bytes() == (aligned / "c.csv").read_bytes()
    assert run(inputs, tmp_path / "other", "lg", batch_size=3).exit_code == 0
    first, second = (json.loads((work / "m.json").read_text()) for work in (aligned, tmp_path / "other"))
    assert first["fresh"]["masked_3"]["chance"] == second["fresh"]["masked_3"]["chance"]
    raw = [one["fresh"]["similarity"]["raw"]["mse"]["mean"] for one in (first, second)]
    assert raw[0] == pytest.approx(raw[1], abs=1e-4)


def test_plain_tokenizers_have_no_heads_of_their_own(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "plain", "plain").exit_code == 0
    metrics = json.loads((tmp_path / "plain/m.json").read_text())
    assert "own" not in metrics
    assert metrics["fresh"]["similarity"]["raw"]["mse"]["mean"] > 0
    assert run(inputs, tmp_path / "fsq", "fsq").exit_code == 0
    fresh = json.loads((tmp_path / "fsq/m.json").read_text())["fresh"]
    assert fresh["heads"] == "global, masked"
    assert "similarity" not in fresh
    assert "text_to_image" in fresh


def test_what_does_not_belong_together_is_refused(inputs: Path, tmp_path: Path) -> None:
    done = run(inputs, tmp_path / "a", "plain", aligner="lg")
    assert done.exit_code == 2, done.output
    assert "was not trained with this tokenizer" in " ".join(done.output.split())
    done = run(inputs, tmp_path / "b", "plain", masked_counts=[3, 1])
    assert done.exit_code == 2, done.output
    assert "do not rise" in " ".join(done.output.split())
    done = run(inputs, tmp_path / "c", "plain", masked_counts=[7])
    assert done.exit_code == 2, done.output
    assert "no test caption has 7 words" in " ".join(done.output.split())
    assert not (tmp_path / "c/c.csv").exists()  # found before the heads are trained


def test_more_images_than_retrieval_has_memory_for_are_refused_before_the_heads_are_trained(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(num_bytes: int, what: str) -> None:
        asked.append(num_bytes)
        raise SetupError(f"not enough memory for {what}")

    monkeypatch.setattr(read, "need_memory", refuse)
    done = run(inputs, tmp_path / "d", "plain")
    assert done.exit_code == 2, done.output
    assert "retrieval among 7 images" in " ".join(done.output.split())
    assert asked == [12 * 7**2]
    assert not (tmp_path / "d/c.csv").exists()
    no_global = {**COMMON["align"], "global": None}
    assert run(inputs, tmp_path / "e", "plain", align=no_global).exit_code == 0
    assert len(asked) == 1
