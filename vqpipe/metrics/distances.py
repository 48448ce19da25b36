"""Distances between two sets of images: Frechet, kernel, improved precision and recall, through torch-fidelity.

Statistics are in float64. Features of a set are extracted once and passed to torch-fidelity's own functions; nothing
is cached on disk. Frechet distances are biased at small n, so both sides must have the same number of images, and
more of them than the features have dimensions. The network that gives the features is part of a number's name:
`fd_clip` and `kd_clip` for the CLIP in use, `fid` and `kid` for torch-fidelity's Inception network and for nothing
else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from jaxtyping import Float64, UInt8
from pydantic import Field
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import DataError, MismatchError, SetupError
from vqpipe.params.base import Params
from vqpipe.runtime.seeds import derive

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip

INCEPTION, INCEPTION_LAYER = "inception-v3-compat", "2048"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's weights in the local torch hub cache."""


class DistanceParams(Params):
    """Which features the distances are taken in, and how the kernel distance is averaged."""

    features: Literal["clip", "inception"]
    """`clip`: the CLIP in use (`fd_clip`, `kd_clip`); `inception`: torch-fidelity's network (`fid`,
    `kid`)."""
    num_subsets: Annotated[int, Field(ge=2)]
    """Random subsets over which the kernel distance is averaged."""
    subset_images: Annotated[int, Field(ge=2)]
    """Images per subset and side; no more than the images there are."""
    num_neighbours: Annotated[int, Field(ge=1)]
    """Neighbours that set the radius of a ball in improved precision and recall; 3 in the paper."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the subsets."""


class Distances(Metrics):
    """Distances between two sets of images; those of one network are numbers, the others are None."""

    fd_clip: float | None = None
    """Frechet distance of CLIP embeddings (Heusel et al. 2017, eq. 6); lower is better."""
    kd_clip: float | None = None
    """Squared MMD of CLIP embeddings with the cubic polynomial kernel (Binkowski et al. 2018, sec. 4), mean over random
    subsets; lower is better, and slightly below 0 for equal distributions."""
    kd_clip_std: float | None = None
    """Its standard deviation over the subsets."""
    precision_clip: float | None = None
    """Improved precision in [0, 1] (Kynkaanniemi et al. 2019, eq. 1); higher is better."""
    recall_clip: float | None = None
    """Improved recall in [0, 1] (Kynkaanniemi et al. 2019, eq. 2); higher is better."""
    fid: float | None = None
    """`fd_clip` with Inception features."""
    kid: float | None = None
    """`kd_clip` with Inception features."""
    kid_std: float | None = None
    """`kd_clip_std` with Inception features."""
    precision_inception: float | None = None
    """`precision_clip` with Inception features."""
    recall_inception: float | None = None
    """`recall_clip` with Inception features."""


@dataclass(frozen=True)
class Features:
    """A network that gives features of images, and the names of the numbers in its features."""

    network: Callable[[UInt8[Tensor, "b 3 h w"]], Tensor]
    """uint8 images on the device to features (b, dim)."""
    source: str
    """Which network it is, for the record."""
    dim: int
    """Length of a feature."""
    names: Mapping[str, str]
    """Metric names of `frechet`, `kernel`, `precision` and `recall`."""
    device: torch.device
    clip: Clip | None = None
    """The CLIP whose embeddings these are, where they are."""

    @torch.no_grad()
    def extract(self, images: UInt8[Tensor, "n 3 h w"], batch_size: int) -> Float64[Tensor, "n d"]:
        """Features of RGB images as float64 on the CPU; they agree to float32 rounding for any batch size."""
        rows = [torch.zeros(0, self.dim, dtype=torch.float64)]
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size].to(self.device)
            rows.append(self.network(batch).double().cpu())
        return torch.cat(rows)


def clip_features(clip: Clip, device: torch.device) -> Features:
    """Embeddings of the CLIP in use, not normalised; numbers are `fd_clip`, `kd_clip` and so on."""

    def network(images: Tensor) -> Tensor:
        return clip.encode_image(images.float() / 127.5 - 1.0).float()

    names = {
        "frechet": "fd_clip",
        "kernel": "kd_clip",
        "precision": "precision_clip",
        "recall": "recall_clip",
    }
    return Features(network, f"clip {clip.id}", clip.embed_dim, names, device, clip)


def inception_features(device: torch.device) -> Features:
    """torch-fidelity's Inception v3, layer 2048; numbers are `fid`, `kid` and so on.

    Raises:
        SetupError: its weights are not in the local torch hub cache (nothing is downloaded), or the file is
            something else.
    """
    from torch_fidelity.utils import create_feature_extractor

    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise SetupError(
            "features: inception needs torch-fidelity's Inception weights, and they are not on disk",
            found=f"no file {path}",
            expected=f"{INCEPTION_FILE} there, or `features: clip` (embedded; gives fd_clip, kd_clip)",
            run='python -c "from torch_fidelity.utils import create_feature_extractor as f; '
            f"f('{INCEPTION}', ['{INCEPTION_LAYER}'], cuda=False)\"",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # torch-fidelity would unpickle the file freely; it gets a copy of what was read safely.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        extractor = create_feature_extractor(
            INCEPTION,
            [INCEPTION_LAYER],
            cuda=False,
            verbose=False,
            feature_extractor_weights_path=copy,
        )
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise SetupError(
            f"{path} cannot be read as Inception weights",
            found=str(error).splitlines()[0],
            expected=INCEPTION_FILE,
        ) from error
    names = {
        "frechet": "fid", "kernel": "kid", "precision": "precision_inception", "recall": "recall_inception",
    }  # fmt: skip
    network = extractor.to(device)
    return Features(
        lambda images: network(images)[0], f"torch-fidelity {INCEPTION}", int(INCEPTION_LAYER), names, device
    )


def load_features(params: DistanceParams, clip: Clip | None, device: torch.device) -> Features:
    """The features that the params name.

    Raises:
        SetupError: Inception weights are asked for and not on disk.
        MismatchError: `features: clip` without a CLIP.
    """
    if params.features == "inception":
        return inception_features(device)
    if clip is None:
        raise MismatchError("features is clip, and there is no CLIP", run="dvc repro clip")
    return clip_features(clip, device)


def why_no_distances(num_images: int, features: Features, params: DistanceParams) -> str | None:
    """Why there is no distance for `num_images` on each side, or None where there is one."""
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
    """Distances of two sets of features by name: the fields of `Distances` for that network.

    Raises:
        MismatchError: unequal n, or too few images; the message has the reason.
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
    reason = why_no_distances(len(real), features, params)
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
