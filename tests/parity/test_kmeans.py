"""k-means against scikit-learn and faiss on the same data."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from sklearn.cluster import KMeans as Reference
from sklearn.cluster import kmeans_plusplus

from vqpipe.vision.assignment import Algorithm
from vqpipe.vision.kmeans import Start, kmeans


def mixture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 12)) * 1.5
    return (centres[rng.integers(0, 40, 6000)] + rng.normal(size=(6000, 12))).astype(np.float32)


@pytest.mark.parametrize("algorithm", ["torch", "faiss"])
@pytest.mark.parametrize("seed", [0, 1])
def test_from_the_same_start_the_objective_is_theirs(algorithm: Algorithm, seed: int) -> None:
    vectors = mixture(seed)
    start = vectors[np.random.default_rng(seed).choice(6000, 64, replace=False)]
    ours = kmeans(vectors, 64, 20, 0, start=start, algorithm=algorithm).objective
    learn = Reference(64, init=start, n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(vectors)
    assert ours == pytest.approx(-learn.score(vectors) / len(vectors), rel=0.001)
    other = faiss.Kmeans(12, 64, niter=20, max_points_per_centroid=6000, min_points_per_centroid=1)
    other.train(vectors, init_centroids=start)
    squares = other.index.search(vectors, 1)[0]
    assert ours == pytest.approx(float(squares.astype(np.float64).mean()), rel=0.001)


def test_refilled_clusters_are_scikit_learns() -> None:
    vectors = mixture(2)
    start = vectors[np.random.default_rng(2).choice(6000, 64, replace=False)]
    start[:12] += 1000  # nearest to nothing
    ours = kmeans(vectors, 64, 20, 0, start=start)
    assert ours.rows[0]["refilled"] == 12
    learn = Reference(64, init=start, n_init=1, max_iter=20, tol=0, algorithm="lloyd").fit(vectors)
    assert ours.objective == pytest.approx(-learn.score(vectors) / len(vectors), rel=0.001)


@pytest.mark.parametrize("start", ["random", "plusplus"])
def test_our_starts_end_where_theirs_do(start: Start) -> None:
    vectors = mixture(3)
    init = "random" if start == "random" else "k-means++"
    learn = Reference(64, init=init, n_init=4, max_iter=30, random_state=0, tol=0).fit(vectors)
    ours = min(kmeans(vectors, 64, 30, seed, start=start).objective for seed in range(4))
    assert ours == pytest.approx(learn.inertia_ / len(vectors), rel=0.01)


def test_plusplus_starts_are_as_good_as_scikit_learns() -> None:
    vectors = mixture(4)
    ours = [kmeans(vectors, 64, 1, seed, start="plusplus").history[0] for seed in range(8)]
    theirs = [
        kmeans(vectors, 64, 1, 0, start=kmeans_plusplus(vectors, 64, random_state=seed, n_local_trials=1)[0]).history[0]
        for seed in range(8)
    ]  # fmt: skip
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.05)
