"""The patches codebook: k-means centroids of patch features. The stage `cluster` writes it, see `vqpipe.vision`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Float32, Int64
from torch import Tensor

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.codebooks import CENTROID_TENSORS, PATCHES_CODEBOOK
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.codebooks.search import nearest
from vqpipe.errors import MismatchError


@dataclass(frozen=True)
class PatchesCodebook:
    """K vectors. The first k of them are a codebook too, a good one for the prefixes that it was made for."""

    vectors: Float32[Tensor, "k d"]
    counts: Int64[Tensor, " k"]
    """Patch vectors nearest to each centroid."""
    facts: dict[str, Any]
    """num_clusters, dim, clip_id, projected, grid, objective, num_vectors, method, per_class, prefixes."""

    @property
    def prefixes(self) -> dict[int, float]:
        """Mean squared distance of a patch vector to the nearest of the first k vectors, by k; K itself is last."""
        listed = {int(one["k"]): float(one["objective"]) for one in self.facts["prefixes"]}
        return {**listed, len(self.vectors): float(self.facts["objective"])}

    def prefix(self, k: int) -> Float32[Tensor, "k d"]:
        """The first k vectors: a codebook too, a good one for one of `prefixes`. `counts` are of the whole.

        Raises:
            MismatchError: k is not in 1 … K.
        """
        if not 1 <= k <= len(self.vectors):
            raise MismatchError("no such prefix", found=k, expected=f"1 to {len(self.vectors)} centroids")
        return self.vectors[:k]

    def nearest(self, features: Float[Tensor, "n d"], k: int | None = None) -> Int64[Tensor, " n"]:
        """The index of the centroid nearest to each row (Euclidean, exact); among the first k where k is given.

        Raises:
            MismatchError: rows of another dimension, or k is not in 1 … K.
        """
        codes = self.vectors if k is None else self.prefix(k)
        if features.ndim != 2 or features.shape[1] != codes.shape[1]:
            raise MismatchError(
                "the features do not fit the centroids", found=f"shape {tuple(features.shape)}",
                expected=f"(n, {codes.shape[1]}), as {self.facts.get('clip_id', 'the centroids')} gives them",
            )  # fmt: skip
        return nearest(features, codes.to(features.device))


def read_patches_codebook(folder: Path) -> PatchesCodebook:
    """Read a CENTROIDS artifact.

    Raises:
        ArtifactError: missing, damaged, or another artifact.
    """
    facts = read_manifest(folder, PATCHES_CODEBOOK).facts
    tensors, _ = read_tensors(folder / "centroids.safetensors", CENTROID_TENSORS)
    return PatchesCodebook(tensors["centroids"], tensors["counts"], facts)
