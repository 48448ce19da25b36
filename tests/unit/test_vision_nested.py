"""Nested orders: greedy deletion as defined, prefixes close to k-means of their own, and what pulling costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqpipe.errors import MismatchError
from vqpipe.vision import nested
from vqpipe.vision.kmeans import kmeans
from vqpipe.vision.nested import neighbours, nested_order


def mixture(num: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** -0.5
    centres = rng.normal(size=(200, dim)) * scale * 1.5
    weights = rng.dirichlet(np.full(200, 0.5))
    return (centres[rng.choice(200, num, p=weights)] + rng.normal(size=(num, dim)) * scale).astype(np.float32)


def by_definition(centroids: np.ndarray, counts: np.ndarray) -> list[int]:
    squares = ((centroids[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    left, deleted = list(range(len(centroids))), []
    while len(left) > 1:
        costs = [counts @ squares[:, [c for c in left if c != gone]].min(axis=1) for gone in left]
        gone = left[int(np.argmin(costs))]
        left.remove(gone)
        deleted.append(gone)
    return [left[0], *reversed(deleted)]


@pytest.mark.parametrize("width", [3, 24])
@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_greedy_deletions(monkeypatch: pytest.MonkeyPatch, seed: int, width: int) -> None:
    monkeypatch.setattr(nested, "NEIGHBOURS", width)  # short lists run out, and are noted anew
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(40, 3)).astype(np.float32)
    counts = rng.integers(1, 50, 40).astype(np.float64)
    assert nested_order(torch.from_numpy(centroids), counts).tolist() == by_definition(centroids, counts)


def test_empty_clusters_and_duplicates_come_last() -> None:
    centroids = np.array([[0.0], [5.0], [5.0], [9.0], [20.0]], dtype=np.float32)
    order = nested_order(torch.from_numpy(centroids), np.array([4.0, 3.0, 0.0, 2.0, 0.0])).tolist()
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert set(order[3:]) == {2, 4}


@pytest.mark.parametrize("num", [1, 2, 3])
def test_the_smallest_codebooks_have_an_order(num: int) -> None:
    order = nested_order(torch.eye(num), np.ones(num))
    assert sorted(order.tolist()) == list(range(num))


def test_neighbours_are_the_nearest_in_order() -> None:
    centroids = torch.from_numpy(mixture(300))
    among = np.arange(0, 300, 2)
    near, far = neighbours(centroids, among, 7)
    squares = (centroids[:, None].double() - centroids[None, ::2].double()).square().sum(dim=2)
    expected = squares.sort(dim=1)
    np.testing.assert_allclose(far, expected.values[:, :7], rtol=1e-5, atol=1e-9)
    assert (near == among[expected.indices[:, :7].numpy()]).mean() > 0.999


@pytest.mark.parametrize(("pull", "prefixes"), [(0.0, [200, 400]), (0.4, [10, 40, 100, 200, 400])])
def test_prefixes_are_within_ten_percent_of_k_means_of_their_own(pull: float, prefixes: list[int]) -> None:
    data = mixture(12_000)
    found = kmeans(data, 800, 15, 0, prefixes=prefixes, pull=pull)
    shuffled = np.random.default_rng(0).permutation(800)
    for k, objective in found.prefixes:
        direct = kmeans(data, k, 15, 1).objective
        assert objective <= 1.10 * direct, (k, objective / direct)
        drawn = kmeans(data, k, 1, 0, start=found.centroids[shuffled[:k]]).history[0]
        assert objective < 0.95 * drawn
    assert found.objective <= 1.01 * kmeans(data, 800, 15, 0).objective


def test_a_prefix_s_objective_is_that_of_its_rows() -> None:
    data = mixture(2000)
    found = kmeans(data, 64, 6, 0, prefixes=[8, 32])
    for k, objective in found.prefixes:
        squares = ((data[:, None].astype(np.float64) - found.centroids[None, :k]) ** 2).sum(axis=2)
        assert objective == pytest.approx(squares.min(axis=1).mean(), rel=1e-9)


def test_without_pull_the_whole_codebook_is_the_same_set() -> None:
    data = mixture(2000)
    plain, found = kmeans(data, 64, 6, 0), kmeans(data, 64, 6, 0, prefixes=[8, 32])
    assert found.objective == plain.objective
    assert found.objective_before_pull is None
    assert sorted(found.centroids.tolist()) == sorted(plain.centroids.tolist())
    assert dict(zip(found.centroids[:, 0].tolist(), found.counts.tolist(), strict=True)) == dict(
        zip(plain.centroids[:, 0].tolist(), plain.counts.tolist(), strict=True)
    )


def test_pull_betters_the_prefix_and_costs_the_whole_little() -> None:
    data = mixture(6000)
    plain = kmeans(data, 400, 8, 0, prefixes=[20])
    pulled = kmeans(data, 400, 8, 0, prefixes=[20], pull=0.5)
    assert pulled.prefixes[0][1] < 0.97 * plain.prefixes[0][1]
    assert pulled.objective_before_pull == plain.objective
    assert plain.objective <= pulled.objective < 1.01 * plain.objective
    assert pulled.counts.sum() == 6000


@pytest.mark.parametrize("prefixes", [[0, 4], [64], [8, 65]])
def test_prefixes_that_do_not_fit_are_refused(prefixes: list[int]) -> None:
    with pytest.raises(MismatchError, match="num_clusters 64"):
        kmeans(mixture(200), 64, 2, 0, prefixes=prefixes)
