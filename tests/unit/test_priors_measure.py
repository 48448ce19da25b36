"""Bits, the unigram floor, nearest images and shared codes on cases that can be worked out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.small_priors import ONE, TWO, images, labels, model
from vqpipe.artifacts.seal import parse_sealed
from vqpipe.priors import measure
from vqpipe.priors.artifact import contact_sheet
from vqpipe.priors.contract import Batch, Condition
from vqpipe.priors.measure import (
    NearestImages,
    PriorMetrics,
    code_frequencies,
    image_bits,
    same_codes,
    unigram_bits,
    unigram_samples,
)
from vqpipe.runtime.seeds import torch_rng
from vqpipe.tokenizers.tokens import TokenSplit


def split(num_codes: tuple[int, ...], count: int = 5) -> TokenSplit:
    return TokenSplit("x", [str(i) for i in range(count)], labels(count), images(num_codes, count).int())


def batches(data: TokenSplit, size: int) -> Iterator[Batch]:
    for start in range(0, len(data), size):
        tokens, own = data.batch(slice(start, start + size))
        yield tokens, Condition(labels=own)


@pytest.mark.parametrize("num_codes", [ONE, TWO])
def test_image_bits_are_the_likelihood_in_any_batch(num_codes: tuple[int, ...]) -> None:
    prior, data = model(num_codes), split(num_codes)
    with torch.no_grad():
        likelihood = prior.log_likelihood(data.indices.long(), Condition(labels=data.labels))
    expected = -likelihood.double().sum(dim=(1, 2, 3)) / math.log(2)
    for batch_size in (1, 2, 64):
        found = image_bits(prior, batches(data, batch_size))
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_unigram_adds_one_to_every_count() -> None:
    codes = torch.tensor([[0, 0], [1, 0]]).view(2, 1, 1, 2).int()
    train = TokenSplit("train", ["a", "b"], torch.tensor([0, 0]), codes)
    (probs,) = code_frequencies(train, (3,))
    assert probs.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert unigram_bits([probs], torch.tensor([2, 0]).view(1, 1, 1, 2)) == pytest.approx(
        (math.log2(7) + math.log2(7 / 4)) / 2
    )


def test_unigram_of_two_groups_is_the_mean_over_tokens() -> None:
    data = split(TWO)
    floor = code_frequencies(data, TWO)
    assert [len(probs) for probs in floor] == list(TWO)
    codes = data.indices.long()
    own = [unigram_bits([probs], codes[:, g : g + 1]) for g, probs in enumerate(floor)]
    assert unigram_bits(floor, codes) == pytest.approx(sum(own) / 2)


def test_unigram_samples_follow_the_frequencies() -> None:
    probs = [torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)]
    drawn = unigram_samples(probs, 500, (3, 4), torch_rng(0, "u"))
    assert drawn.shape == (500, 1, 3, 4)
    share = torch.bincount(drawn.flatten(), minlength=3).double() / drawn.numel()
    assert share[2] == 0
    assert float(share[0]) == pytest.approx(0.7, abs=0.03)


def test_the_nearest_image_is_found_across_chunks() -> None:
    rng = torch_rng(0, "images")
    train = torch.randint(0, 256, (10, 3, 64, 64), generator=rng, dtype=torch.uint8)
    queries = train[[7, 2]].clone()
    queries[1] = (queries[1].int() + 3).clamp(max=255).to(torch.uint8)
    search = NearestImages(queries)
    for chunk in train.split(4):
        search.feed(chunk)
    assert search.rows.tolist() == [7, 2]
    assert float(search.rmse[0]) == pytest.approx(0, abs=1e-3)
    assert float(search.rmse[1]) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("chunk", [1, 2, 512])
def test_same_codes_is_the_largest_part_shared_in_place(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "TRAIN_CHUNK", chunk)
    data = split(ONE)
    queries = data.indices[:2].long().clone()
    queries[1, 0, 0] = 99  # 4 of 12 places
    found = same_codes(queries, data)
    assert found[0] == 1
    assert float(found[1]) == pytest.approx(8 / 12)


def test_a_contact_sheet_is_in_reading_order_on_white() -> None:
    tiles = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 4, 5)
    sheet = contact_sheet(tiles, columns=2)
    assert sheet.shape == (4 + 2 + 4, 5 + 2 + 5, 3)
    assert (sheet[:4, :5] == 0).all()
    assert (sheet[:4, 7:] == 1).all()
    assert (sheet[6:, :5] == 2).all()
    assert (sheet[6:, 5:] == 255).all()
    assert (sheet[4:6] == 255).all()


def test_the_committed_metrics_are_read_through_the_model() -> None:
    paths = sorted((Path(__file__).parents[2] / "artifacts/metrics/prior").glob("*.json"))
    assert paths
    for path in paths:
        content, _ = parse_sealed(path.read_bytes(), path)
        assert PriorMetrics.read(path).plain() == content
