"""The example scripts run on small codebooks."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import CLIP, picture, write_tiny_clip
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.codebooks import CENTROID_TENSORS, PATCHES_CODEBOOK
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.words import publish_words_codebook
from vqpipe.params.base import validate
from vqpipe.text.graph import GraphParams, build_words
from vqpipe.text.vectors import word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos
from vqpipe.vision.clip import Clip

SCRIPT = Path(__file__).parents[2] / "examples/use_codebook.py"
GRAPH = {
    "min_count": 1, "weight": "binary",
    "vectors": {"kind": "clip", "prompts": {"adjective": "a photo of {} object", "noun": "a photo of {}"}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip"))
    config = validate(GRAPH, "graph", GraphParams)
    vocabulary = Vocabulary(WordnetPos(kind="wordnet"), {"red": 2, "big": 1}, {"bird": 2, "sea": 1})
    vectors = word_vectors(vocabulary, config.vectors, lambda: clip)
    publish_words_codebook(tmp_path / "codebook/words", build_words(vectors, config))
    dim = CLIP["model_cfg"]["embed_dim"]
    facts = {
        "num_clusters": 6, "dim": dim, "clip_id": clip.id, "projected": True, "grid": 2, "objective": 1.0,
        "num_vectors": 6, "method": "normal", "per_class": False, "prefixes": [],
    }  # fmt: skip
    tensors = {"centroids": torch.eye(dim)[:6], "counts": torch.ones(6, dtype=torch.int64)}
    with publish_folder(tmp_path / "codebook/patches", PATCHES_CODEBOOK, facts) as out:
        write_tensors(out / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
    picture(1, True).save(tmp_path / "photo.png")
    return tmp_path


def test_use_codebook(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--clip={folder / 'clip'}", f"--codebooks={folder / 'codebook'}"]
    monkeypatch.setattr(sys, "argv", ["use_codebook.py", str(folder / "photo.png"), *options])
    runpy.run_path(str(SCRIPT))
    shown = capsys.readouterr().out
    indices = [int(index) for index in re.findall(r"\d+", shown.split("nearest words")[0])]
    assert len(indices) == 4
    assert max(indices) < 6
    named = shown.split("nearest words: ")[1].strip().split(", ")
    assert sorted(named) == ["big", "bird", "red", "sea"]


def test_examples_are_short() -> None:
    for script in SCRIPT.parent.glob("*.py"):
        assert len(script.read_text().splitlines()) < 40
