"""Captions of a training: the draw of one per image and epoch, token ids, words and features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.damage import DAMAGES
from tests.tiny import CLIP, write_tiny_clip
from vqpipe.alignment.text_sides import ClipSide, TextSide
from vqpipe.artifacts.publish import tree_digest
from vqpipe.data.loader import epoch_order
from vqpipe.errors import DataError, MismatchError
from vqpipe.runtime.seeds import seed_everything
from vqpipe.text.tokens import clean
from vqpipe.tokenizers import captions
from vqpipe.tokenizers.captions import CaptionDraw, CaptionText, check_captioned, epoch_of, token_rows
from vqpipe.vision import towers
from vqpipe.vision.byte_pairs import END, START, tokenizer
from vqpipe.vision.clip import Clip

BYTE_PAIRS = ClipSide(cast(Any, SimpleNamespace(id="none", context_length=77)))
"""Splits texts as any CLIP; it encodes none."""
COUNTS = np.array([5, 1, 3, 2] * 50)


def test_a_draw_is_of_the_image_itself_and_the_same_in_any_batch() -> None:
    draw = CaptionDraw(COUNTS, seed=3)
    images = np.arange(200)
    drawn = draw.numbers(images, epoch=4)
    assert (drawn >= draw.starts).all()
    assert (drawn < draw.starts + COUNTS).all()
    shuffled = np.random.default_rng(0).permutation(200)
    assert np.array_equal(draw.numbers(shuffled, epoch=4), drawn[shuffled])
    assert np.array_equal(CaptionDraw(COUNTS, seed=3).numbers(images, epoch=4), drawn)


def test_seeds_and_epochs_draw_otherwise() -> None:
    images = np.arange(200)
    drawn = CaptionDraw(COUNTS, seed=3).numbers(images, epoch=4)
    others = [CaptionDraw(COUNTS, 3).numbers(images, 5), CaptionDraw(COUNTS, 4).numbers(images, 4)]
    for other in others:
        assert 40 < (other != drawn).sum() < 160  # 117 expected: a quarter has one caption
    assert (others[0] != others[1]).any()


def test_all_captions_of_an_image_are_equally_likely() -> None:
    draw = CaptionDraw(COUNTS, seed=0)
    images = np.flatnonzero(COUNTS == 5)
    offsets = np.concatenate([draw.numbers(images, epoch) - draw.starts[images] for epoch in range(200)])
    share = np.bincount(offsets, minlength=5) / len(offsets)
    assert np.abs(share - 0.2).max() < 0.02  # five standard deviations of 10,000 draws


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_ranks_reads_the_same_captions(world_size: int) -> None:
    draw, seen = CaptionDraw(COUNTS, seed=1), []
    for step in (0, 24, 25, 60):  # 25 steps make an epoch
        whole = epoch_order(200, 8, 1, step)
        epoch = epoch_of(step, 200, 8)
        assert epoch == step // 25
        parts = np.split(whole, world_size)
        seen.append(np.concatenate([draw.numbers(part, epoch) for part in parts]))
        assert np.array_equal(seen[-1], draw.numbers(whole, epoch))


def test_an_epoch_ends_where_the_order_of_images_says() -> None:
    last = epoch_order(21, 8, 0, 1)
    assert epoch_of(1, 21, 8) == 0
    assert epoch_of(2, 21, 8) == 1
    assert len(set(last) & set(epoch_order(21, 8, 0, 0))) == 0


def test_images_without_a_caption_are_counted_and_refused() -> None:
    assert check_captioned([["a"], ["b", "c"]], ["x", "y"], "data").tolist() == [1, 2]
    with pytest.raises(DataError, match=r"2 of 4 images without one \(p, s\)"):
        check_captioned([[], ["a"], ["b"], []], list("pqrs"), "data, split train")
    with pytest.raises(DataError, match=r"data, split train has no captions") as none:
        check_captioned([[], []], ["p", "q"], "data, split train")
    assert "align: null" in str(none.value)
    with pytest.raises(DataError, match="1 of 3"):
        CaptionDraw(np.array([1, 0, 2]), seed=0)


CAPTIONS = [
    ["A two-story house's T-shirt, isn't it... wow!!!", "a dark picture"],
    ["42 naïve caf\u00e9s <b>here</b> &amp; there_now", "a dark picture", "it's 10:30 to the left"],
    ["!"],
]
TEXTS = [text for own in CAPTIONS for text in own]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("captions") / "clip"
    write_tiny_clip(folder)
    return Clip.load(folder)


@pytest.fixture(scope="module")
def side(clip: Clip) -> TextSide:
    return ClipSide(clip)


def words_of(text: str) -> list[str]:
    """The tokens of a text, joined by word."""
    rows = token_rows([text], BYTE_PAIRS, 77)
    own = [
        [int(i) for i, word in zip(rows.ids[0], rows.words[0], strict=True) if word == number]
        for number in range(rows.words.max() + 1)
    ]
    return [tokenizer().decode(ids).replace(" ", "") for ids in own]


def test_the_ids_are_those_that_clip_reads() -> None:
    assert (tokenizer().sot_token_id, tokenizer().eot_token_id) == (START, END)
    rows = token_rows(TEXTS, BYTE_PAIRS, 77)
    ids = tokenizer()([clean(text)[0] for text in TEXTS], context_length=77).numpy()
    assert np.array_equal(rows.ids, ids[:, : rows.ids.shape[1]])
    assert not ids[:, rows.ids.shape[1] :].any()
    assert rows.lengths.tolist() == [int((row == END).argmax()) + 1 for row in ids]
    assert not rows.cut.any()


def test_each_token_belongs_to_one_word_and_start_end_and_padding_to_none() -> None:
    assert words_of(TEXTS[0]) == [
        "a",
        "two-story",
        "house",
        "'s",
        "t-shirt",
        "isn't",
        "it",
        "wow",
    ]
    assert words_of(TEXTS[2]) == ["42", "naïve", "cafés", "here", "there", "now"]
    rows = token_rows(TEXTS, BYTE_PAIRS, 77)
    for ids, words, length in zip(rows.ids, rows.words, rows.lengths, strict=True):
        inner = words[1 : length - 1][words[1 : length - 1] >= 0]
        assert inner[:1].tolist() in ([0], [])
        assert set(np.diff(inner)) <= {0, 1}
        assert (words[[0, length - 1]] == -1).all()
        assert (words[length:] == -1).all()
        assert ids[length - 1] == END
    assert token_rows(["<br>"], BYTE_PAIRS, 5).lengths.tolist() == [2]


def test_signs_are_read_and_are_no_words() -> None:
    rows = token_rows(["a dog, a cat .", "!?"], BYTE_PAIRS, 77)
    assert rows.words.tolist() == [[-1, 0, 1, -1, 2, 3, -1, -1], [-1] * 8]
    assert rows.lengths.tolist() == [8, 3]


def test_long_captions_are_cut_keep_their_end_and_are_counted(side: TextSide) -> None:
    whole, rows = token_rows(TEXTS, BYTE_PAIRS, 77), token_rows(TEXTS, BYTE_PAIRS, 7)
    assert rows.ids.shape[1] == 7
    assert rows.cut.tolist() == (whole.lengths > 7).tolist() == [True, False, True, False, True, False]
    assert (rows.ids[rows.cut, -1] == END).all()
    assert np.array_equal(rows.ids[rows.cut, :6], whole.ids[rows.cut, :6])
    assert np.array_equal(rows.words[rows.cut, :6], whole.words[rows.cut, :6])
    text = CaptionText([*CAPTIONS, [TEXTS[0], "<br>"]], side, 7)
    assert len(text) == 8
    assert text.metrics.plain() == {
        "num_captions": 8, "num_texts": 6, "num_cut": 4, "num_without_words": 2, "num_of_left_or_right": 1,
        "longest": 7, "num_tokens": len(text.vocabulary),
    }  # fmt: skip
    assert CaptionText([["to the left", "it is right", "lefty"]], side, 8).metrics.num_of_left_or_right == 2


def test_captions_that_name_a_side_are_known(side: TextSide) -> None:
    sided = [
        "to the left",
        "the RIGHT one",
        "a left-hand drive",
        "leftmost picture",
        "<b>right</b>.",
        "all right",
    ]
    plain = ["a lefty", "leftovers", "bright light", "copyright", "over it", "righteous"]
    text = CaptionText([sided, plain], side, 7)
    assert text.names_side(np.arange(12)).tolist() == [True] * 6 + [False] * 6
    assert text.names_side(np.array([6, 3])).tolist() == [False, True]
    assert text.metrics.num_of_left_or_right == 6
    assert CaptionText([["a"]], side, 3).names_side(np.array([0])).tolist() == [False]


def test_the_vocabulary_is_what_the_captions_hold(side: TextSide) -> None:
    text = CaptionText([["a dark picture"], ["a light picture"]], side, 8)
    a, dark, light, picture = (tokenizer().encode(word)[0] for word in ("a", "dark", "light", "picture"))
    assert text.vocabulary.tolist() == sorted([a, dark, light, picture, START, END])
    assert 0 not in text.vocabulary  # padding is no token of theirs


def test_features_are_the_clips_own_for_the_text_that_was_kept(clip: Clip, side: TextSide) -> None:
    text = CaptionText(CAPTIONS, side, 8)
    batch = text.take(np.arange(6))
    torch.testing.assert_close(batch.features, clip.encode_text([clean(own)[0] for own in TEXTS]))
    short = CaptionText([["a dark picture of"]], side, 5).take(np.array([0]))
    torch.testing.assert_close(short.features, clip.encode_text(["a dark picture"]))
    assert batch.features.dtype == torch.float32


def test_a_clip_with_a_text_tower_of_its_own_works_too() -> None:
    seed_everything(0, "custom")
    model = towers.build_model({**CLIP["model_cfg"], "custom_text": True}, "custom")
    clip = Clip(model, CLIP["preprocess_cfg"], "custom")
    text = CaptionText(CAPTIONS, ClipSide(clip), 8)
    torch.testing.assert_close(
        text.take(np.arange(6)).features, clip.encode_text([clean(own)[0] for own in TEXTS])
    )
    assert clip.token_embeddings()[text.vocabulary].shape == (len(text.vocabulary), 8)


def test_a_batch_is_padded_to_its_longest_on_every_rank(side: TextSide) -> None:
    text = CaptionText(CAPTIONS, side, 8)
    numbers = np.array([5, 1, 3, 1])
    whole = text.take(numbers)
    assert whole.lengths.tolist() == [3, 5, 5, 5]
    assert whole.tokens.shape == whole.words.shape == (4, 5)
    assert torch.equal(whole.features[1], whole.features[2])  # an equal text
    first, second = text.take(numbers, slice(0, 1)), text.take(numbers, slice(1, 4))
    assert torch.equal(torch.cat([first.tokens, second.tokens]), whole.tokens)
    assert torch.equal(torch.cat([first.features, second.features]), whole.features)
    assert torch.equal(whole.real().sum(dim=1), whole.lengths)


def test_kept_features_are_read_again_and_only_those_that_lack_are_computed(
    side: TextSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "CHUNK", 2)
    first = CaptionText(CAPTIONS, side, 8, tmp_path).take(np.arange(6))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3  # five different texts
    files[1].unlink()
    encoded: list[int] = []
    encode = Clip.encode_tokens

    def counting(self: Clip, ids: torch.Tensor) -> torch.Tensor:
        encoded.append(len(ids))
        return encode(self, ids)

    monkeypatch.setattr(Clip, "encode_tokens", counting)
    again = CaptionText(CAPTIONS, side, 8, tmp_path).take(np.arange(6))
    assert encoded == [2]
    assert torch.equal(first.features, again.features)
    CaptionText([["another"]], side, 8, tmp_path)
    assert encoded == [2, 1]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_features_are_computed_again(
    side: TextSide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(captions, "CHUNK", 2)
    first = CaptionText(CAPTIONS, side, 8, tmp_path).take(np.arange(6))
    digest = tree_digest(tmp_path)
    file = sorted(tmp_path.iterdir())[1]
    damage(file)
    again = CaptionText(CAPTIONS, side, 8, tmp_path).take(np.arange(6))
    assert torch.equal(first.features, again.features)
    assert tree_digest(tmp_path) == digest
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(file) in said
    assert said.endswith("; its captions are encoded again\n")


def test_more_tokens_than_the_clip_takes_are_refused(clip: Clip, side: TextSide) -> None:
    with pytest.raises(MismatchError, match=r"9 tokens, and tiny:fresh:.* takes 8"):
        CaptionText(CAPTIONS, side, 9)
    with pytest.raises(MismatchError, match="at most 8"):
        clip.encode_tokens(torch.zeros(1, 9, dtype=torch.int64))
