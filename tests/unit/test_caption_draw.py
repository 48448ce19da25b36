"""The draw of one caption per image and epoch: a pure function of seed, epoch and image."""

from __future__ import annotations

import numpy as np
import pytest

from vqpipe.data.loader import epoch_order
from vqpipe.errors import DataError
from vqpipe.tokenizers.captions import CaptionDraw, check_captioned, epoch_of

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
        parts = [epoch_order(200, 8, 1, step, rank, world_size) for rank in range(world_size)]
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
