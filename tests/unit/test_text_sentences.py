"""Word vectors from a sentence model: a tiny one in the official form, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, normalize

from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import DataError, SetupError
from vqpipe.params.base import validate
from vqpipe.text.sentences import INDEX, SentenceModel
from vqpipe.text.vectors import VectorParams, WordVectors, word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos

WORDS = Vocabulary(WordnetPos(kind="wordnet"), {"red": 6, "dark": 3}, {"boat": 5})
PROMPTS = {"adjective": "a {} object", "noun": "{}"}
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "object", "red", "da", "##rk", "bo", "##at"]
WIDTH, HEADS = 8, 2
PARTS = [
    ("", "Transformer"),
    ("1_Pooling", "Pooling"),
    ("2_Normalize", "Normalize"),
]


def weights() -> dict[str, Tensor]:
    """Of a BERT of one layer, by their official names."""
    shapes = {
        "embeddings.word_embeddings.weight": (len(PIECES), WIDTH),
        "embeddings.position_embeddings.weight": (16, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **{
            f"encoder.layer.0.{name}.weight": shape
            for name, shape in {
                **{f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")},
                "attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (12, WIDTH),
                "output.dense": (WIDTH, 12),
            }.items()
        },
        "pooler.dense.weight": (WIDTH, WIDTH),
    }  # fmt: skip
    norms = [
        "embeddings.LayerNorm",
        "encoder.layer.0.attention.output.LayerNorm",
        "encoder.layer.0.output.LayerNorm",
    ]
    drawn = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}
    biases = [name.replace("weight", "bias") for name in found if "dense" in name or "attention" in name]
    found |= {
        name: torch.randn(found[name.replace("bias", "weight")].shape[0], generator=drawn) for name in biases
    }
    found |= {f"{name}.weight": 1 + 0.1 * torch.randn(WIDTH, generator=drawn) for name in norms}
    return found | {f"{name}.bias": torch.randn(WIDTH, generator=drawn) for name in norms}


def expected(pieces: Sequence[str]) -> Tensor:
    """The model's vector of one text, written out: BERT (Devlin et al., 2019), mean of the tokens, unit length."""
    own = weights()

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), own[f"{name}.LayerNorm.weight"], own[f"{name}.LayerNorm.bias"], 1e-12)

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ own[f"encoder.layer.0.{name}.weight"].T + own[f"encoder.layer.0.{name}.bias"]

    ids = torch.tensor([PIECES.index(piece) for piece in ("[CLS]", *pieces, "[SEP]")])
    x = own["embeddings.word_embeddings.weight"][ids] + own["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + own["embeddings.position_embeddings.weight"][: len(ids)], "embeddings")
    q, k, v = (
        dense(x, f"attention.self.{part}").reshape(len(ids), HEADS, -1).transpose(0, 1)
        for part in ("query", "key", "value")
    )
    mixed = ((q @ k.mT) / (WIDTH / HEADS) ** 0.5).softmax(-1) @ v
    attended = dense(mixed.transpose(0, 1).reshape(len(ids), WIDTH), "attention.output.dense")
    x = norm(x + attended, "encoder.layer.0.attention.output")
    hidden = gelu(dense(x, "intermediate.dense"))
    x = norm(x + dense(hidden, "output.dense"), "encoder.layer.0.output")
    return normalize(x.mean(0), dim=0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as sentence-transformers saves it."""
    folder = tmp_path / "tiny"
    (folder / "1_Pooling").mkdir(parents=True)
    configs: dict[str, Any] = {
        "config.json": {
            "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH,
            "intermediate_size": 12, "layer_norm_eps": 1e-12, "max_position_embeddings": 16,
            "num_attention_heads": HEADS, "num_hidden_layers": 1, "pad_token_id": 0, "type_vocab_size": 2,
            "vocab_size": len(PIECES),
        },
        INDEX: [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (path, kind) in enumerate(PARTS)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": WIDTH, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
    }  # fmt: skip
    for name, content in configs.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    save_file(weights(), folder / "model.safetensors", {"format": "pt"})
    return folder


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
    assert [texts for texts, _ in library[1:]] == [["a red object", "a dark object"], ["boat"]]


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
        SetupError, match=r"(?s)need sentence-transformers.*pip install 'vqpipe\[sentences\]'"
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
