"""k-means at a large K on real features: python -m tests.bench.large_k --patches FOLDER --num-clusters 100000

Prints the time of each iteration, objective, empty clusters, and each prefix compared with k-means of its own size.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from vqpipe.vision import kmeans as front
from vqpipe.vision.features import open_vectors, patch_facts


def main(
    patches: Annotated[Path, typer.Option(help="The patches artifact.")],
    num_clusters: Annotated[int, typer.Option(help="K.")] = 100_000,
    iterations: Annotated[int, typer.Option(help="Lloyd iterations.")] = 10,
    algorithm: Annotated[str, typer.Option(help="torch or faiss.")] = "torch",
    prefixes: Annotated[str, typer.Option(help="Sizes, with commas.")] = "1000,10000,50000",
    pull: Annotated[float, typer.Option(help="As cluster.pull.")] = 0.3,
    direct: Annotated[
        bool, typer.Option(help="Run k-means at each prefix's size too, for the ratio.")
    ] = True,
    max_vectors: Annotated[int, typer.Option(help="Use the first so many vectors; 0 for all.")] = 0,
) -> None:
    """Run k-means and report."""
    vectors = open_vectors(patches)
    vectors = vectors[:max_vectors] if max_vectors else vectors
    print(
        f"n {len(vectors):,}  d {vectors.shape[1]}  K {num_clusters:,}  {algorithm}, {torch.get_num_threads()} threads"
    )
    print(f"features of {patch_facts(patches)['clip_id']}", flush=True)
    plain, lloyd, marks = front.assign, front.lloyd, [time.perf_counter()]

    def assign(*arguments: Any) -> Any:
        found = plain(*arguments)
        marks.append(time.perf_counter())
        empty = int((found.counts == 0).sum())
        print(
            f"iteration {len(marks) - 1:3d}   {marks[-1] - marks[-2]:7.1f} s   objective before it "
            f"{found.objective:.6g}   empty {empty}",
            flush=True,
        )
        return found

    def timed_lloyd(*arguments: Any, **options: Any) -> Any:
        front.assign = assign
        try:
            return lloyd(*arguments, **options)
        finally:
            front.assign = plain

    front.lloyd = timed_lloyd
    wanted = [int(k) for k in prefixes.split(",") if k]
    begun = time.perf_counter()
    found = front.kmeans(
        vectors, num_clusters, iterations, 0, algorithm=algorithm, prefixes=wanted, pull=pull  # type: ignore[arg-type]
    )  # fmt: skip
    ended = time.perf_counter()
    print(f"iterations {marks[-1] - begun:.1f} s; order, pull and measures {ended - marks[-1]:.1f} s")
    print(
        f"objective {found.objective:.6g} (before pull {found.objective_before_pull}), empty {found.num_empty}"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB", flush=True)
    front.lloyd = lloyd
    for k, objective in found.prefixes:
        start = time.perf_counter()
        own = front.kmeans(vectors, k, iterations, 1, algorithm=algorithm).objective if direct else None  # type: ignore[arg-type]
        ratio = f"   k-means of {k:,}: {own:.6g}   ratio {objective / own:.4f}" if own else ""
        print(f"prefix {k:7,d}   {objective:.6g}{ratio}   {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
