"""Params of the `cluster` stage: k-means over patch features."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqpipe.params.base import Params


class ClusterParams(Params):
    """The `cluster` section."""

    num_clusters: Annotated[int, Field(ge=2)]
    """K, the number of centroids."""
    num_iterations: Annotated[int, Field(ge=1)]
    """Lloyd iterations."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the subsample and of the initial centroids."""
    max_points_per_centroid: Annotated[int, Field(ge=1)] | None = None
    """Train on a random subsample of at most K times this many vectors; null trains on all of them."""
    spherical: bool
    """Normalise the centroids to unit length after each iteration (for unit-length features)."""
