"""k-means against scikit-learn on the same data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans as Reference

from vqpipe.vision.kmeans import kmeans


def mixture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 12)) * 1.5
    return (centres[rng.integers(0, 40, 6000)] + rng.normal(size=(6000, 12))).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
def test_objective_is_within_two_percent_of_scikit_learns(seed: int) -> None:
    vectors = mixture(seed)
    reference = Reference(64, init="random", n_init=3, max_iter=30, random_state=seed).fit(vectors)
    ours = min(kmeans(vectors, 64, 30, start).objective for start in range(3))
    assert ours == pytest.approx(reference.inertia_ / len(vectors), rel=0.02)


def test_the_objective_of_given_centroids_is_scikit_learns() -> None:
    vectors = mixture(2)
    found = kmeans(vectors, 32, 10, 0)
    reference = Reference(32, init=found.centroids, n_init=1, max_iter=1, tol=0).fit(vectors)
    assert found.objective >= reference.inertia_ / len(vectors) * (1 - 1e-6)
    assert found.objective == pytest.approx(-reference.score(vectors) / len(vectors), rel=0.02)
