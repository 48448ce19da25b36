"""k-means beside faiss and scikit-learn, and nested prefixes beside k-means of their own.

Run: python -m tests.bench.clusters

All run in this process, one after the other, from the same start; ratios are what counts.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import faiss
import numpy as np
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.exceptions import ConvergenceWarning

from vqpipe.vision.kmeans import kmeans

CASES = ((50_000, 1_000, 64), (45_000, 10_000, 64), (45_000, 10_000, 128))
ITERATIONS = 10


def features(num: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors with a falling spectrum in clusters of unequal weight, as features of patches are."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dim + 1) ** -0.5
    centres = rng.normal(size=(2000, dim)) * scale * 1.5
    weights = rng.dirichlet(np.full(2000, 0.5))
    return (centres[rng.choice(2000, num, p=weights)] + rng.normal(size=(num, dim)) * scale).astype(
        np.float32
    )


def warm_up() -> None:
    """The first calls load kernels and start threads."""
    vectors = features(9_000, 64)
    kmeans(vectors, 100, 2, 0)
    Reference(100, n_init=1, max_iter=2).fit(vectors)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    centroids = work()
    return time.perf_counter() - start, centroids


def objective(vectors: np.ndarray, centroids: np.ndarray) -> float:
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(np.ascontiguousarray(centroids, dtype=np.float32))
    return float(index.search(vectors, 1)[0].astype(np.float64).mean())


def beside_others() -> None:
    print(f"k-means, {ITERATIONS} iterations from the same random start, {torch.get_num_threads()} threads")
    for num, count, dim in CASES:
        vectors = features(num, dim)
        start = vectors[np.random.default_rng(1).choice(num, count, replace=False)]

        def ours(algorithm: str, vectors: np.ndarray = vectors, start: np.ndarray = start) -> np.ndarray:
            return kmeans(vectors, len(start), ITERATIONS, 0, start=start, algorithm=algorithm).centroids  # type: ignore[arg-type]

        def other(vectors: np.ndarray = vectors, start: np.ndarray = start) -> np.ndarray:
            points = -(-len(vectors) // len(start))
            clustering = faiss.Kmeans(
                vectors.shape[1], len(start), niter=ITERATIONS, max_points_per_centroid=points,
                min_points_per_centroid=1,
            )  # fmt: skip
            clustering.train(vectors, init_centroids=start)
            return np.asarray(clustering.centroids)

        def learn(vectors: np.ndarray = vectors, start: np.ndarray = start) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                fitted = Reference(len(start), init=start, n_init=1, max_iter=ITERATIONS, tol=0).fit(vectors)
            return np.asarray(fitted.cluster_centers_)

        runs = {
            "torch": timed(lambda: ours("torch")), "faiss search": timed(lambda: ours("faiss")),
            "faiss.Kmeans": timed(other), "scikit-learn": timed(learn),
        }  # fmt: skip
        base, least = runs["torch"][0], objective(vectors, runs["torch"][1])
        print(f"\nn {num:,}  K {count:,}  d {dim}")
        for name, (seconds, centroids) in runs.items():
            ratio = objective(vectors, centroids) / least
            print(
                f"  {name:14s} {seconds:7.2f} s   time / torch {seconds / base:5.2f}   objective / torch {ratio:.4f}"
            )


def nested() -> None:
    num, count, prefixes = 50_000, 4_000, [40, 400, 1_000, 2_000]
    vectors = features(num, 64)
    print(f"\nnested prefixes, n {num:,}  K {count:,}: objective / k-means of that K")
    direct = {k: kmeans(vectors, k, ITERATIONS, 1).objective for k in prefixes}
    for pull in (0.0, 0.3, 0.5):
        start = time.perf_counter()
        found = kmeans(vectors, count, ITERATIONS, 0, prefixes=prefixes, pull=pull)
        ratios = "  ".join(f"{k:,}: {value / direct[k]:.3f}" for k, value in found.prefixes)
        cost = found.objective / (found.objective_before_pull or found.objective)
        print(f"  pull {pull}   {ratios}   whole: {cost:.4f}   {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    warm_up()
    beside_others()
    nested()
