"""Byte-pair tokens of single words, and the text encoder's table of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tiny import write_tiny_clip
from vqpipe.errors import MismatchError
from vqpipe.params.graph import ClipTokenVectors
from vqpipe.params.pos import WordnetPos
from vqpipe.text.vectors import word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.vision.byte_pairs import is_single_token
from vqpipe.vision.clip import Clip


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return Clip.load(write_tiny_clip(tmp_path / "clip"))


def test_single_tokens() -> None:
    words = ["bird", "red", "teal-coloured", "axolotl", "", "black and white"]
    assert [word for word in words if is_single_token(word)] == ["bird", "red"]


def test_the_table_has_a_row_for_each_token(clip: Clip) -> None:
    table = clip.token_embeddings()
    assert table.shape == (49408, 8)
    ids = clip.token_ids(["bird"])[0, :3]
    assert torch.equal(table[ids], clip.model.token_embedding(ids))
    assert not table.requires_grad


def test_word_vectors_from_the_table(clip: Clip) -> None:
    vocabulary = Vocabulary(WordnetPos(kind="wordnet"), {"red": 1}, {"axolotl": 1})
    found = word_vectors(vocabulary, ClipTokenVectors(kind="clip_tokens"), lambda: clip)
    pieces = [id_ for id_ in clip.token_ids(["axolotl"])[0].tolist() if 0 < id_ < 49406]
    assert len(pieces) > 1
    torch.testing.assert_close(found.nouns[0], clip.token_embeddings()[pieces].mean(0))


def test_a_text_tower_without_a_table_is_told(clip: Clip) -> None:
    clip.model.token_embedding = nn.Identity()
    with pytest.raises(MismatchError, match="no table"):
        clip.token_embeddings()
