"""Params of the `cluster` stage: k-means over patch features, and the codebooks that it is compared with."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vqpipe.params.base import Params

Method = Literal["kmeans", "selection", "normal"]
Algorithm = Literal["faiss", "torch"]
Start = Literal["random", "plusplus"]


class ClusterParams(Params):
    """The `cluster` section."""

    num_clusters: Annotated[int, Field(ge=2)]
    """K, the number of centroids."""
    method: Method
    """`kmeans`; or, as VQGAN-LC's table 6 compares with it, `selection` (K of the vectors, drawn at random) and
    `normal` (random vectors, each dimension with the mean and standard deviation of the vectors'). The last two
    use num_clusters, seed, prefixes and pull only."""
    algorithm: Algorithm
    """What searches for the nearest centroid: `faiss` (float32), or `torch` (exact: the same bytes on any number
    of ranks and threads)."""
    start: Start
    """Centroids to start from: `random` vectors, or `plusplus` for k-means++, which costs one iteration more."""
    num_iterations: Annotated[int, Field(ge=1)]
    """Lloyd iterations, at most."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Stop after an iteration that lowers the objective by less than this part of it; null stops only where no
    centroid moves any more."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the subsample and of the initial centroids."""
    max_points_per_centroid: Annotated[int, Field(ge=1)] | None = None
    """Train on a random subsample of at most K times this many vectors; null trains on all of them."""
    spherical: bool
    """Cluster directions: scale vectors and centroids to unit length."""
    per_class: bool = False
    """Divide K equally among the classes of the dataset and cluster the patches of each class by themselves, as
    VQGAN-LC's reference code does; every image needs a label."""
    prefixes: list[Annotated[int, Field(ge=1)]]
    """Sizes k below K at which the first k centroids are to be a codebook too, in a nested order; [] orders the
    centroids by falling count."""
    pull: Annotated[float, Field(ge=0, le=1)]
    """How far the centroids of prefixes up to K / 4 move to the means of the vectors nearest to them in that prefix. 0
    leaves the whole codebook as k-means made it; 0.3 halves what a prefix loses against k-means of its own size and
    costs the whole codebook well below 1 %. For prefixes below about K / 8."""

    @model_validator(mode="after")
    def _prefixes_fit(self) -> Self:
        if self.prefixes != sorted(set(self.prefixes)):
            raise ValueError(f"prefixes {self.prefixes} do not rise")
        if self.prefixes and self.prefixes[-1] >= self.num_clusters:
            raise ValueError(
                f"prefixes {self.prefixes} are not all below num_clusters {self.num_clusters}; "
                "the whole codebook needs no entry"
            )
        return self
