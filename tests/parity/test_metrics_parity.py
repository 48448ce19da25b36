"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqpipe.metrics.images import psnr, ssim

metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is a development package")


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures, flat ones and noise, each with another kind of error."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:40, 0:52]
    smooth = np.stack([127 + 100 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)])
    originals = np.stack([smooth, np.full_like(smooth, 200), rng.uniform(0, 255, smooth.shape), smooth])
    errors = np.stack(
        [
            rng.normal(0, 5, smooth.shape),
            rng.normal(0, 1, smooth.shape),
            0 * smooth + 9,
            60 * (x > 26) + 0 * smooth,
        ]
    )
    images = [
        torch.from_numpy(a.round().clip(0, 255).astype(np.uint8)) for a in (originals, originals + errors)
    ]
    return images[0], images[1]


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    originals, images = pairs()
    for index in range(len(originals)):
        a, b = (batch[index].permute(1, 2, 0).numpy() for batch in (originals, images))
        expected = metrics.structural_similarity(
            a,
            b,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(originals, images)[index] == pytest.approx(expected, abs=1e-9)
        assert psnr(originals, images)[index] == pytest.approx(
            metrics.peak_signal_noise_ratio(a, b), abs=1e-9
        )
