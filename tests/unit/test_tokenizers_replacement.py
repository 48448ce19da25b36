"""Token replacement: which tokens change, what the grid shows, and how far neighbours move an image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.every_recipe import make_tokenizer
from tests.recipes import LC, VQCT, Recipe, centroids, words
from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import MismatchError
from vqpipe.metrics.images import ERRORS
from vqpipe.quantizers.contract import Codebook
from vqpipe.tokenizers.replacement import (
    neighbour_psnr,
    replace_by_neighbours,
    replace_tokens,
    replacement_grid,
)
from vqpipe.tokenizers.tokenizer import Tokenizer

MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)


@pytest.fixture(scope="module", params=["lc", "vqct"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "lc":
        return make_tokenizer(Recipe({**LC, "dim": 4, "distance": "euclidean", "init": "data"}, centroids()))
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


def test_the_grid_shows_originals_reconstructions_and_the_mixture(tokenizer: Tokenizer) -> None:
    a, b = images(2, 0), images(2, 1)
    grid = replacement_grid(tokenizer, a, b, MASK)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 2 * 18 - 2, 5 * 18 - 2)
    cells = [[grid[:, y * 18 : y * 18 + 16, x * 18 : x * 18 + 16] for x in range(5)] for y in range(2)]
    tokens_a, tokens_b = tokenizer.encode(a), tokenizer.encode(b)
    mixed = tokenizer.decode(replace_tokens(tokens_a, tokens_b, MASK))
    expected = [a, b, tokenizer.decode(tokens_a), tokenizer.decode(tokens_b), mixed]
    for y, row in enumerate(cells):
        for cell, image in zip(row, expected, strict=True):
            assert torch.equal(cell, to_uint8(image[y]))
    assert (grid[:, 16:18] == 255).all()
    assert (grid[:, :, 16:18] == 255).all()
    assert not torch.equal(cells[0][4], cells[0][2])
    assert not torch.equal(cells[0][4], cells[0][3])


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
        with pytest.raises(MismatchError, match="no such neighbour"):
            replace_by_neighbours(Books(), every, rank)


def test_neighbours_are_those_of_a_naive_search(tokenizer: Tokenizer) -> None:
    indices = tokenizer.encode(images(3, 2))
    found = replace_by_neighbours(tokenizer, indices, 2)
    for group, book in enumerate(tokenizer.codebooks()):
        distance = torch.cdist(book.vectors.double(), book.vectors.double()).fill_diagonal_(-1)
        assert torch.equal(found[:, group], distance.argsort(dim=1)[indices[:, group], 2])
    assert tokenizer.decode(found).isfinite().all()


def test_psnr_by_rank(tokenizer: Tokenizer) -> None:
    pixels = to_uint8(images(5, 3))
    psnr = neighbour_psnr(tokenizer, pixels, [0, 1, 4], batch_size=2)
    assert list(psnr) == [0, 1, 4]
    plain = ERRORS["psnr"](pixels, to_uint8(tokenizer(to_float(pixels))[0]))
    assert psnr[0] == pytest.approx(plain.mean())
    indices = replace_by_neighbours(tokenizer, tokenizer.encode(to_float(pixels)), 4)
    assert psnr[4] == pytest.approx(ERRORS["psnr"](pixels, to_uint8(tokenizer.decode(indices))).mean())
    assert psnr[4] != psnr[0]
