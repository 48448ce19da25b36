"""k-means: exact objective, order, determinism, empty clusters and refusals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vqpipe.errors import DataError, MismatchError
from vqpipe.vision import kmeans as module
from vqpipe.vision.kmeans import kmeans


def blobs(num: int = 600, dim: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, dim)) * 8
    weights = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    return (centres[rng.choice(6, num, p=weights)] + rng.normal(size=(num, dim))).astype(np.float32)


def test_objective_and_counts_are_those_of_the_nearest_centroids() -> None:
    vectors = blobs()
    found = kmeans(vectors, 7, 10, 0)
    squares = ((vectors[:, None].astype(np.float64) - found.centroids[None]) ** 2).sum(axis=2)
    assert found.objective == pytest.approx(squares.min(axis=1).mean(), rel=1e-9)
    assert found.counts.tolist() == np.bincount(squares.argmin(axis=1), minlength=7).tolist()
    assert found.counts.sum() == len(vectors)


def test_the_objective_is_right_far_from_the_origin() -> None:
    vectors = blobs() + np.float32(3000)  # |x - c|^2 by expansion loses all its digits here
    found = kmeans(vectors, 6, 10, 0)
    nearest, _ = module.assign(vectors, found.centroids)
    exact = np.square(vectors.astype(np.float64) - found.centroids[nearest]).sum(axis=1).mean()
    assert found.objective == pytest.approx(exact, rel=1e-12)


def test_tiles_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = kmeans(blobs(), 7, 5, 0)
    monkeypatch.setattr(module, "TILE", 37)
    tiled = kmeans(blobs(), 7, 5, 0)
    assert tiled.objective == pytest.approx(whole.objective, rel=1e-12)
    assert (tiled.counts == whole.counts).all()


def test_the_fullest_cluster_comes_first() -> None:
    counts = kmeans(blobs(), 9, 10, 3).counts
    assert (np.diff(counts) <= 0).all()


def test_the_objective_falls() -> None:
    history = kmeans(blobs(2000), 20, 15, 0).history
    assert len(history) == 15
    assert (np.diff(history) <= 1e-4).all()
    assert history[-1] < history[0]


def test_another_seed_gives_another_start() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    assert not np.array_equal(kmeans(vectors, 16, 1, 0).centroids, kmeans(vectors, 16, 1, 1).centroids)


PROGRAM = """
import sys, hashlib, numpy as np
from vqpipe.vision.kmeans import kmeans
vectors = np.random.default_rng(0).normal(size=(20000, 16)).astype(np.float32)
found = kmeans(vectors, 64, 8, 5, max_points_per_centroid=200)
print(hashlib.sha256(found.centroids.tobytes() + found.counts.tobytes()).hexdigest(), found.objective)
"""


def test_fresh_processes_give_the_same_bytes() -> None:
    outputs = {
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_as_many_clusters_as_vectors_leaves_no_distance() -> None:
    vectors = blobs(40)
    found = kmeans(vectors, 40, 3, 0)
    assert found.objective == pytest.approx(0, abs=1e-6)
    assert found.num_empty == 0


def test_fewer_distinct_vectors_than_clusters_shows_as_empty_clusters() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    found = kmeans(vectors, 8, 5, 0)
    assert found.num_empty >= 4
    assert np.isfinite(found.centroids).all()
    assert (found.counts[-found.num_empty :] == 0).all()


def test_a_subsample_is_counted() -> None:
    found = kmeans(blobs(1000), 5, 5, 0, max_points_per_centroid=50)
    assert found.num_trained_on == 250
    assert found.counts.sum() == 1000


def test_spherical_centroids_have_unit_length() -> None:
    vectors = blobs()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = kmeans(vectors, 6, 10, 0, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)


def test_more_clusters_than_vectors_is_refused() -> None:
    with pytest.raises(MismatchError, match="num_clusters 11, 10 vectors"):
        kmeans(blobs(10), 11, 2, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_named(value: float) -> None:
    vectors = blobs(50)
    vectors[31, 2] = value
    with pytest.raises(DataError, match="vector 31"):
        kmeans(vectors, 5, 2, 0)


def test_constant_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="all vectors are the same"):
        kmeans(np.ones((100, 4), dtype=np.float32), 5, 2, 0)


def test_a_list_of_numbers_is_no_matrix() -> None:
    with pytest.raises(DataError, match="shape"):
        kmeans(np.zeros(9, dtype=np.float32), 2, 2, 0)
