"""Distances of images from test images: those of `metrics.distances`, density and coverage, and FID as in papers.

Density and coverage (Naeem et al., 2020, section 3.2) count samples in the balls around real images alone, so that a
single outlying sample cannot make a large ball. Balls are closed, and have the radius of the `num_neighbours`-th
nearest other real image, as in improved precision and recall.

Letters: n images on either side, m training images, d channels of a feature.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from vqpipe.metrics.distances import (
    BLOCK,
    DistanceParams,
    Distances,
    Features,
    feature_distances,
    radii,
    why_no_distances,
)
from vqpipe.runtime.batches import slices


class SampleDistances(Distances):
    """Distances of a set of images from equally many test images."""

    density_clip: float | None = None
    """Density of the samples at test images, 0 or more, about 1 for equal distributions (Naeem et al. 2020, eq. 4)."""
    coverage_clip: float | None = None
    """Part of the test images with a sample in their ball, [0, 1] (Naeem et al. 2020, eq. 5); higher is better."""
    density_inception: float | None = None
    """`density_clip` with Inception features."""
    coverage_inception: float | None = None
    """`coverage_clip` with Inception features."""
    fid_train: float | None = None
    """FID from all images of the training split, as papers report it for generators; n differs between the sides."""
    num_train_images: int | None = None
    """Images of the training split in `fid_train`."""
    not_measured: str | None = None
    """Why there are no distances; None where there are."""


class Moments:
    """Mean and covariance of features that pass in batches; float64, and no feature is kept."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._shift = torch.zeros(dim, dtype=torch.float64)
        self._sum = torch.zeros(dim, dtype=torch.float64)
        self._products = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, rows: Float32[Tensor, "b d"]) -> None:
        """Count a batch; sums are taken about the first batch's mean, so that no digits are lost."""
        if not self.count:
            self._shift = rows.double().mean(0)
        centred = rows.double() - self._shift
        self.count += len(rows)
        self._sum += centred.sum(0)
        self._products += centred.T @ centred

    def statistics(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """As torch-fidelity names them; the covariance is divided by the count less one."""
        mean = self._sum / self.count
        sigma = (self._products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return {"mu": (self._shift + mean).numpy(), "sigma": sigma.numpy()}

    @classmethod
    def of(cls, batches: Iterable[Float32[Tensor, "b d"]], dim: int) -> Moments:
        """The moments of all batches."""
        found = cls(dim)
        for rows in batches:
            found.add(rows)
        return found

    def frechet_distance(self, other: Moments) -> float:
        """The Frechet distance of two normal distributions with these moments, by torch-fidelity."""
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        found = fid_statistics_to_metric(self.statistics(), other.statistics(), verbose=False)
        return float(found[KEY_METRIC_FID])


def density_coverage(
    generated: Float32[Tensor, "n d"], real: Float32[Tensor, "n d"], num_neighbours: int
) -> tuple[float, float]:
    """Density and coverage of `generated` at `real` (Naeem et al., 2020, eq. 4 and 5); one pair of blocks at a time."""
    reach = radii(real, num_neighbours)
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for at in slices(len(real), BLOCK):
        for other in slices(len(generated), BLOCK):
            within = torch.cdist(real[at].double(), generated[other].double()) <= reach[at, None]
            inside += int(within.sum())
            covered[at] |= within.any(1)
    return inside / (num_neighbours * len(generated)), float(covered.double().mean())


def sample_distances(
    made: Float32[Tensor, "n d"],
    real: Float32[Tensor, "n d"],
    features: Features,
    params: DistanceParams,
    train: Moments | None = None,
) -> SampleDistances:
    """All distances of two sets of features, or the reason why there are none.

    Args:
        train: moments of the whole training split; only with Inception features, and gives `fid_train`.

    Raises:
        DataError: features that are not finite.
    """
    reason = why_no_distances(len(real), features, params)
    if reason is not None:
        return SampleDistances(not_measured=reason)
    network = features.names["precision"].removeprefix("precision_")
    density, coverage = density_coverage(made, real, params.num_neighbours)
    found: dict[str, float | int] = {
        **feature_distances(made, real, features, params),
        f"density_{network}": density,
        f"coverage_{network}": coverage,
    }
    if train is not None:
        own = Moments.of(torch.split(made, BLOCK), made.shape[1])
        found |= {"fid_train": own.frechet_distance(train), "num_train_images": train.count}
    return SampleDistances.model_validate(found)
