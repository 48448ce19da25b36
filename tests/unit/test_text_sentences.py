"""Word vectors from a sentence model: a tiny one in the official form, and what is refused."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.sentence_model import expected, write_sentence_model
from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import DataError, SetupError
from vqpipe.params.base import validate
from vqpipe.text.sentences import INDEX, SentenceModel
from vqpipe.text.vectors import VectorParams, WordVectors, word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos

WORDS = Vocabulary(WordnetPos(kind="wordnet"), {"red": 6, "dark": 3}, {"boat": 5})
PROMPTS = {"adjective": "a {} object", "noun": "{}"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as sentence-transformers saves it."""
    return write_sentence_model(tmp_path / "tiny")


def made(model: str, **changes: Any) -> WordVectors:
    config = {"kind": "sentence_transformer", "model": model, "prompts": PROMPTS, **changes}

    def no_clip() -> Any:
        raise AssertionError("this kind needs no CLIP")

    return word_vectors(WORDS, validate(config, "graph.vectors", VectorParams), no_clip)  # type: ignore[arg-type]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """In the place of sentence-transformers: a model of two dimensions, and the list of what it was asked."""
    asked: list[tuple[Any, ...]] = []

    class Model:
        def __init__(self, path: str, **options: Any) -> None:
            if not (Path(path) / "config.json").is_file():
                raise OSError("no config.json\nand more")
            asked.append((path, options))

        def eval(self) -> None:
            asked.append(("eval", {}))

        def encode(self, texts: list[str], **options: Any) -> Tensor:
            asked.append((texts, options))
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    module = ModuleType("sentence_transformers")
    module.__spec__ = ModuleSpec(module.__name__, None)
    module.SentenceTransformer = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


@pytest.mark.slow
def test_a_tiny_model_in_the_official_form(model: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs vqpipe[sentences]")
    found = made(str(model))
    texts = [["a", "red", "object"], ["a", "da", "##rk", "object"]]
    torch.testing.assert_close(found.adjectives, torch.stack([expected(text) for text in texts]))
    torch.testing.assert_close(found.nouns, expected(["bo", "##at"])[None])


def test_prompts_and_facts(model: Path, library: list[tuple[Any, ...]]) -> None:
    found = made(str(model))
    assert found.adjectives.tolist() == [[12.0, 1.0], [13.0, 1.0]]
    assert found.nouns.tolist() == [[4.0, 1.0]]
    assert found.vocabulary == WORDS
    assert found.facts == {
        "clip_id": None,
        "vectors": {
            "kind": "sentence_transformer", "model": "tiny", "prompts": PROMPTS, "sha256": tree_digest(model),
        },
        "dim": 2,
    }  # fmt: skip
    assert library[0] == (
        str(model), {"device": "cpu", "local_files_only": True, "model_kwargs": {"use_safetensors": True}},
    )  # fmt: skip
    assert [texts for texts, _ in library[1:]] == ["eval", ["a red object", "a dark object"], ["boat"]]


def test_the_model_inside_a_package(
    model: Path, library: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site/package_of_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('its code does not run')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(SetupError, match=f"found: +0 folders with {INDEX}"):
        made(package.name)
    model.rename(package / "model")
    assert made(package.name).facts["vectors"]["model"] == package.name
    assert library[0][0] == str(package / "model")
    with pytest.raises(SetupError, match=r"(?s)does not contain.*no such package.*run: +pip install 'vqpipe"):
        made("no_package_of_this_name")


def test_another_model_of_the_same_name_is_refused(model: Path, library: list[tuple[Any, ...]]) -> None:
    made(str(model), sha256=tree_digest(model))
    with pytest.raises(DataError, match=r"graph\.vectors\.sha256"):
        made(str(model), sha256="0" * 64)


def test_the_missing_library_is_named_with_the_command(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqpipe.text.sentences.LIBRARY", "no_library_of_this_name")
    index = (model / INDEX).read_text().replace("sentence_transformers.", "no_library_of_this_name.")
    (model / INDEX).write_text(index)
    with pytest.raises(
        SetupError, match=r"(?s)needs sentence-transformers.*pip install 'vqpipe\[sentences\]'"
    ):
        SentenceModel(str(model))


def test_models_that_are_refused(model: Path, library: list[tuple[Any, ...]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        SentenceModel("sentence-transformers/all-MiniLM-L6-v2")
    with pytest.raises(DataError, match=f"no {INDEX} in it"):
        SentenceModel(str(tmp_path))
    index = (model / INDEX).read_text()
    for broken in ("{", '["part"]', "[{}]"):
        (model / INDEX).write_text(broken)
        with pytest.raises(DataError, match="does not list a model's parts"):
            SentenceModel(str(model))
    (model / INDEX).write_text(index.replace("sentence_transformers.models.Pooling", "own.Pooling"))
    with pytest.raises(DataError, match=r"(?s)code of its own.*own\.Pooling"):
        SentenceModel(str(model))
    (model / INDEX).write_text(index)
    (model / "pytorch_model.bin").write_bytes(b"")
    SentenceModel(str(model))
    (model / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"(?s)need a pickle.*pytorch_model\.bin"):
        SentenceModel(str(model))
    (model / "pytorch_model.bin").unlink()
    (model / "config.json").unlink()
    with pytest.raises(DataError, match=r"cannot load the model\n +found: +no config\.json\n"):
        SentenceModel(str(model))
