"""The floors that every tokenizer is shown beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqpipe.errors import MismatchError
from vqpipe.metrics import floors
from vqpipe.metrics.images import psnr

CPU = torch.device("cpu")


def noise(n: int, side: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def test_patches_are_cells_in_row_order_and_go_back() -> None:
    images = noise(3, side=12)
    patches = floors.to_patches(images, (3, 2))
    assert patches.shape == (3, 6, 3 * 4 * 6)
    assert torch.equal(patches[1, 3].reshape(3, 4, 6), images[1, :, 4:8, 6:12])
    assert torch.equal(floors.from_patches(patches, (3, 2), (4, 6)), images)


def test_block_mean_is_the_rounded_mean_of_each_cell() -> None:
    images = noise(2)
    blocks = floors.block_mean(images, (2, 4))
    assert blocks[0, 1, 5, 3] == round(images[0, 1, 4:8, 2:4].double().mean().item())
    assert torch.equal(floors.block_mean(images, (8, 8)), images)
    assert torch.equal(floors.block_mean(blocks, (2, 4)), blocks)


def test_a_grid_that_does_not_divide_the_images_is_refused() -> None:
    with pytest.raises(MismatchError, match="grid"):
        floors.block_mean(noise(1), (3, 3))


def test_positions_are_drawn_without_replacement() -> None:
    images, cells = floors.draw_patch_positions(10, (2, 2), 25, np.random.default_rng(0))
    assert len(set(zip(images.tolist(), cells.tolist(), strict=True))) == 25
    images, cells = floors.draw_patch_positions(10, (2, 2), 1000, np.random.default_rng(0))
    assert np.bincount(images).tolist() == [4] * 10


def test_kmeans_finds_a_small_set_of_patches_again() -> None:
    kinds = noise(4, side=4, seed=1)
    generator = torch.Generator().manual_seed(2)
    chosen = torch.randint(0, 4, (40, 4), generator=generator)
    images = floors.from_patches(kinds.reshape(4, -1)[chosen], (2, 2), (4, 4))
    found = floors.fit_patch_kmeans(
        floors.to_patches(images, (2, 2)).reshape(160, -1),
        (4,),
        (2, 2),
        num_iterations=20,
        max_num_codes=64,
        seed=0,
        device=CPU,
    )
    assert found.name == "patch_kmeans"
    assert found.bits_per_image == 8
    assert psnr(images, found.reconstruct(images)).min() > 40


@pytest.mark.parametrize(("num_codes", "limit", "count"), [((16, 16), 32, 32), ((1000,), 4096, 40)])
def test_a_capped_floor_says_so_in_its_name(num_codes: tuple[int, ...], limit: int, count: int) -> None:
    patches = floors.to_patches(noise(40), (2, 2)).reshape(160, -1)
    found = floors.fit_patch_kmeans(
        patches, num_codes, (2, 2), num_iterations=2, max_num_codes=limit, seed=0, device=CPU
    )
    assert found.name == "patch_kmeans_capped"
    assert len(found.centroids) == count
    assert found.wanted == np.prod(num_codes)
    assert found.bits_per_image == pytest.approx(4 * np.log2(count))
