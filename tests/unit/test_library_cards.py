"""The parts of cards that depend on where vectors come from, and a tokenizer's card with its codebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.codebook_folders import publish_centroids
from tests.recipes import every_recipe, make_tokenizer
from vqpipe.errors import MismatchError
from vqpipe.library.cards import _environment, codebook_card, escape, table, tokenizer_card, value
from vqpipe.text.glove import BUNDLED

RECIPES = every_recipe()
WORDS: dict[str, Any] = {"clip_id": None, "vectors": {"kind": "random"}, "pos": {"kind": "nltk"}}


def notes(call: str, **facts: Any) -> list[str]:
    template = _environment().from_string(
        '{% from "notes.md.j2" import words_licences, patches_licences %}{{ ' + call + " }}"
    )
    return [line for line in template.render(facts=facts).splitlines() if line]


def test_licences_of_words_name_what_made_the_vectors() -> None:
    plain = notes("words_licences(facts)", **WORDS)
    assert [line.split("**")[1] for line in plain] == ["Captions.", "Language."]
    assert "NLTK's perceptron tagger" in plain[1]
    fitted = notes("words_licences(facts)", **{**WORDS, "clip_id": "vit:fitted:00"})
    assert fitted[2].startswith("- **CLIP.** `vit:fitted:00` was fitted by vqpipe")
    glove = {"kind": "glove", "file": "glove.txt", "sha256": "0123456789abcdef0"}
    both = notes("words_licences(facts)", **{**WORDS, "clip_id": "vit:openai:01", "vectors": glove})
    assert both[2].startswith("- **CLIP.** The word vectors come from the weights `vit:openai:01`.")
    assert both[3].startswith(
        "- **Word vectors.** They are rows of `glove.txt` (SHA-256 `0123456789abcdef…`)"
    )
    bundled = notes("words_licences(facts)", **{**WORDS, "vectors": {**glove, "file": BUNDLED.name}})
    assert "GloVe 6B (Pennington, Socher, Manning, 2014), which is under the Public Domain" in bundled[2]
    sentences = {"kind": "sentence_transformer", "model": "minilm", "sha256": "0123456789abcdef0"}
    sentence = notes("words_licences(facts)", **{**WORDS, "vectors": sentences})
    assert "the sentence model `minilm` (SHA-256 of its files `0123456789abcdef…`)" in sentence[2]
    assert "See the tagger" in notes("words_licences(facts)", **{**WORDS, "pos": {"kind": "own"}})[1]


def test_the_card_of_a_tokenizer_has_the_facts_of_its_codebook(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(RECIPES["lc-paper"])
    path = publish_centroids(tmp_path / "patches", torch.eye(4), "vit:openai:0123")
    text = tokenizer_card(tokenizer, codebook=path)
    assert "| clip\\_id | vit:openai:0123 |" in text
    assert "The features come from the weights `vit:openai:0123`" in text
    assert "- **CLIP.** The features" in text
    assert "Pretrained codebook: centroids of features of image patches." in text
    tokenizer.facts["codebook"] = {"clip_id": "another"}
    with pytest.raises(MismatchError, match="another codebook, of the same kind"):
        tokenizer_card(tokenizer, codebook=path)


def test_the_card_of_a_codebook_of_another_tower_does_not_call_it_clip(tmp_path: Path) -> None:
    made_by = "efficientnet_lite0:stride16@128:0123"
    text = codebook_card(publish_centroids(tmp_path / "patches", torch.eye(4), made_by))
    assert f"| network | {made_by.replace('_', chr(92) + '_')} |" in text
    assert f"- **Image tower.** The features come from the weights `{made_by}`" in text
    assert "**CLIP.**" not in text


def test_centroids_that_are_the_vectors_leave_no_error_to_compare(tmp_path: Path) -> None:
    facts = {"objective": 0.0, "prefixes": [{"k": 2, "objective": 0.5}]}
    text = codebook_card(publish_centroids(tmp_path / "patches", torch.eye(4), "tiny:random:0", **facts))
    assert "| 2 | 0.5 | – |" in text
    assert "| 4 | 0 | – |" in text


def test_facts_are_shown_as_text() -> None:
    shown = [value(item) for item in (None, True, 1234, 0.5, {"a": 1}, [1, 2], [], "a_b")]
    assert shown == ["none", "yes", "1,234", "0.5", "a: 1", "1; 2", "none", "a\\_b"]
    assert table(["n", "x"], [(1, "a"), (2, "b")])[1] == "|--:|---|"
    assert escape("<a>\n[b]") == "&lt;a> \\[b\\]"
