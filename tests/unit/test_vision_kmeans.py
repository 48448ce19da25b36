"""k-means: objective, order, determinism, empty clusters, starts, resuming, refusals; nested orders and pulling."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.damage import DAMAGES, DELETED
from vqpipe.codebooks.search import searcher
from vqpipe.errors import DataError, MismatchError
from vqpipe.vision import assignment, nested, vectors
from vqpipe.vision import kmeans as kmeans_module
from vqpipe.vision.assignment import SEARCH_METHODS, Algorithm, Search, assign
from vqpipe.vision.kmeans import CPU, LloydState, Start, kmeans
from vqpipe.vision.nested import neighbours, nested_order
from vqpipe.vision.vectors import TILE, RankPart, SubsetVectors, exact_mean, take_rows

ALGORITHMS: list[Algorithm] = ["torch", "faiss"]


def blobs(num: int = 600, dim: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, dim)) * 8
    weights = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    return (centres[rng.choice(6, num, p=weights)] + rng.normal(size=(num, dim))).astype(np.float32)


def labels_of(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    squares = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    return squares.argmin(axis=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_objective_and_counts_are_those_of_the_nearest_centroids(algorithm: Algorithm) -> None:
    vectors = blobs()
    found = kmeans(vectors, 7, 10, 0, algorithm=algorithm)
    squares = ((vectors[:, None].astype(np.float64) - found.centroids[None]) ** 2).sum(axis=2)
    assert found.objective == pytest.approx(squares.min(axis=1).mean(), rel=1e-9)
    assert found.counts.tolist() == np.bincount(squares.argmin(axis=1), minlength=7).tolist()
    assert found.counts.sum() == len(vectors)


def test_the_objective_is_right_far_from_the_origin() -> None:
    vectors = blobs() + np.float32(3000)  # |x - c|^2 by expansion loses all its digits here
    found = kmeans(vectors, 6, 10, 0)
    nearest = labels_of(vectors, found.centroids)
    exact = np.square(vectors.astype(np.float64) - found.centroids[nearest]).sum(axis=1).mean()
    assert found.objective == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("start", ["random", "plusplus"])
@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_and_threads_change_no_byte(
    monkeypatch: pytest.MonkeyPatch, start: Start, threads: int
) -> None:
    whole = kmeans(blobs(), 40, 5, 0, start=start, prefixes=[5, 20], pull=0.5)
    before = torch.get_num_threads()
    for module in (vectors, kmeans_module):
        monkeypatch.setattr(module, "TILE", 37)
    torch.set_num_threads(threads)
    try:
        tiled = kmeans(blobs(), 40, 5, 0, start=start, prefixes=[5, 20], pull=0.5)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert tiled.centroids.tobytes() == whole.centroids.tobytes()
    assert (tiled.objective, tiled.rows, tiled.prefixes) == (whole.objective, whole.rows, whole.prefixes)


def test_each_iteration_is_lloyds() -> None:
    data = blobs(2000)
    centroids = data[:30].copy()
    for steps in range(1, 6):
        labels = labels_of(data, centroids)
        for k in range(30):
            centroids[k] = data[labels == k].astype(np.float64).mean(axis=0)
        found = kmeans(data, 30, steps, 0, start=data[:30])
        order = np.argsort(-np.bincount(labels_of(data, centroids), minlength=30), kind="stable")
        np.testing.assert_allclose(found.centroids, centroids[order], rtol=1e-5, atol=1e-5)


def test_the_short_search_changes_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs(3000)
    data[2000:] = data[:1000]  # equal distances too
    short = kmeans(data, 700, 12, 0)
    monkeypatch.setattr(assignment, "INCREMENTAL_BELOW", -1.0)
    long = kmeans(data, 700, 12, 0)
    assert short.centroids.tobytes() == long.centroids.tobytes()
    assert short.rows == long.rows


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Lists that are filled: distances of each search of a tile, and numbers of centroids that are prepared."""
    searched: list[int] = []
    prepared: list[int] = []

    def counting(centroids: torch.Tensor) -> Search:
        prepared.append(len(centroids))
        search = searcher(centroids)

        def searching(tile: torch.Tensor) -> torch.Tensor:
            searched.append(len(tile) * len(centroids))
            return search(tile)

        return searching

    monkeypatch.setattr(assignment, "searcher", counting)
    return searched, prepared


def test_the_short_search_is_used_and_reads_less(monkeypatch: pytest.MonkeyPatch) -> None:
    searched, _ = counted(monkeypatch)
    found = kmeans(blobs(1500), 400, 12, 0)
    assert sum(searched) < 0.7 * (len(found.rows) + 1) * 1500 * 400


def test_a_pass_prepares_its_centroids_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched, prepared = counted(monkeypatch)
    vectors = blobs(3 * TILE)
    part = RankPart.own(vectors, CPU)
    assign(part, torch.from_numpy(vectors[:5]), SEARCH_METHODS["torch"], float(np.abs(vectors).max()))
    assert searched == [TILE * 5] * 3
    assert prepared == [5]


def test_the_fullest_cluster_comes_first() -> None:
    counts = kmeans(blobs(), 9, 10, 3).counts
    assert (np.diff(counts) <= 0).all()


def test_the_objective_falls() -> None:
    history = kmeans(blobs(2000), 20, 8, 0).history
    assert len(history) == 8
    assert (np.diff(history) <= 0).all()
    assert history[-1] < history[0]


def test_another_seed_gives_another_start() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    assert not np.array_equal(kmeans(vectors, 16, 1, 0).centroids, kmeans(vectors, 16, 1, 1).centroids)


PROGRAM = """
import hashlib, numpy as np
from vqpipe.vision.kmeans import kmeans
vectors = np.random.default_rng(0).normal(size=(20000, 16)).astype(np.float32)
for algorithm in ("torch", "faiss"):
    found = kmeans(vectors, 64, 8, 5, max_points_per_centroid=200, algorithm=algorithm)
    print(hashlib.sha256(found.centroids.tobytes() + found.counts.tobytes()).hexdigest(), found.objective)
"""


@pytest.mark.slow
def test_fresh_processes_give_the_same_bytes() -> None:
    command = [sys.executable, "-c", PROGRAM]
    outputs = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_spherical_clusters_directions(algorithm: Algorithm) -> None:
    data = blobs()
    found = kmeans(data, 6, 10, 0, spherical=True, algorithm=algorithm, prefixes=[2, 4], pull=0.5)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
    cosines = (data @ found.centroids.T) / np.linalg.norm(data, axis=1, keepdims=True)
    assert found.objective == pytest.approx((2 - 2 * cosines.max(axis=1)).mean(), rel=1e-4)
    longer = kmeans(data * 3, 6, 10, 0, spherical=True, algorithm=algorithm)
    assert longer.objective == pytest.approx(kmeans(data, 6, 10, 0, spherical=True).objective, rel=1e-5)


def test_a_vector_without_direction_is_refused() -> None:
    data = blobs(50)
    data[31] = 0
    with pytest.raises(DataError, match="vector 31"):
        kmeans(data, 5, 2, 0, spherical=True)


def test_an_empty_cluster_takes_the_farthest_vector() -> None:
    data = np.array([[0.0], [1.0], [2.0], [9.0], [9.5]], dtype=np.float32)
    start = np.array([[0.5], [100.0], [200.0]], dtype=np.float32)
    found = kmeans(data, 3, 1, 0, start=start)
    # 9.5 and 9 are farthest from 0.5; the mean of the rest is 1.
    assert sorted(found.centroids[:, 0].tolist()) == [1.0, 9.0, 9.5]
    assert [row["refilled"] for row in found.rows] == [2]


def test_a_vector_alone_in_its_cluster_stays() -> None:
    data = np.array([[0.0], [0.0], [50.0]], dtype=np.float32)
    start = np.array([[0.0], [49.0], [300.0]], dtype=np.float32)
    found = kmeans(data, 3, 1, 0, start=start)
    assert found.rows[0]["refilled"] == 0
    assert sorted(found.centroids[:, 0].tolist()) == [0.0, 50.0, 300.0]


def test_the_stop_rule_is_a_part_of_the_objective() -> None:
    data = blobs(2000)
    whole = kmeans(data, 20, 12, 0).history
    changes = -np.diff(whole) / np.array(whole[:-1])
    stopped = kmeans(data, 20, 12, 0, tolerance=float(changes[3] * 1.000001))
    first = int((changes < changes[3] * 1.000001).argmax()) + 2
    assert stopped.history == whole[:first]


def test_centroids_that_do_not_move_end_the_run() -> None:
    assert len(kmeans(blobs(60), 60, 50, 0).rows) < 5


def test_plusplus_starts_in_every_blob() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(20, 5)) * 100
    data = (centres[rng.integers(0, 20, 1000)] + rng.normal(size=(1000, 5))).astype(np.float32)
    for seed in range(3):
        begun = kmeans_module.plusplus_start(RankPart.own(data, CPU), 20, seed).numpy()
        assert len(set(labels_of(begun, centres.astype(np.float32)).tolist())) == 20


def test_plusplus_draws_in_proportion_to_squared_distance() -> None:
    data = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    drawn = np.array(
        [kmeans_module.plusplus_start(RankPart.own(data, CPU), 2, seed)[:, 0].numpy() for seed in range(600)]
    )
    second = drawn[drawn[:, 0] == 0, 1]
    assert (second == 3).mean() == pytest.approx(0.9, abs=0.06)


def test_plusplus_of_many_at_once_draws_different_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_module, "ROUNDS", 8)
    begun = kmeans_module.plusplus_start(RankPart.own(blobs(), CPU), 300, 0)
    assert len(torch.unique(begun, dim=0)) == 300


def test_plusplus_with_too_few_different_vectors_is_filled_up() -> None:
    data = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
    begun = kmeans_module.plusplus_start(RankPart.own(data, CPU), 8, 0)
    assert len(torch.unique(begun, dim=0)) == 4
    assert begun.shape == (8, 4)


@pytest.mark.parametrize("prefixes", [[], [2, 4]])
def test_a_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefixes: list[int]
) -> None:
    data, path = blobs(2000), tmp_path / "checkpoint.safetensors"
    whole = kmeans(data, 20, 8, 0, start="plusplus", prefixes=prefixes)
    save, saves = LloydState.save, []

    def save_and_die(state: LloydState, at: Path) -> None:
        save(state, at)
        saves.append(len(state.rows))
        if len(saves) in (4, 6):
            raise KeyboardInterrupt

    monkeypatch.setattr(LloydState, "save", save_and_die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            kmeans(data, 20, 8, 0, start="plusplus", prefixes=prefixes, checkpoint=path)
    again = kmeans(data, 20, 8, 0, start="plusplus", prefixes=prefixes, checkpoint=path)
    assert saves == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert again.centroids.tobytes() == whole.centroids.tobytes()
    assert (again.rows, again.objective, again.prefixes) == (whole.rows, whole.objective, whole.prefixes)


@pytest.mark.parametrize("damage", [*DAMAGES.values(), *DELETED.values()], ids=[*DAMAGES, *DELETED])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_is_set_aside_and_the_bytes_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    both: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, path = blobs(500), tmp_path / "kmeans.safetensors"
    whole = kmeans(data, 10, 6, 0)
    save, saves = LloydState.save, list[int]()

    def save_and_die(state: LloydState, at: Path) -> None:
        save(state, at)
        saves.append(len(state.rows))
        if len(saves) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(LloydState, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        kmeans(data, 10, 6, 0, checkpoint=path)
    damage(path)
    if both:
        damage(tmp_path / "kmeans.before.safetensors")
    again = kmeans(data, 10, 6, 0, checkpoint=path)
    assert saves == [0, 1, 2, 3, *range(0 if both else 3, 7)]
    assert again.centroids.tobytes() == whole.centroids.tobytes()
    assert (again.rows, again.objective) == (whole.rows, whole.objective)
    said = capsys.readouterr().err
    if damage is not Path.unlink:
        assert said.count("\n") == (2 if both else 1)
        assert (tmp_path / "kmeans.damaged.safetensors").is_file()


def test_chosen_vectors_are_read_like_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "TILE", 16)
    data = blobs(200)
    rows = np.array([0, 3, 15, 16, 90, 91, 199])
    np.testing.assert_array_equal(take_rows(data, rows), data[rows])
    chosen = SubsetVectors(data, rows)
    np.testing.assert_array_equal(chosen[2:6], data[rows[2:6]])
    assert len(chosen) == 7


def test_half_precision_vectors_are_read_as_they_are() -> None:
    half = blobs().astype(np.float16)
    found = kmeans(half, 6, 5, 0)
    assert found.centroids.tobytes() == kmeans(half.astype(np.float32), 6, 5, 0).centroids.tobytes()


def test_an_exact_mean_does_not_depend_on_the_order() -> None:
    values = torch.rand(10_000, dtype=torch.float64) * 1e3
    means = {exact_mean(values[torch.randperm(10_000)], 10_000) for _ in range(5)}
    assert len(means) == 1
    assert means.pop() == pytest.approx(float(values.mean()), rel=1e-10)


def test_assignment_counts_and_means_are_of_the_labels() -> None:
    data = blobs(300)
    found = assignment.assign(
        RankPart.own(data, CPU), torch.from_numpy(data[:9]), SEARCH_METHODS["torch"], 100.0
    )
    labels = found.labels.numpy()
    assert (labels == labels_of(data, data[:9])).all()
    for k in range(9):
        np.testing.assert_allclose(found.means[k], data[labels == k].mean(axis=0), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("ranks", [1, 3, 7])
def test_ranks_share_the_vectors_in_order(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    ends = [0]
    for rank in range(ranks):
        monkeypatch.setattr(vectors, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(vectors, "world_size", lambda: ranks)
        part = RankPart.own(blobs(20), CPU)
        assert part.first == ends[-1]
        assert len(part) in (20 // ranks, 20 // ranks + 1)
        ends.append(part.stop)
    assert ends[-1] == 20


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


@pytest.mark.slow
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
