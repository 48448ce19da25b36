"""k-means with faiss: Lloyd's iterations over float32 vectors, the same bytes on every run of one machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from vqpipe.errors import DataError, MismatchError, SetupError

TILE = 1 << 16
"""Vectors whose distances are held at once."""
MAX_SEED = 1 << 31
"""faiss holds its seed in a C int."""


@dataclass(frozen=True)
class KMeans:
    """The outcome of k-means, clusters with the most vectors first."""

    centroids: Float32[np.ndarray, "k d"]
    counts: Int64[np.ndarray, " k"]
    """Vectors nearest to each centroid, over all vectors given."""
    objective: float
    """Mean squared Euclidean distance of a vector to its nearest centroid, over all vectors, in float64."""
    history: tuple[float, ...]
    """The same before each iteration's update, over the vectors trained on, in faiss's float32 arithmetic."""
    num_trained_on: int
    """Vectors in the subsample that the centroids were fitted to."""

    @property
    def num_empty(self) -> int:
        """Clusters that no vector is nearest to."""
        return int((self.counts == 0).sum())


def kmeans(
    vectors: Float32[np.ndarray, "n d"],
    num_clusters: int,
    num_iterations: int,
    seed: int,
    *,
    max_points_per_centroid: int | None = None,
    spherical: bool = False,
) -> KMeans:
    """Cluster vectors by squared Euclidean distance.

    Starts from a random choice of the vectors. A cluster that becomes empty takes over a part of a full one.
    Clusters come back by falling count, equal counts in faiss's order.

    Args:
        vectors: float32, finite.
        num_clusters: K, at most n.
        num_iterations: Lloyd iterations.
        seed: of the subsample and the start.
        max_points_per_centroid: fit to a random subsample of at most K times as many vectors; None uses all.
        spherical: normalise the centroids after each iteration.

    Raises:
        MismatchError: K above the number of vectors.
        DataError: vectors that are not finite, or all the same.
        SetupError: faiss is not installed.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    check_vectors(vectors, num_clusters)
    try:
        import faiss
    except ImportError as error:
        raise SetupError("k-means needs faiss", found="not installed", run="pip install faiss-cpu") from error
    num_vectors, dim = vectors.shape
    most = max_points_per_centroid or math.ceil(num_vectors / num_clusters)
    clustering = faiss.Kmeans(
        dim, num_clusters, niter=num_iterations, seed=seed % MAX_SEED, spherical=spherical, nredo=1,
        max_points_per_centroid=most, min_points_per_centroid=1, verbose=False,
    )  # fmt: skip
    clustering.train(vectors)
    num_trained_on = min(num_vectors, most * num_clusters)
    centroids = np.asarray(clustering.centroids, dtype=np.float32)
    history = tuple(float(total) / num_trained_on for total in np.asarray(clustering.obj))
    nearest, objective = assign(vectors, centroids)
    counts = np.bincount(nearest, minlength=num_clusters).astype(np.int64)
    order = np.argsort(-counts, kind="stable")
    return KMeans(centroids[order], counts[order], objective, history, num_trained_on)


def check_vectors(vectors: Float32[np.ndarray, "n d"], num_clusters: int) -> None:
    """Raise unless `num_clusters` clusters can be made of these vectors; errors as `kmeans`."""
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise DataError(
            "k-means takes a matrix of vectors", found=f"shape {vectors.shape}", expected="(n, d)"
        )
    if not 1 <= num_clusters <= len(vectors):
        raise MismatchError(
            "k-means cannot make more clusters than there are vectors",
            found=f"num_clusters {num_clusters}, {len(vectors)} vectors",
            expected="num_clusters of at most the number of vectors, and well below it",
        )
    for start in range(0, len(vectors), TILE):
        bad = ~np.isfinite(vectors[start : start + TILE]).all(axis=1)
        if bad.any():
            raise DataError(
                "k-means: the vectors are not all finite",
                found=f"NaN or infinity, first in vector {start + int(bad.argmax())}",
                expected="finite features",
                run="dvc repro patches",
            )
    if num_clusters > 1 and (vectors.max(axis=0) == vectors.min(axis=0)).all():
        raise DataError(
            "k-means: all vectors are the same",
            found=f"{len(vectors)} equal vectors of {vectors.shape[1]} dimensions",
            expected="features that tell patches apart; look at the images and the CLIP that made them",
        )


def assign(
    vectors: Float32[np.ndarray, "n d"], centroids: Float32[np.ndarray, "k d"]
) -> tuple[Int64[np.ndarray, " n"], float]:
    """The nearest centroid of each vector, and the mean squared distance to it in float64, tile by tile."""
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    nearest = np.empty(len(vectors), dtype=np.int64)
    total = 0.0
    for start in range(0, len(vectors), TILE):
        tile = vectors[start : start + TILE]
        _, found = index.search(tile, 1)
        nearest[start : start + len(tile)] = found[:, 0]
        # faiss expands |x - c|^2, which loses digits where x and c are close; the difference does not.
        total += float(np.square(tile.astype(np.float64) - centroids[found[:, 0]]).sum())
    return nearest, total / len(vectors)
