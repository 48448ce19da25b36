"""Distances between two sets of images: Frechet, kernel, improved precision and recall, through
torch-fidelity.

Statistics are in float64. Features of a set are extracted once and handed to torch-fidelity's own
functions; nothing is cached on disk. Frechet distances are biased at small n, so both sides must have the
same number of images, and more of them than the features have dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from vqpipe.errors import DataError, MismatchError, SetupError
from vqpipe.params.distances import DistanceParams
from vqpipe.runtime.seeds import derive

if TYPE_CHECKING:
    from vqpipe.metrics.extractors import Features
    from vqpipe.vision.clip import Clip


def load_features(params: DistanceParams, clip: Clip | None, device: torch.device) -> Features:
    """The extractor that the params name.

    Raises:
        SetupError: torch-fidelity is not installed, or Inception weights are asked for and not on disk.
        MismatchError: `features: clip` without a CLIP.
    """
    try:
        from vqpipe.metrics.extractors import clip_features, inception_features
    except ImportError as error:
        raise SetupError(
            "distances need torch-fidelity", found=str(error), run="pip install torch-fidelity"
        ) from error
    if params.features == "inception":
        return inception_features(device)
    if clip is None:
        raise MismatchError("features is clip, and there is no CLIP", run="dvc repro clip")
    return clip_features(clip, device)


def refusal(num_images: int, features: Features, params: DistanceParams) -> str | None:
    """Why no distance can be printed for `num_images` a side, or None when it can."""
    if num_images <= features.dim:
        return (
            f"{num_images} images a side; features of {features.dim} dimensions need more than {features.dim}"
        )
    if num_images < params.subset_images:
        return f"{num_images} images a side; the kernel distance's subsets have {params.subset_images}"
    if num_images <= params.num_neighbours:
        return f"{num_images} images a side; precision and recall use {params.num_neighbours} neighbours"
    return None


def feature_distances(
    generated: Float64[Tensor, "n d"],
    real: Float64[Tensor, "n d"],
    features: Features,
    params: DistanceParams,
) -> dict[str, float]:
    """Distances of two sets of features, named by their extractor.

    Returns:
        `fd_clip` (or `fid`): Frechet distance (Heusel et al. 2017, eq. 6); `kd_clip` (`kid`) and
        `kd_clip_std`: mean and deviation over random subsets of the squared MMD with the cubic polynomial
        kernel (Binkowski et al. 2018, sec. 4; slightly below 0 for equal distributions); `precision_clip`
        and `recall_clip` in [0, 1] (Kynkaanniemi et al. 2019, eq. 1 and 2).

    Raises:
        MismatchError: unequal n, or too few images; the message says why.
        DataError: features that are not finite.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    if generated.shape != real.shape:
        raise MismatchError(
            "distances need the same number of images on both sides",
            found=f"{tuple(generated.shape)} and {tuple(real.shape)}",
        )
    reason = refusal(len(real), features, params)
    if reason is not None:
        raise MismatchError("too few images for a distance", found=reason)
    generated, real = generated.double().cpu(), real.double().cpu()
    if not (torch.isfinite(generated).all() and torch.isfinite(real).all()):
        raise DataError("features that are not finite", found=features.source)
    frechet = fid_statistics_to_metric(
        fid_features_to_statistics(generated), fid_features_to_statistics(real), verbose=False
    )
    kernel = kid_features_to_metric(
        generated,
        real,
        kid_subsets=params.num_subsets,
        kid_subset_size=params.subset_images,
        rng_seed=derive(params.seed, "kernel distance") % (1 << 32),
        verbose=False,
    )
    manifold = prc_features_to_metric(generated, real, prc_neighborhood=params.num_neighbours, verbose=False)
    names = features.names
    return {
        names["frechet"]: float(frechet[KEY_METRIC_FID]),
        names["kernel"]: float(kernel[KEY_METRIC_KID_MEAN]),
        f"{names['kernel']}_std": float(kernel[KEY_METRIC_KID_STD]),
        names["precision"]: float(manifold[KEY_METRIC_PRECISION]),
        names["recall"]: float(manifold[KEY_METRIC_RECALL]),
    }


def distances(
    generated: UInt8[Tensor, "n 3 h w"],
    real: UInt8[Tensor, "n 3 h2 w2"],
    features: Features,
    params: DistanceParams,
    batch_size: int,
) -> dict[str, float]:
    """Distances of generated images from real ones; see `feature_distances` for the names, ranges and
    errors."""
    if len(generated) != len(real):
        raise MismatchError(
            "distances need the same number of images on both sides",
            found=f"{len(generated)} and {len(real)}",
        )
    return feature_distances(
        features.extract(generated, batch_size), features.extract(real, batch_size), features, params
    )
