"""Per-image errors of reconstructions: PSNR, SSIM, l1 and l2, on lossless RGB.

All take two uint8 batches, so that what is measured is what can be saved and shown, and return one float64
per image.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from vqpipe.errors import MismatchError

PSNR_IDENTICAL = 120.0
"""PSNR in dB given to an image without any error. The smallest error of an RGB image of s x s pixels, one
level in one sample, is 48.13 + 10 log10(3 s^2) dB: 89 at s = 64 and below 120 for every s up to 2,200."""

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
PEAK = 255.0

Images = UInt8[Tensor, "n 3 h w"]
PerImage = Float64[np.ndarray, " n"]


def _check(originals: Tensor, images: Tensor) -> None:
    if originals.dtype != torch.uint8 or images.dtype != torch.uint8 or originals.shape != images.shape:
        raise MismatchError(
            "images are compared as two uint8 batches of one shape",
            found=f"{originals.dtype} {tuple(originals.shape)} and {images.dtype} {tuple(images.shape)}",
            expected="torch.uint8 (n, 3, h, w) twice",
        )


def _mean_square_levels(originals: Tensor, images: Tensor) -> Tensor:
    """Mean squared error in grey levels, exact: integers up to 255^2 are summed in int64."""
    error = originals.to(torch.int32) - images.to(torch.int32)
    count = error[0].numel() if len(error) else 1
    return error.square().flatten(1).sum(dim=1, dtype=torch.int64).double() / count


def psnr(originals: Images, images: Images) -> PerImage:
    """Peak signal-to-noise ratio of each image in dB, over all three channels, peak 255.

    An image without error gets `PSNR_IDENTICAL` (JSON has no infinity). The mean over a split is a mean
    of dB, not the PSNR of the mean error.

    Raises:
        MismatchError: not two uint8 batches of one shape.
    """
    _check(originals, images)
    return psnr_of(_mean_square_levels(originals, images))


def psnr_of(mean_squares: Float64[Tensor, " n"]) -> PerImage:
    """PSNR in dB, peak 255, of mean squared errors in grey levels; `PSNR_IDENTICAL` for an error of 0."""
    mse = mean_squares.cpu().numpy()
    with np.errstate(divide="ignore"):
        values = 10.0 * np.log10(PEAK**2 / mse)
    return np.where(mse > 0, values, PSNR_IDENTICAL)


def l1(originals: Images, images: Images) -> PerImage:
    """Mean absolute error of each image on the scale [-1, 1], so in [0, 2].

    VQCT (Table 1) prints no scale; its l2 of 0.0183 at 24.38 dB fits a peak-to-peak range of 2 and not of 1.

    Raises:
        MismatchError: not two uint8 batches of one shape.
    """
    _check(originals, images)
    error = (originals.to(torch.int32) - images.to(torch.int32)).abs()
    count = error[0].numel() if len(error) else 1
    levels: np.ndarray = error.flatten(1).sum(dim=1, dtype=torch.int64).double().cpu().numpy() / count
    return levels * (2.0 / PEAK)


def l2(originals: Images, images: Images) -> PerImage:
    """Mean squared error of each image on the scale [-1, 1], so in [0, 4]; see `l1` for the scale.

    Raises:
        MismatchError: not two uint8 batches of one shape.
    """
    _check(originals, images)
    levels: np.ndarray = _mean_square_levels(originals, images).cpu().numpy()
    return levels * (2.0 / PEAK) ** 2


@cache
def _window() -> tuple[float, ...]:
    """The Gaussian window of SSIM along one axis, normalised to sum to 1."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return tuple((weights / weights.sum()).tolist())


def _blur_matrix(length: int, device: torch.device) -> Tensor:
    """The banded matrix that filters a signal of `length` with the window, without padding."""
    matrix = torch.zeros(length - SSIM_WINDOW + 1, length, dtype=torch.float64)
    for offset, weight in enumerate(_window()):
        matrix.diagonal(offset).fill_(weight)
    return matrix.to(device)


def ssim(originals: Images, images: Images, chunk: int = 16) -> PerImage:
    """Structural similarity of each image (Wang et al. 2004, eq. 13), in [-1, 1].

    11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, data range 255, population covariance; the
    map is taken where the whole window is inside the image, for each RGB channel, and averaged over both.
    Computed in float64, `chunk` images at a time; the value does not depend on the chunk.

    Raises:
        MismatchError: not two uint8 batches of one shape, or images of less than 11 pixels a side.
    """
    _check(originals, images)
    height, width = originals.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise MismatchError(
            "images are too small for SSIM",
            found=f"{height} x {width}",
            expected=f"at least {SSIM_WINDOW} a side",
        )
    rows = _blur_matrix(height, originals.device)
    columns = _blur_matrix(width, originals.device).T.contiguous()

    def blur(maps: Tensor) -> Tensor:
        return rows @ (maps @ columns)

    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    values = []
    for start in range(0, len(originals), chunk):
        x, y = originals[start : start + chunk].double(), images[start : start + chunk].double()
        mean_x, mean_y = blur(x), blur(y)
        xx, yy, xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
        # Variances enter only as a sum, so one blur serves both.
        both, cross = blur(x * x + y * y) - xx - yy, blur(x * y) - xy
        similarity = (2 * xy + c1) * (2 * cross + c2) / ((xx + yy + c1) * (both + c2))
        values.append(similarity.mean(dim=(1, 2, 3)))
    return torch.cat(values).cpu().numpy() if values else np.zeros(0)


ERRORS = {"psnr": psnr, "ssim": ssim, "l1": l1, "l2": l2}
"""Every per-image measure by name. Higher is better for `psnr` and `ssim`, lower for `l1` and `l2`."""
