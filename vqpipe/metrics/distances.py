"""Distances between two sets of images: Frechet, kernel, improved precision and recall, through torch-fidelity.

Statistics are in float64. Features of a set are extracted once, batch by batch, and kept as float32, which is what the
networks give: the kernel distance draws subsets of them, precision and recall compare all of them in pairs. A large set
is in a file (`FeatureRows`), and everything is computed in blocks of `BLOCK` rows, so that memory does not grow with
the number of images. Frechet distances are biased at small n, so both sides must have the same number of images, and
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

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from pydantic import Field
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import DataError, MismatchError, SetupError
from vqpipe.params.base import Params
from vqpipe.runtime.batches import large_array, slices
from vqpipe.runtime.seeds import derive

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip

INCEPTION, INCEPTION_LAYER = "inception-v3-compat", "2048"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's weights in the local torch hub cache."""
BLOCK = 4096
"""Rows of features that are taken at once: 128 MiB for the distances between two blocks."""


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
    """Its standard deviation over the subsets; None where they contain all images."""
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
    def extract(self, images: UInt8[Tensor, "b 3 h w"]) -> Float32[Tensor, "b d"]:
        """Features of one batch of RGB images, on the CPU; for any batch size they agree to float32 rounding."""
        return self.network(images.to(self.device)).float().cpu()


class FeatureRows:
    """The features of a set of images, filled in order; `rows` is float32 (n, dim), mapped from a file if it is large.

    Args:
        num_images: n, the most that can be added.
        dim: length of a feature.
    """

    def __init__(self, num_images: int, dim: int) -> None:
        self._room = torch.from_numpy(
            large_array((num_images, dim), np.float32, "the features of the images")
        )
        self._filled = 0

    def add(self, features: Float32[Tensor, "b d"]) -> None:
        """Append a batch."""
        self._room[self._filled : self._filled + len(features)] = features
        self._filled += len(features)

    @property
    def rows(self) -> Float32[Tensor, "n d"]:
        """What was added so far."""
        return self._room[: self._filled]


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
    generated: Float[Tensor, "n d"],
    real: Float[Tensor, "n d"],
    features: Features,
    params: DistanceParams,
) -> dict[str, float]:
    """Distances of two sets of features by name: the fields of `Distances` for that network.

    Raises:
        MismatchError: unequal n, or too few images; the message has the reason.
        DataError: features that are not finite.
    """
    if generated.shape != real.shape:
        raise MismatchError(
            "distances need the same number of images on both sides",
            found=f"{tuple(generated.shape)} and {tuple(real.shape)}",
        )
    reason = why_no_distances(len(real), features, params)
    if reason is not None:
        raise MismatchError("too few images for a distance", found=reason)
    generated, real = generated.cpu(), real.cpu()
    if not all(
        bool(torch.isfinite(block).all()) for rows in (generated, real) for block in torch.split(rows, BLOCK)
    ):
        raise DataError("features that are not finite", found=features.source)
    kernel = _kernel_distances(generated, real, params)
    precision, recall = _precision_recall(generated, real, params.num_neighbours)
    names = features.names
    # Subsets of all images are one and the same: their mean has no deviation to give.
    spread = {f"{names['kernel']}_std": float(np.std(kernel))} if params.subset_images < len(real) else {}
    return {
        names["frechet"]: _frechet_distance(generated, real),
        names["kernel"]: float(np.mean(kernel)),
        **spread,
        names["precision"]: precision,
        names["recall"]: recall,
    }


def _frechet_distance(generated: Float[Tensor, "n d"], real: Float[Tensor, "n d"]) -> float:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    found = fid_statistics_to_metric(_moments(generated), _moments(real), verbose=False)
    return float(found[KEY_METRIC_FID])


def _moments(rows: Float[Tensor, "n d"]) -> dict[str, Float64[np.ndarray, "..."]]:
    """Mean and covariance as torch-fidelity names them; of more than one block by running sums, the mean first."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(rows) <= BLOCK:
        return fid_features_to_statistics(rows.double())
    mean = torch.stack([block.double().sum(0) for block in torch.split(rows, BLOCK)]).sum(0) / len(rows)
    products = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for block in torch.split(rows, BLOCK):
        centred = block.double() - mean
        products += centred.T @ centred
    return {"mu": mean.numpy(), "sigma": (products / (len(rows) - 1)).numpy()}


def _kernel_distances(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "n d"], params: DistanceParams
) -> Float64[np.ndarray, " subsets"]:
    """The squared MMD of each pair of random subsets, drawn as torch-fidelity's `kid_features_to_metric` draws them."""
    from torch_fidelity.metric_kid import kernel_mmd

    rng = np.random.RandomState(derive(params.seed, "kernel distance") % (1 << 32))

    def subset(rows: Tensor) -> np.ndarray:
        chosen = rng.choice(len(rows), params.subset_images, replace=False)
        return rows[torch.from_numpy(chosen)].double().numpy()

    return np.array([kernel_mmd(subset(generated), subset(real)) for _ in range(params.num_subsets)])


def _precision_recall(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "n d"], num_neighbours: int
) -> tuple[float, float]:
    """Improved precision and recall; the distances of one pair of blocks at a time."""
    reach, centres = radii(generated, num_neighbours), radii(real, num_neighbours)
    precise, recalled = (torch.zeros(len(rows), dtype=torch.bool) for rows in (generated, real))
    for at in slices(len(real), BLOCK):
        for other in slices(len(generated), BLOCK):
            apart = torch.cdist(real[at].double(), generated[other].double())
            recalled[at] |= (apart <= reach[other]).any(1)
            precise[other] |= (apart <= centres[at, None]).any(0)
    return float(precise.float().mean()), float(recalled.float().mean())


def radii(rows: Float[Tensor, "n d"], num_neighbours: int) -> Float64[Tensor, " n"]:
    """The distance of each row to its `num_neighbours`-th nearest other one; the row itself is the nearest of all."""
    found, most = [], num_neighbours + 1
    for block in torch.split(rows, BLOCK):
        nearest = torch.zeros(len(block), 0, dtype=torch.float64)
        for other in torch.split(rows, BLOCK):
            apart = torch.cat([nearest, torch.cdist(block.double(), other.double())], dim=1)
            nearest = apart.topk(min(most, apart.shape[1]), largest=False).values
        found.append(nearest.amax(1))
    return torch.cat(found)
