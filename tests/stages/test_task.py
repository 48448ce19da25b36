"""The task stage end to end: fresh heads on frozen codes, own heads of an aligned tokenizer, equal bytes twice."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from stages import task as stage
from stages import tokenizer as tokenizer_stage
from tests import small_tasks
from tests.small_tasks import CAPTION_KINDS
from tests.small_training import merged
from tests.tiny import CLIP, TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.artifacts.publish import read_manifest, tree_digest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.task import TASK, TASK_PER_IMAGE
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import ArtifactError, SetupError
from vqpipe.tasks import TASKS, retrieval
from vqpipe.vision import towers
from vqpipe.vision.clip import write_clip

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
HEAD = {name: HEADS[name] for name in ("width", "num_layers", "num_heads", "max_tokens")}
COMMON: dict[str, Any] = {
    "training": None, "seed": 0, "num_images": 7, "batch_size": 4, "num_bootstrap": 100, "num_pictures": 2,
    "masked_words": {"head": HEAD, "masked": HEADS["masked"], "masked_counts": [1, 3], "num_predictions": 3},
    "retrieval": {"head": HEAD, "contrastive": HEADS["global"], "num_candidates": 2},
    "relations": {"head": HEAD, "masked": HEADS["masked"], "relationship": HEADS["relationship"]},
    "captioning": small_tasks.COMMON["captioning"],
}  # fmt: skip
KINDS = [kind for kind in TASKS if kind in COMMON]
"""Tasks that captioned images of classes are enough for."""
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


def invoke(app: Any, *flags: str, **options: Any) -> Result:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return CliRunner().invoke(app, [*flags, *words])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a CLIP and another one, and a plain, an aligned and a lattice tokenizer."""
    root = tmp_path_factory.mktemp("task")
    write_dataset(root, {"train": 12, "validation": 4, "test": 9}, templates=TEMPLATES)
    write_tiny_clip(root / "clip")
    model = towers.build_model(CLIP["model_cfg"], "tiny")
    write_clip(root / "other-clip", model, CLIP, name="tiny", tag="other", fitted_on=None)
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    variants = {name: merged(deepcopy(TOKENIZER), own) for name, own in VARIANTS.items()}
    (root / "params.yaml").write_text(json.dumps({"tokenizer": {"common": {}, "variants": variants}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(root / "scratch"))
        for name in VARIANTS:
            done = invoke(
                tokenizer_stage.app, variant=name, codebook=root / "none", out=root / name,
                metrics=root / "m.json", curves=root / "c.csv", dataset=root / "dataset", clip=root / "clip",
                params=root / "params.yaml",
            )  # fmt: skip
            assert done.exit_code == 0, done.output
    return root


def run(
    inputs: Path, work: Path, kind: str, name: str, clip: str = "clip", mixed: bool = False, **changes: Any
) -> Result:
    work.mkdir(exist_ok=True)
    more = ["--mixed"] if mixed else []
    pairs = {"one": {"tokenizer": name, "kind": kind, **changes}}
    (work / "params.yaml").write_text(json.dumps({"task": {"common": COMMON, "pairs": pairs}}))
    return invoke(
        stage.app, *more, pair="one", tokenizer=inputs / name, out=work / "out", metrics=work / "m.json",
        curves=work / "c.csv", dataset=inputs / "dataset", clip=inputs / clip, params=work / "params.yaml",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def aligned(inputs: Path) -> Path:
    """Each task solved from the aligned tokenizer, in a folder of its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(inputs / "scratch"))
        for kind in KINDS:
            done = run(inputs, inputs / kind, kind, "lg")
            assert done.exit_code == 0, done.output
    return inputs


def content(work: Path) -> Any:
    return json.loads((work / "m.json").read_text())


def pictures(aligned: Path, kind: str) -> list[dict[str, Any]]:
    spec = TASKS[kind].picture_spec
    assert spec is not None
    return read_table(aligned / kind / "out/pictures.parquet", spec).to_pylist()


@pytest.mark.parametrize("kind", CAPTION_KINDS)
def test_the_metrics_are_read_through_their_model(aligned: Path, kind: str) -> None:
    metrics = TASKS[kind].Metrics.read(aligned / kind / "m.json")
    assert metrics.kind == kind
    assert metrics.own is not None
    assert metrics.training.num_steps == metrics.training.tokenizer_steps == 6
    assert metrics.protocol.num_images == metrics.measured.images.num_images == 7
    assert metrics.protocol.num_positions == 16
    assert metrics.plain() == {key: value for key, value in content(aligned / kind).items() if key != "seal"}
    assert read_manifest(aligned / kind / "out", TASK).facts["heads"] == ["fresh", "own"]
    (aligned / "other.json").write_text(
        (aligned / kind / "m.json").read_text().replace("num_tokens", "tokens")
    )
    with pytest.raises(ArtifactError):
        TASKS[kind].Metrics.read(aligned / "other.json")


def test_masked_words_of_an_aligned_tokenizer(aligned: Path) -> None:
    metrics = content(aligned / "masked_words")
    assert (metrics["fresh"]["losses"], metrics["own"]["losses"]) == ("masked", "global, masked")
    for head in ("fresh", "own"):
        for count in (1, 3):
            part = metrics[head][f"masked_{count}"]
            assert part["num_captions"] + part["num_left_out"] == 7
            assert 0 <= part["recall"]["low"] <= part["recall"]["mean"] <= part["recall"]["high"] <= 1
            assert 0 < part["chance"] < 0.2
        assert metrics[head]["masked_1"]["num_left_out"] == 0
        assert metrics[head]["masked_3"]["num_left_out"] > 0
    rows = pictures(aligned, "masked_words")
    assert {(row["head"], row["count"]) for row in rows} >= {("fresh", 1), ("own", 1)}
    for row in rows:
        assert len(row["words"]) == row["count"] == row["masked"].split().count("____") == len(row["right"])
        for word, own, chances, right in zip(
            row["words"], row["predictions"], row["chances"], row["right"], strict=True
        ):
            assert len(own) == 3
            assert chances == sorted(chances, reverse=True)
            assert not right or own[0] == word
            assert word in row["caption"]


def test_retrieval_of_an_aligned_tokenizer(aligned: Path) -> None:
    metrics = content(aligned / "retrieval")
    for head in ("fresh", "own"):
        found = metrics[head]
        assert found["image_to_text"]["num_candidates"] <= 6
        assert found["text_to_image"]["num_candidates"] == 7
        assert found["text_to_image"]["r10"]["mean"] == 1.0 == found["text_to_image"]["chance_r10"]
    rows = pictures(aligned, "retrieval")
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["right"] == [text == row["caption"] for text in row["captions"]] or row["pictures"]
        assert len(row["pictures"]) == (2 if row["direction"] == "text_to_image" else 0)
        assert row["picture"].startswith(b"\x89PNG")


def test_relations_of_an_aligned_tokenizer(aligned: Path) -> None:
    metrics = content(aligned / "relations")
    assert (metrics["fresh"]["losses"], metrics["own"]["losses"]) == (
        "masked, relationship",
        "global, masked",
    )
    for head in ("fresh", "own"):
        assert 0 <= metrics[head]["similarity"]["same_position"] <= 1
        assert ("projected" in metrics[head]["similarity"]) == (head == "fresh")
    for row in pictures(aligned, "relations"):
        words = len(row["words"])
        assert " ".join(row["words"]) == row["caption"]
        assert len(row["positions"]) == len(row["codes"]) == words
        assert (row["projected_cosines"] is not None) == (row["head"] == "fresh")
        for name in ("word_cosines", "code_cosines"):
            square = torch.tensor(row[name])
            assert square.shape == (words, words)
            torch.testing.assert_close(square.diagonal(), torch.ones(words))
        for a, b in zip(row["codes"], row["code_cosines"][0], strict=True):
            assert a != row["codes"][0] or b == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "measure", "keys"),
    [
        ("masked_words", "masked_1.recall", ("masked_1", "recall")),
        ("retrieval", "text_to_image.r1", ("text_to_image", "r1")),
        ("relations", "similarity.raw", ("similarity", "raw", "mse")),
    ],
)
def test_the_metrics_are_the_means_of_the_table(
    aligned: Path, kind: str, measure: str, keys: tuple[str, ...]
) -> None:
    wanted = content(aligned / kind)["fresh"]
    for key in keys:
        wanted = wanted[key]
    rows = read_table(aligned / kind / "out/per_image.parquet", TASK_PER_IMAGE).to_pylist()
    values = [row["value"] for row in rows if row["head"] == "fresh" and row["measure"] == measure]
    assert values
    assert sum(values) / len(values) == pytest.approx(wanted["mean"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_gives_the_same_bytes(aligned: Path, inputs: Path, tmp_path: Path, kind: str) -> None:
    tokenizer, first = tree_digest(inputs / "lg"), aligned / kind
    assert run(inputs, tmp_path / "again", kind, "lg").exit_code == 0
    assert tree_digest(inputs / "lg") == tokenizer
    assert tree_digest(tmp_path / "again/out") == tree_digest(first / "out")
    for name in ("m.json", "c.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()


def test_other_batches_of_images_give_the_same_numbers(aligned: Path, inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "other", "relations", "lg", batch_size=3).exit_code == 0
    raw = [
        content(work)["fresh"]["similarity"]["raw"]["mse"]["mean"]
        for work in (aligned / "relations", tmp_path / "other")
    ]
    assert raw[0] == pytest.approx(raw[1], abs=1e-4)


def test_plain_tokenizers_have_no_heads_of_their_own(inputs: Path, tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "plain", "relations", "plain").exit_code == 0
    metrics = content(tmp_path / "plain")
    assert "own" not in metrics
    assert metrics["fresh"]["similarity"]["raw"]["mse"]["mean"] > 0
    assert run(inputs, tmp_path / "fsq", "retrieval", "fsq").exit_code == 0
    done = run(inputs, tmp_path / "none", "relations", "fsq")
    assert done.exit_code == 2, done.output
    assert "the task relations compares code vectors, and there are none" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("masked_words", {"masked_counts": [3, 1]}, "do not increase"),
        ("masked_words", {"masked_counts": [7]}, "no test caption has 7 words"),
        ("masked_words", {"head": {"max_tokens": 9}}, "more than the text encoder takes"),
        ("retreival", {}, "did you mean retrieval"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    inputs: Path, tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    done = run(inputs, tmp_path / "a", kind, "plain", **changes)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "a/c.csv").exists()  # found before the head is trained


def test_an_aligner_of_another_clip_is_refused_before_the_head_is_trained(
    inputs: Path, tmp_path: Path
) -> None:
    done = run(inputs, tmp_path / "a", "retrieval", "lg", clip="other-clip")
    assert done.exit_code == 2, done.output
    assert "--mixed" in done.output
    done = run(inputs, tmp_path / "a", "retrieval", "lg", clip="other-clip", mixed=True)
    assert done.exit_code == 2, done.output
    message = " ".join(done.output.split())
    assert f"the aligner of {inputs / 'lg'} was trained with another CLIP" in message
    assert "found: tiny:fresh:" in message
    assert "expected: tiny:other:" in message
    assert not (tmp_path / "a/c.csv").exists()


def test_open_clip_is_imported_only_where_features_are_used(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes seconds; other tasks need the CLIP's id alone."""
    for name in [*sys.modules, "open_clip"]:
        if name.partition(".")[0] == "open_clip":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "open_clip.model", None)
    done = run(inputs, tmp_path / "a", "captioning", "lg")
    assert done.exit_code == 0, done.output
    done = run(inputs, tmp_path / "b", "captioning", "lg", input="clip")
    assert isinstance(done.exception, ModuleNotFoundError)


def test_more_images_than_retrieval_has_memory_for_are_refused_before_the_head_is_trained(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(num_bytes: int, what: str) -> None:
        asked.append(num_bytes)
        raise SetupError(f"not enough memory for {what}")

    monkeypatch.setattr(retrieval, "need_memory", refuse)
    done = run(inputs, tmp_path / "d", "retrieval", "plain")
    assert done.exit_code == 2, done.output
    assert "retrieval among 7 images" in " ".join(done.output.split())
    assert asked == [12 * 7**2]
    assert not (tmp_path / "d/c.csv").exists()
