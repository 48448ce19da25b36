"""The centroids prior, read back: k-means centres of patch features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float32, Int64
from torch import Tensor

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.centroids import CENTROID_TENSORS, CENTROIDS
from vqpipe.artifacts.tensors import read_tensors


@dataclass(frozen=True)
class Centroids:
    """A codebook prior of K vectors, the fullest cluster first."""

    vectors: Float32[Tensor, "k d"]
    counts: Int64[Tensor, " k"]
    """Patch vectors nearest to each centroid."""
    facts: dict[str, Any]
    """num_clusters, dim, clip_id, projected, grid, objective, num_vectors."""


def read_centroids(folder: Path) -> Centroids:
    """Read a CENTROIDS artifact.

    Raises:
        ArtifactError: missing, damaged, or another artifact.
    """
    facts = read_manifest(folder, CENTROIDS).facts
    tensors, _ = read_tensors(folder / "centroids.safetensors", CENTROID_TENSORS)
    return Centroids(tensors["centroids"], tensors["counts"], facts)
