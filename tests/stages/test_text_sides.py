"""Alignment with a sentence model's text: tokens, words and features, a training, and its own heads in tasks."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stages import task as task_stage
from stages import tokenizer as tokenizer_stage
from tests.sentence_model import PIECES, expected, write_sentence_model
from tests.small_training import merged
from tests.stages.test_task import COMMON, HEADS, STEPS
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.alignment.aligner import AlignParams
from vqpipe.alignment.text_sides import SentenceTextParams, text_side
from vqpipe.artifacts.publish import tree_digest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.errors import DataError, MismatchError
from vqpipe.params.base import validate
from vqpipe.tasks import TASKS
from vqpipe.tasks.caption_tasks import TestCaptions
from vqpipe.tokenizers.captions import CaptionText, token_rows
from vqpipe.tokenizers.stored import load_aligner
from vqpipe.tokenizers.tokenizer import TokenizerParams
from vqpipe.tokenizers.train import check_codebook

pytestmark = pytest.mark.slow
pytest.importorskip("sentence_transformers", reason="needs vqpipe[sentences]")
tokenizers = pytest.importorskip("tokenizers", reason="needs vqpipe[sentences]")

CAPTIONS = [["a dark-red <b>Boat</b>!"], ["a red object", "dark"]]
SPLIT = ["a", "da", "##rk", "[UNK]", "red", "bo", "##at", "[UNK]"]
"""The pieces of the first caption: the sign of the hyphen and that at the end are in no vocabulary of this model."""


def side_of(folder: Path, **changes: Any) -> Any:
    config = validate(
        {"kind": "sentence_transformer", "model": str(folder), **changes}, "text", SentenceTextParams
    )
    return text_side(config, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("sentences") / "tiny")


def pieces(ids: Any) -> list[str]:
    return [PIECES[int(number)] for number in ids]


def test_tokens_are_the_models_and_words_are_those_of_the_text(model: Path) -> None:
    side = side_of(model)
    rows = token_rows([text for own in CAPTIONS for text in own], side, 16)
    assert pieces(rows.ids[0]) == ["[CLS]", *SPLIT, "[SEP]"]
    assert rows.words[0].tolist() == [-1, 0, 1, 1, 1, 1, 2, 2, -1, -1]  # a word with a hyphen is one
    assert pieces(rows.ids[2]) == ["[CLS]", "da", "##rk", "[SEP]", *["[PAD]"] * 6]
    assert rows.lengths.tolist() == [10, 5, 4]
    cut = token_rows(CAPTIONS[0], side, 5)
    assert pieces(cut.ids[0]) == ["[CLS]", "a", "da", "##rk", "[SEP]"]
    assert cut.cut.tolist() == [True]
    assert side.spelled([PIECES.index("bo"), PIECES.index("##at")]) == "boat"


def test_features_and_embeddings_are_the_models(model: Path) -> None:
    side = side_of(model)
    text = CaptionText(CAPTIONS, side, 16).take(np.arange(3))
    right = torch.stack([expected(own) for own in (SPLIT, ["a", "red", "object"], ["da", "##rk"])])
    torch.testing.assert_close(text.features, right)
    cut = CaptionText(CAPTIONS, side, 5).take(np.array([0]))
    torch.testing.assert_close(cut.features, expected(["a", "da", "##rk"])[None])
    assert side.embed_dim == text.features.shape[1] == 8
    assert side.token_embeddings().shape == (len(PIECES), 8)
    assert not side.token_embeddings().requires_grad


def test_what_cannot_be_used_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"17 tokens, and sentence_transformer:.* takes 16"):
        CaptionText(CAPTIONS, side_of(model), 17)
    with pytest.raises(DataError, match=r"not the model that align\.text.sha256 names"):
        side_of(model, sha256="0" * 64)
    with pytest.raises(DataError, match=r"align\.text\.model: .*none is not a sentence model"):
        side_of(tmp_path / "none")
    assert side_of(model, sha256=tree_digest(model)).id == side_of(model).id  # a pinned model is the same one
    assert side_of(model).pinned() == SentenceTextParams(
        kind="sentence_transformer", model=str(model), sha256=tree_digest(model)
    )


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case: True"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
            "default prompt: find: ",
        ),
    ],
)
def test_a_model_that_reads_something_else_than_the_caption_is_refused(
    model: Path, tmp_path: Path, file: str, content: dict[str, Any], told: str
) -> None:
    path = Path(shutil.copytree(model, tmp_path / "changed")) / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | content))
    with pytest.raises(DataError, match=rf"(?s)cannot be used for alignment.*{told}"):
        side_of(path.parent)


def test_a_tokenizer_with_other_tokens_around_a_text_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "twice"))
    ids = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP] [SEP]", special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk")}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named})
    )
    with pytest.raises(DataError, match=r"tokens around a text: \[2, 3, 3\]\n.*cls and sep, here \[2, 3\]"):
        side_of(folder)


def test_a_side_is_named_by_a_word_and_not_by_its_first_piece(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "sides"))
    names = {"da": "left", "##rk": "##y"}
    (folder / "vocab.txt").write_text("\n".join(names.get(piece, piece) for piece in PIECES) + "\n")
    texts = ["a lefty", "to the left", "a LEFT-hand boat", "leftmost", "red"]
    text = CaptionText([texts], side_of(folder), 16)
    assert text.rows.ids[0, 2] == text.rows.ids[1, 3] == PIECES.index("da")  # the same piece begins both
    assert text.names_side(np.arange(5)).tolist() == [False, True, True, True, False]


def test_a_model_that_has_changed_since_the_alignment_is_named(model: Path) -> None:
    text = {"kind": "sentence_transformer", "model": str(model), "sha256": "0" * 64}
    align = validate({**deepcopy(HEADS), "text": text}, "align", AlignParams)
    captions: Any = {"split": None, "positions": np.arange(1), "captions": ["a boat"], "clip": None}
    with pytest.raises(
        MismatchError, match=r"(?s)aligner was trained with another version of .*dvc repro tokenizer"
    ):
        TestCaptions(**captions).side(align)


def test_a_codebook_of_another_clip_fits_text_that_is_of_none(model: Path) -> None:
    codebook = PatchesCodebook(torch.randn(40, 8), torch.ones(40, dtype=torch.int64), {"clip_id": "another"})
    text = {"kind": "sentence_transformer", "model": str(model)}
    changes = {"losses": {"perceptual_weight": 0.0}, "align": {**deepcopy(HEADS), "relationship": None}}
    whole = merged(deepcopy(TOKENIZER), changes)
    with pytest.raises(MismatchError, match="made with another CLIP"):
        check_codebook(validate(whole, "v", TokenizerParams), codebook, "own")
    config = validate(merged(whole, {"align": {"text": text}}), "v", TokenizerParams)
    assert check_codebook(config, codebook, "own") is not None


def invoke(app: Any, **options: Any) -> Any:
    return CliRunner().invoke(app, [w for name, value in options.items() for w in (f"--{name}", str(value))])


@pytest.fixture(scope="module")
def aligned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that was aligned with the sentence model's text, and the inputs of tasks."""
    root = tmp_path_factory.mktemp("aligned")
    dataset = write_dataset(
        root, {"train": 12, "validation": 4, "test": 9}, templates=["a {} red object", "one {} boat", "{}"]
    )
    write_tiny_clip(root / "clip")
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    align = {**deepcopy(HEADS), "text": {"kind": "sentence_transformer", "model": str(model)}}
    variant = merged(merged(deepcopy(TOKENIZER), STEPS), {"align": align})
    (root / "params.yaml").write_text(json.dumps({
        "tokenizer": {"common": {}, "variants": {"v": variant}},
        "task": {"common": COMMON, "pairs": {kind: {"kind": kind, "tokenizer": "v"} for kind in KINDS}},
    }))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(root / "scratch"))
        done = invoke(
            tokenizer_stage.app, variant="v", codebook=root / "none", out=root / "tokenizer",
            metrics=root / "v.json", curves=root / "v.csv", dataset=dataset, clip=root / "clip",
            params=root / "params.yaml",
        )  # fmt: skip
    assert done.exit_code == 0, done.output
    return root


KINDS = ("masked_words", "retrieval", "relations")


def test_a_tokenizer_is_aligned_with_it_and_says_with_which(aligned: Path, model: Path) -> None:
    stored = load_aligner(aligned / "tokenizer")
    assert stored is not None
    assert stored.text == f"sentence_transformer:{tree_digest(model)}"
    assert stored.aligner.config.text == side_of(model).pinned()
    assert stored.aligner.code_transformer.to_text.out_features == 8
    known = {
        PIECES.index(piece) for piece in ("[CLS]", "[SEP]", "a", "red", "object", "bo", "##at", "da", "##rk")
    }
    assert known <= set(stored.aligner.vocabulary.ids.tolist())
    metrics = json.loads((aligned / "v.json").read_text())
    assert metrics["captions"]["longest"] == 7  # [CLS] a da ##rk red object [SEP]


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_heads_read_its_text_and_fresh_ones_the_clips(
    aligned: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    done = invoke(
        task_stage.app, pair=kind, tokenizer=aligned / "tokenizer", out=tmp_path / "out",
        metrics=tmp_path / "m.json", curves=tmp_path / "c.csv", dataset=aligned / "dataset", clip=aligned / "clip",
        params=aligned / "params.yaml",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    metrics: Any = TASKS[kind].Metrics.read(tmp_path / "m.json")
    assert metrics.own is not None
    if kind == "masked_words":
        fresh, own = metrics.fresh.counts[1], metrics.own.counts[1]
        assert fresh.num_captions == own.num_captions  # the same captions have words to mask
        size = len(load_aligner(aligned / "tokenizer").aligner.vocabulary)  # type: ignore[union-attr]
        assert metrics.protocol.num_tokens != size
        assert own.commonest > 0  # counted in its own tokens: none of CLIP's is among them
        assert 1 / size**2 < own.chance < 1 / size  # "dark" and "boat" have two pieces
