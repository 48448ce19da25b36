"""Per-image errors against values worked out by hand, and the bootstrap's coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqpipe.errors import MismatchError
from vqpipe.metrics.images import ERRORS, PSNR_IDENTICAL, l1, l2, psnr, ssim


def flat(level: int, n: int = 2, side: int = 16) -> torch.Tensor:
    return torch.full((n, 3, side, side), level, dtype=torch.uint8)


def test_errors_of_a_constant_offset() -> None:
    dark, light = flat(100), flat(110)
    assert psnr(dark, light) == pytest.approx(10 * np.log10(255**2 / 100))
    assert l1(dark, light) == pytest.approx(20 / 255)
    assert l2(dark, light) == pytest.approx((20 / 255) ** 2)


def test_the_largest_error_is_exact_and_does_not_wrap() -> None:
    black, white = flat(0), flat(255)
    assert psnr(black, white) == pytest.approx(0)
    assert l1(black, white) == pytest.approx(2)
    assert l2(black, white) == pytest.approx(4)


def test_identical_images_get_the_documented_cap_and_beat_the_smallest_error() -> None:
    image = flat(7, n=1, side=2048)
    near = image.clone()
    near[0, 0, 0, 0] += 1
    assert psnr(image, image)[0] == PSNR_IDENTICAL
    assert psnr(image, near)[0] < PSNR_IDENTICAL
    assert ssim(flat(7), flat(7)) == pytest.approx(1)


@pytest.mark.parametrize("name", list(ERRORS))
def test_one_value_per_image_whatever_the_batch(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (5, 3, 20, 13), dtype=torch.uint8, generator=generator) for _ in range(2))
    whole = ERRORS[name](a, b)
    assert whole.dtype == np.float64
    assert whole.shape == (5,)
    single = np.concatenate([ERRORS[name](a[i : i + 1], b[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(whole, single, rtol=1e-12)


def test_ssim_does_not_depend_on_the_chunk() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (7, 3, 24, 24), dtype=torch.uint8, generator=generator) for _ in range(2))
    np.testing.assert_allclose(ssim(a, b, chunk=2), ssim(a, b, chunk=7), rtol=1e-12)


def test_floats_other_shapes_and_tiny_images_are_refused() -> None:
    with pytest.raises(MismatchError, match="uint8"):
        psnr(flat(1).float(), flat(1).float())
    with pytest.raises(MismatchError, match="one shape"):
        l1(flat(1), flat(1, n=1))
    with pytest.raises(MismatchError, match="too small"):
        ssim(flat(1, side=10), flat(1, side=10))
