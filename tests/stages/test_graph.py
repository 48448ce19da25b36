"""The graph stage: the words codebook, metrics against a truth, byte-identical re-runs, messages on mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from stages.graph import app
from vqpipe.artifacts.publish import publish_folder, tree_digest
from vqpipe.artifacts.specs.clip import CLIP
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES, QUARANTINE, TRUTH
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.codebooks.words import read_words_codebook
from vqpipe.text.phrases import PLAIN
from vqpipe.text.vocabulary import VocabularyParams, build_vocabulary, publish_vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos
from vqpipe.vision.clip import Clip

CAPTIONS = {"a": ["a red bird", "two red birds"], "b": ["a green tree", "a red tree"], "c": ["green trees"]}
PARAMS: dict[str, Any] = {
    "corpus": {"kind": "dataset", "path": "elsewhere"},
    "graph": {
        "min_count": 2, "weight": "binary",
        "vectors": {
            "kind": "clip", "prompts": {"adjective": "a photo of {} object", "noun": "a photo of {}"},
        },
    },
}  # fmt: skip


GLOVE = {"kind": "glove", "path": "gone.txt", "dim": 2, "unknown": "drop"}


class FakeClip:
    """A text encoder of four dimensions."""

    id = "fake:test:0"

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)), 1.0, 2.0, 3.0] for text in texts])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    empty = dict.fromkeys(IMAGES.columns)
    rows = [{**empty, "image_id": name, "captions": captions} for name, captions in CAPTIONS.items()]
    counts = {("red", "bird"): 2, ("green", "tree"): 2, ("red", "tree"): 1, ("tall", "tree"): 2}
    truth = [
        {"adjective": a, "noun": n, "probability": 0.5, "said_train": k, "said_validation": 0, "said_test": 0}
        for (a, n), k in counts.items()
    ]
    splits = {"train": {"shards": ["train-00000.parquet"], "images": 3}}
    with publish_folder(tmp_path / "dataset", DATASET, {"kind": "scenes", "splits": splits}) as out:
        write_table(out / "train-00000.parquet", IMAGES, to_table(IMAGES, rows))
        write_table(out / "quarantine.parquet", QUARANTINE, to_table(QUARANTINE, []))
        write_table(out / "truth.parquet", TRUTH, to_table(TRUTH, truth))
    words = VocabularyParams(
        pos=WordnetPos(kind="wordnet"), phrases=PLAIN, min_count=1, max_adjectives=None, max_nouns=None
    )
    captions = [(name, text) for name, texts in CAPTIONS.items() for text in texts]
    publish_vocabulary(tmp_path / "vocabulary", build_vocabulary(captions, words)[0])
    with publish_folder(tmp_path / "clip", CLIP, {}) as clip:
        for name in CLIP.required:
            (clip / name).write_text("")
    monkeypatch.setattr(Clip, "load", lambda path, device: FakeClip())
    return tmp_path


def run(folder: Path, changes: dict[str, Any] | None = None, out: str = "words") -> Result:
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump({**PARAMS, "graph": {**PARAMS["graph"], **(changes or {})}}, stream)
    arguments = [
        f"--corpus={folder / 'dataset'}", f"--vocabulary={folder / 'vocabulary'}",
        f"--clip={folder / 'clip'}",
        f"--out={folder / out}", f"--metrics={folder / out}.json", f"--params={folder / 'params.yaml'}",
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments)


def test_publishes_the_words_codebook(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    words = read_words_codebook(folder / "words")
    pairs = {(words.adjectives[a], words.nouns[n]) for a, n in words.edges.T.tolist()}
    assert pairs == {("red", "bird"), ("green", "tree")}
    assert words.weights.tolist() == [1.0, 1.0]
    assert words.noun_vectors.shape == (2, 4)
    assert words.facts["clip_id"] == "fake:test:0"


def test_metrics_hold_precision_and_recall(folder: Path) -> None:
    assert run(folder).exit_code == 0
    metrics = json.loads((folder / "words.json").read_text())
    assert (metrics["precision"], metrics["recall"]) == (1.0, pytest.approx(2 / 3, abs=1e-6))
    assert (metrics["num_adjectives"], metrics["num_nouns"], metrics["num_edges"]) == (2, 2, 2)


def test_metrics_hold_the_shape_of_the_graph(folder: Path) -> None:
    assert run(folder).exit_code == 0
    metrics = json.loads((folder / "words.json").read_text())
    assert (metrics["num_components"], metrics["largest_component"]) == (2, 0.5)
    assert metrics["degree"]["nouns"]["max"] == 1


def no_clip(path: Path, device: object) -> FakeClip:
    raise AssertionError("these vectors need no CLIP")


def test_a_glove_file_without_a_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clip, "load", no_clip)
    (folder / "glove.txt").write_text("red 1 2\nbird 3 4\ntree 5 6\n")
    vectors = {"kind": "glove", "path": str(folder / "glove.txt"), "dim": 2, "unknown": "drop", "seed": 0}
    result = run(folder, {"vectors": vectors, "min_count": 1})
    assert result.exit_code == 0, result.output
    words = read_words_codebook(folder / "words")
    assert (words.adjectives, words.nouns) == (["red"], ["tree", "bird"])
    assert words.noun_vectors.tolist() == [[5.0, 6.0], [3.0, 4.0]]
    assert words.adjectives_of("tree") == {"red": 1.0}
    assert words.facts["clip_id"] is None
    assert str(folder) not in (folder / "words/manifest.json").read_text()
    metrics = json.loads((folder / "words.json").read_text())
    assert metrics["vectors"]["adjectives"] == {
        "coverage": 0.5, "coverage_said": 0.6, "num_dropped": 1, "num_random": 0,
    }  # fmt: skip
    assert (metrics["num_adjectives"], metrics["pairs_in_vocabulary"]) == (1, 0.6)


def test_the_bundled_glove_from_a_section_of_another_name(folder: Path) -> None:
    shutil.rmtree(folder / "clip")
    with (folder / "params.yaml").open("w") as stream:
        own = {**PARAMS["graph"], "vectors": {"kind": "glove", "path": None}}
        YAML().dump({"corpus": PARAMS["corpus"], "graphs": {"words-glove": own}}, stream)
    arguments = [
        f"--corpus={folder / 'dataset'}", f"--vocabulary={folder / 'vocabulary'}",
        f"--out={folder / 'words'}", f"--metrics={folder / 'words.json'}",
        f"--params={folder / 'params.yaml'}", "--section=graphs.words-glove",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    words = read_words_codebook(folder / "words")
    assert words.noun_vectors.shape == (2, 100)
    red, green = (words.adjective_vectors[words.adjectives.index(word)] for word in ("red", "green"))
    assert float(torch.cosine_similarity(red, green, dim=0)) > 0.7
    assert words.facts["clip_id"] is None
    missing = CliRunner().invoke(app, arguments[:-1])
    assert (missing.exit_code, "there is no section graph" in missing.output) == (2, True)


def test_random_vectors_without_a_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clip, "load", no_clip)
    for out in ("first", "second"):
        result = run(folder, {"vectors": {"kind": "random", "dim": 3, "std": 1.0, "seed": 0}}, out)
        assert result.exit_code == 0, result.output
    assert read_words_codebook(folder / "first").noun_vectors.shape == (2, 3)
    assert tree_digest(folder / "first") == tree_digest(folder / "second")


def test_a_second_run_gives_the_same_bytes(folder: Path) -> None:
    for out in ("first", "second"):
        assert run(folder, out=out).exit_code == 0
    assert tree_digest(folder / "first") == tree_digest(folder / "second")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": "npmi"}, "graph.weight"),
        ({"prompts": {}}, "graph.prompts is not a field"),
        ({"vectors": {"kind": "clip", "prompts": {"adjective": "object", "noun": "{}"}}}, "exactly once"),
        ({"vectors": {**GLOVE, "seed": 0}}, "no file gone.txt"),
        ({"vectors": GLOVE}, "graph.vectors.seed is missing"),
        ({"vectors": {"kind": "fasttext"}}, "graph.vectors"),
    ],
)
def test_mistakes_exit_2_and_publish_nothing(folder: Path, changes: dict[str, Any], message: str) -> None:
    result = run(folder, changes)
    assert result.exit_code == 2
    assert message in result.output
    assert not (folder / "words").exists()


def test_a_missing_vocabulary_names_the_stage(folder: Path) -> None:
    (folder / "vocabulary" / "manifest.json").unlink()
    result = run(folder)
    assert result.exit_code == 2
    assert "dvc repro vocabulary" in result.output


@pytest.mark.parametrize("kind", ["random", "glove"])
def test_vectors_without_a_clip_need_and_record_none(folder: Path, kind: str) -> None:
    (folder / "glove.txt").write_text("red 1 2\ngreen 1 2\nbird 3 4\ntree 5 6\n")
    vectors = {
        "random": {"kind": "random", "dim": 3, "std": 1.0, "seed": 0},
        "glove": {"kind": "glove", "path": str(folder / "glove.txt"), "dim": 2, "unknown": "drop", "seed": 0},
    }[kind]
    assert run(folder, {"vectors": vectors}, "with").exit_code == 0
    shutil.rmtree(folder / "clip")
    result = run(folder, {"vectors": vectors}, "without")
    assert result.exit_code == 0, result.output
    for out in ("with", "without"):
        lineage = json.loads((folder / f"{out}.lineage.json").read_text())
        assert set(lineage["inputs"]) == {"dataset", "vocabulary"}
    assert tree_digest(folder / "with") == tree_digest(folder / "without")
    (folder / "clip").write_text("{}")
    refused = run(folder, {"vectors": vectors}, "wrong")
    assert (refused.exit_code, "clip is not a clip" in refused.output) == (2, True)
    assert run(folder, {}, "needed").exit_code == 2


def test_the_captions_are_where_the_params_say_unless_they_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    odd = folder / "a  'b\" &#$~%[1] é"
    (folder / "dataset").rename(odd)
    text = YAML(typ="safe", pure=True)
    with (folder / "params.yaml").open("w") as stream:
        text.dump({**PARAMS, "corpus": {"kind": "dataset", "path": str(odd)}}, stream)
    words = ["--vocabulary=vocabulary", "--clip=clip", "--params=params.yaml", "--metrics=m.json"]
    for out, named in (("by-params", []), ("by-name", [f"--corpus={odd}"])):
        done = CliRunner().invoke(app, [*words, f"--out={out}", *named])
        assert done.exit_code == 0, done.output
    assert tree_digest(folder / "by-params") == tree_digest(folder / "by-name")
    gone = CliRunner().invoke(app, [*words, "--out=x", "--corpus=gone"])
    assert (gone.exit_code, "gone does not exist" in gone.output) == (2, True)
