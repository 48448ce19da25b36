"""The tokenizer stage and its codebooks: what is refused before anything is read, and codebooks of another data set."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from stages import tokenizer as stage
from tests.codebook_folders import publish_centroids, publish_words
from tests.recipes import GCN, LC, VQCT, words
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.artifacts.publish import read_manifest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.clip import CLIP
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.data.loader import ImageSplit
from vqpipe.tokenizers import train
from vqpipe.tokenizers.tokenizer import Tokenizer

OTHER = "other:fitted:0123"
LC_SMALL = {**LC, "dim": 4, "num_codes": 16}
VQCT_SMALL = {**VQCT, "dim": 4, "transfer": {**GCN, "hidden_dim": 6}}
ALONE: dict[str, Any] = {"perceptual": {"kind": "none"}, "perceptual_weight": 0.0}
IN_CLIP: dict[str, Any] = {"perceptual": {"kind": "clip", "layers": [0]}, "perceptual_weight": 0.1}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizer")
    write_dataset(root, {"train": 6, "validation": 2, "test": 2})
    write_tiny_clip(root / "clip")
    own = read_manifest(root / "clip", CLIP).facts["id"]
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    publish_centroids(root / "centroids", vectors, own)
    publish_centroids(root / "elsewhere", vectors * 2 + 1, own)  # of another data set's patches
    publish_centroids(root / "foreign", vectors, OTHER)
    known = words()
    publish_words(root / "words", known, own)
    publish_words(root / "words-foreign", known, OTHER)
    publish_words(root / "words-glove", known, None)
    bare = WordsCodebook(
        known.adjectives, known.nouns, known.adjective_vectors, known.noun_vectors,
        torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0),
    )  # fmt: skip
    publish_words(root / "words-bare", bare, own)
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    return root


def run(
    inputs: Path, work: Path, folder: str, quantizer: dict[str, Any], losses: dict[str, Any], **changes: Any
) -> Result:
    section = deepcopy(TOKENIZER) | {"quantizer": quantizer, **changes}
    section["codebook"] = changes.get(
        "codebook", {"vqct": "words", "lc": "patches"}.get(quantizer["kind"], "none")
    )
    section["losses"] |= losses
    (work / "params.yaml").write_text(json.dumps({"tokenizer": {"common": section, "variants": {"v": {}}}}))
    options = {
        "variant": "v", "codebook": inputs / folder, "out": work / "out", "metrics": work / "m.json",
        "curves": work / "c.csv", "dataset": inputs / "dataset", "clip": inputs / "clip",
        "params": work / "params.yaml",
    }  # fmt: skip
    return CliRunner().invoke(
        stage.app, [w for name, value in options.items() for w in (f"--{name}", str(value))]
    )


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.mark.parametrize(
    ("codebook", "quantizer", "losses", "says"),
    [
        ("words-bare", VQCT_SMALL, ALONE, ["needs a graph", "without edges", "transfer.kind: mlp", "graph"]),
        ("none", LC_SMALL, ALONE, ["quantizer lc", "dvc repro cluster"]),
        ("words", LC_SMALL, ALONE, ["quantizer lc", "5 adjectives", "dvc repro cluster"]),
        ("centroids", VQCT_SMALL, ALONE, ["quantizer vqct", "20 x 8", "dvc repro graph"]),
        (
            "centroids",
            {**LC_SMALL, "num_codes": 21},
            ALONE,
            ["num_codes: 21", "20 centroids", "dvc repro cluster"],
        ),
        ("centroids", {**LC_SMALL, "projector": False}, ALONE, ["dim: 4", "dimension 8", "dim: 8"]),
        ("words", {**VQCT_SMALL, "topk_adjectives": 6}, ALONE, ["topk_adjectives: 6", "at most 5"]),
        (
            "foreign",
            LC_SMALL,
            IN_CLIP,
            [OTHER, "tiny:fresh:", "foreign_codebook", "dvc repro patches cluster"],
        ),
        ("words-foreign", VQCT_SMALL, IN_CLIP, [OTHER, "tiny:fresh:", "foreign_codebook", "dvc repro graph"]),
    ],
)
def test_a_codebook_that_does_not_fit_is_refused_before_an_image_is_read(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codebook: str, quantizer: dict[str, Any],
    losses: dict[str, Any], says: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(ImageSplit, "open", lambda *_, **__: pytest.fail("images are read"))
    monkeypatch.setattr(train, "run_training", lambda *_, **__: pytest.fail("it trains"))
    done = run(inputs, tmp_path, codebook, quantizer, losses)
    assert done.exit_code == 2, done.output
    for text in ["found:", "expected:", "run:", *says]:
        assert text in " ".join(done.output.split()), done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quantizer", "changes", "message"),
    [
        (VQCT_SMALL, {"codebook": "none"}, "quantizer vqct needs codebook words, but codebook is none"),
        (LC_SMALL, {"codebook": "words"}, "quantizer lc needs codebook patches, but codebook is words"),
        (TOKENIZER["quantizer"], {"foreign_codebook": True}, "no codebook that could be foreign"),
        ({**VQCT_SMALL, "codebooks": "single", "topk_adjectives": 2}, {}, "needs codebooks: multi"),
        ({**LC_SMALL, "projector": False, "init": "data"}, {}, "set init: standard"),
    ],
)
def test_what_the_params_alone_contradict_is_refused_with_them(
    inputs: Path, tmp_path: Path, quantizer: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    done = run(inputs, tmp_path, "nothing", quantizer, ALONE, **changes)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("codebook", "quantizer", "losses", "changes", "recorded"),
    [
        ("centroids", LC_SMALL, IN_CLIP, {}, None),
        ("elsewhere", LC_SMALL, IN_CLIP, {}, None),
        ("words-glove", VQCT_SMALL, IN_CLIP, {}, None),
        ("foreign", LC_SMALL, ALONE, {}, OTHER),
        ("foreign", LC_SMALL, IN_CLIP, {"foreign_codebook": True}, OTHER),
        ("words-foreign", {**VQCT_SMALL, "topk_adjectives": 2}, ALONE, {}, OTHER),
    ],
)
def test_a_codebook_of_another_data_set_trains_and_one_of_another_clip_is_recorded(
    inputs: Path, tmp_path: Path, codebook: str, quantizer: dict[str, Any], losses: dict[str, Any],
    changes: dict[str, Any], recorded: str | None,
) -> None:  # fmt: skip
    done = run(inputs, tmp_path, codebook, quantizer, losses, **changes)
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "m.json").read_text())
    own = read_manifest(inputs / "clip", CLIP).facts["id"]
    assert metrics.get("codebook") == (recorded and {"clip": recorded, "run_clip": own})
    tokenizer = Tokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.facts["codebook"] == read_manifest(inputs / codebook).facts
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    indices = tokenizer.encode(images)
    assert torch.equal(tokenizer.decode(indices), tokenizer(images)[0])
