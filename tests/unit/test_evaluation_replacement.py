"""Token replacement: which tokens change, what an evaluation keeps of it, and how far neighbours move an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recipes import LC, VQCT, Recipe, make_tokenizer, patches, words
from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.evaluation.pictures import (
    ReplacedParams,
    Replacements,
    middle_mask,
    replace_by_neighbours,
    replace_in_images,
    replace_tokens,
)
from vqpipe.metrics.images import ERRORS
from vqpipe.params.base import validate
from vqpipe.quantizers.contract import Codebook
from vqpipe.report.pictures import decode_png
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tokenizers.tokenizer import Tokenizer

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)


@pytest.fixture(scope="module", params=["lc", "vqct"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "lc":
        return make_tokenizer(Recipe({**LC, "dim": 4, "distance": "euclidean", "init": "data"}, patches()))
    gcn = {**VQCT["transfer"], "final_relu": False}  # type: ignore[dict-item]
    return make_tokenizer(Recipe({**VQCT, "dim": 4, "transfer": gcn, "init": "data"}, words()))


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_tokens_of_b_come_in_where_the_mask_is_true() -> None:
    a, b = torch.arange(64).view(2, 2, 4, 4), torch.arange(64).view(2, 2, 4, 4) + 100
    mixed = replace_tokens(a, b, MASK)
    for image in range(2):
        for group in range(2):
            assert torch.equal(mixed[image, group] >= 100, MASK)
            assert torch.equal(mixed[image, group] % 100, a[image, group])
    own = torch.stack([MASK, ~MASK])
    mixed = replace_tokens(a, b, own)
    assert torch.equal(mixed[1, 0] >= 100, ~MASK)
    assert torch.equal(replace_tokens(a, b, torch.zeros(4, 4, dtype=torch.bool)), a)
    assert torch.equal(replace_tokens(a, b, torch.ones(4, 4, dtype=torch.bool)), b)


@pytest.mark.parametrize(
    ("b", "mask", "says"),
    [
        (torch.zeros(1, 2, 4, 4).long(), MASK, "(1, 2, 4, 4)"),
        (torch.zeros(2, 2, 4, 4).long(), MASK.long(), "torch.int64"),
        (torch.zeros(2, 2, 4, 4).long(), MASK[:3], "(3, 4)"),
        (torch.zeros(2, 2, 4, 4).long(), MASK.expand(3, 4, 4), "(2, 4, 4)"),
    ],
)
def test_maps_that_do_not_fit_are_refused(b: Tensor, mask: Tensor, says: str) -> None:
    with pytest.raises(MismatchError) as caught:
        replace_tokens(torch.zeros(2, 2, 4, 4).long(), b, mask)
    assert says in str(caught.value)


def test_the_middle_is_half_of_rows_and_columns() -> None:
    assert middle_mask((8, 4)).nonzero().tolist() == [[y, x] for y in (2, 3, 4, 5) for x in (1, 2)]
    assert middle_mask((1, 3)).tolist() == [[True, False, False]]


class Books:
    """A codebook on a line, with twins."""

    num_codes, grid, resolution = (7,), (1, 7), 7

    def codebooks(self) -> list[Codebook]:
        return [Codebook("code", torch.tensor([[0.0], [1], [3], [3], [3.5], [7], [12]]))]

    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, indices: Tensor) -> Tensor: ...


def test_the_nth_nearest_other_code() -> None:
    every: Any = torch.arange(7).view(1, 1, 1, 7)
    expected = {
        0: [0, 1, 2, 3, 4, 5, 6],
        1: [1, 0, 3, 2, 2, 4, 5],
        2: [2, 2, 4, 4, 3, 2, 4],  # of 1: the twins 2 and 3 at distance 2; of 5: the twins behind 4
        6: [6, 6, 6, 6, 6, 0, 0],
    }
    for rank, codes in expected.items():
        assert replace_by_neighbours(Books(), every, rank).flatten().tolist() == codes
    for rank in (-1, 7):
        with pytest.raises(MismatchError, match="no neighbour of this rank"):
            replace_by_neighbours(Books(), every, rank)


def test_neighbours_are_those_of_a_naive_search(tokenizer: Tokenizer) -> None:
    indices = tokenizer.encode(images(3, 2))
    found = replace_by_neighbours(tokenizer, indices, 2)
    for group, book in enumerate(tokenizer.codebooks()):
        distance = torch.cdist(book.vectors.double(), book.vectors.double()).fill_diagonal_(-1)
        assert torch.equal(found[:, group], distance.argsort(dim=1)[indices[:, group], 2])
    assert tokenizer.decode(found).isfinite().all()


class Pictures:
    """Random images in memory."""

    def __init__(self, count: int) -> None:
        self.pixels = to_uint8(images(count, 3))
        self.ids = [f"p{i}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, positions: np.ndarray) -> Tensor:
        assert (np.diff(positions) > 0).all()
        return self.pixels[torch.from_numpy(positions)]


def replaced(
    tokenizer: Tokenizer, source: Pictures, count: int, ranks: tuple[int, ...], batch_size: int = 2
) -> Replacements:
    config = ReplacedParams(num_images=count, ranks=ranks)
    indices = tokenizer.encode(to_float(source.pixels)).int()
    return replace_in_images(tokenizer, source, indices, config, 7, batch_size, torch.device("cpu"))


def test_rows_hold_what_the_decoder_makes_of_exchanged_tokens(tokenizer: Tokenizer) -> None:
    source = Pictures(5)
    found = replaced(tokenizer, source, 3, (1, 4))
    assert len(found.rows) == 3
    assert found.left_out == []
    assert list(found.psnr) == [0, 1, 4]
    for row, following in zip(found.rows, [*found.rows[1:], found.rows[0]], strict=True):
        at = source.ids.index(row["image_id"])
        original = source.pixels[at : at + 1]
        tokens = tokenizer.encode(to_float(original))
        assert np.array_equal(decode_png(row["original"]), original[0].permute(1, 2, 0).numpy())
        made = {0: row["reconstruction"], **dict(zip(row["ranks"], row["pictures"], strict=True))}
        for rank, psnr in {0: row["psnr"], **dict(zip(row["ranks"], row["psnrs"], strict=True))}.items():
            expected = to_uint8(tokenizer.decode(replace_by_neighbours(tokenizer, tokens, rank)))
            assert np.array_equal(decode_png(made[rank]), expected[0].permute(1, 2, 0).numpy())
            assert psnr == pytest.approx(ERRORS["psnr"](original, expected)[0])
        assert row["tokens"] == tokens.numel()
        assert row["changed"] == [tokens.numel()] * 2
        assert row["other_id"] == following["image_id"]
        other = source.ids.index(row["other_id"])
        mixed = replace_tokens(
            tokens, tokenizer.encode(to_float(source.pixels[other : other + 1])), middle_mask((4, 4))
        )
        assert np.array_equal(
            decode_png(row["mixed"]), to_uint8(tokenizer.decode(mixed))[0].permute(1, 2, 0).numpy()
        )
        assert row["mixed_changed"] == int((mixed != tokens).sum()) <= 4 * tokens.shape[1]
    assert [row["psnr"] for row in found.rows] == found.psnr[0].tolist()


def test_rows_do_not_depend_on_the_batch_and_images_not_on_the_tokenizer(tokenizer: Tokenizer) -> None:
    source = Pictures(5)
    two, five = (replaced(tokenizer, source, 4, (2,), batch_size=size) for size in (2, 5))
    assert two.rows == five.rows
    assert [row["image_id"] for row in two.rows] == [
        source.ids[i] for i in numpy_rng(7, "replaced").permutation(5)[:4]
    ]


def test_ranks_that_a_codebook_lacks_are_named_and_one_image_has_no_other(tokenizer: Tokenizer) -> None:
    smallest = min(tokenizer.num_codes)
    found = replaced(tokenizer, Pictures(1), 9, (1, smallest - 1, smallest, 5000))
    assert found.left_out == [smallest, 5000]
    (row,) = found.rows
    assert row["ranks"] == [1, smallest - 1]
    assert row["other_id"] is None
    assert row["mixed"] is None


def test_neighbours_are_near_as_the_method_searches() -> None:
    """By angle the code along (1, 0) is nearest to (3, 0); by distance (2, 1) is."""
    books = Books()
    vectors = torch.tensor([[3.0, 0], [0.5, 0], [2, 1]])
    first: Any = torch.zeros(1, 1, 1, 1, dtype=torch.int32)
    for metric, expected in (("cosine", 1), ("euclidean", 2)):
        books.codebooks = lambda m=metric: [Codebook("code", vectors, None, m)]  # type: ignore[assignment, misc]
        assert replace_by_neighbours(books, first, 1).item() == expected
    cosine = make_tokenizer(Recipe({**LC, "dim": 4, "distance": "cosine", "init": "data"}, patches()))
    assert [book.metric for book in cosine.codebooks()] == ["cosine"]


@pytest.mark.parametrize("ranks", [[], [0], [2, 1], [3, 3]])
def test_ranks_that_mean_nothing_are_refused(ranks: list[int]) -> None:
    with pytest.raises(ParamsError, match="ranks"):
        validate({"num_images": 1, "ranks": ranks}, "replaced", ReplacedParams)
