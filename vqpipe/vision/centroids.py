"""The centroids prior: a codebook made of patch features, published; `vqpipe.codebooks.centroids` reads it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqpipe.artifacts.publish import publish_folder, publish_text
from vqpipe.artifacts.specs.centroids import CENTROID_TENSORS, CENTROIDS
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.errors import ParamsError
from vqpipe.params.cluster import ClusterParams
from vqpipe.runtime.distributed import is_main
from vqpipe.vision.assignment import ENGINES
from vqpipe.vision.checks import check_count, largest_value
from vqpipe.vision.classes import cluster_classes, vector_labels
from vqpipe.vision.features import open_vectors, patch_facts
from vqpipe.vision.kmeans import CPU, KMeans, check_prefixes, kmeans, ordered
from vqpipe.vision.lloyd import Row
from vqpipe.vision.starts import normal_vectors, random_start
from vqpipe.vision.vectors import Part, Unit, Vectors

COLUMNS = ("step", "objective", "empty", "refilled")


def write_centroids(
    patches: Path,
    params: ClusterParams,
    out: Path,
    *,
    dataset: Path | None = None,
    curves: Path | None = None,
    scratch: Path | None = None,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Cluster the vectors of a PATCHES artifact, publish the CENTROIDS artifact, and return the metrics.

    Under torchrun all ranks call this, and rank 0 publishes.

    Args:
        patches: the PATCHES artifact.
        params: see `ClusterParams`.
        out: where the artifact is published.
        dataset: the DATASET artifact with the images' labels, for `per_class`.
        curves: where the objective of each iteration is published as CSV, or None.
        scratch: folder for checkpoints, or None for no checkpoints.
        device: where distances are computed.

    Raises:
        ArtifactError: no patches there.
        ParamsError: `per_class` without a dataset.
        MismatchError, DataError, SetupError: as `vqpipe.vision.kmeans.kmeans`, and for `per_class` as
            `vqpipe.vision.classes.vector_labels` and `shares`.
    """
    source = patch_facts(patches)
    vectors = open_vectors(patches)
    check_count(vectors, params.num_clusters)
    check_prefixes(params.prefixes, params.num_clusters)
    if params.method != "kmeans":
        found = _without_iterations(vectors, params, device)
    elif params.per_class:
        found = _per_class(vectors, patches, dataset, params, scratch, device)
    else:
        found = _fit(vectors, params.num_clusters, "kmeans", params, scratch, device, final=True)
    prefixes = [{"k": k, "objective": objective} for k, objective in found.prefixes]
    facts = {
        "num_clusters": params.num_clusters, "objective": found.objective, "prefixes": prefixes,
        "method": params.method, "per_class": params.per_class,
        **{key: source[key] for key in ("dim", "clip_id", "projected", "grid", "num_vectors")},
    }  # fmt: skip
    if is_main():
        tensors = {"centroids": torch.from_numpy(found.centroids), "counts": torch.from_numpy(found.counts)}
        with publish_folder(out, CENTROIDS, facts) as partial:
            write_tensors(partial / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
        if curves is not None:
            publish_text(curves, curve_text(found.rows))
    return _metrics(found, params, int(source["num_vectors"]))


def _fit(
    vectors: Vectors,
    num_clusters: int,
    name: str,
    params: ClusterParams,
    scratch: Path | None,
    device: torch.device,
    *,
    final: bool,
) -> KMeans:
    """k-means as the params say; `final` orders the outcome and measures its prefixes."""
    return kmeans(
        vectors, num_clusters, params.num_iterations, params.seed, algorithm=params.algorithm,
        start=params.start, tolerance=params.tolerance, max_points_per_centroid=params.max_points_per_centroid,
        spherical=params.spherical, prefixes=params.prefixes if final else (), pull=params.pull, device=device,
        checkpoint=scratch / f"{name}.safetensors" if scratch else None,
    )  # fmt: skip


def _per_class(
    vectors: Vectors,
    patches: Path,
    dataset: Path | None,
    params: ClusterParams,
    scratch: Path | None,
    device: torch.device,
) -> KMeans:
    if dataset is None:
        raise ParamsError(
            "cluster.per_class needs the images' labels", expected="the option --dataset, or per_class: false"
        )
    centroids, common = cluster_classes(
        vectors, vector_labels(patches, dataset), params.num_clusters,
        lambda own, share, name: _fit(own, share, name, params, scratch, device, final=False),
    )  # fmt: skip
    found = _in_order(Unit(vectors) if params.spherical else vectors, centroids, params, device)
    return replace(found, rows=common.rows, num_trained_on=common.num_trained_on)


def _without_iterations(vectors: Vectors, params: ClusterParams, device: torch.device) -> KMeans:
    """`selection` or `normal`."""
    if params.method == "normal":
        drawn = normal_vectors(vectors, params.num_clusters, params.seed)
    else:
        drawn = random_start(Part.own(vectors, CPU), params.num_clusters, params.seed).numpy()
    return _in_order(vectors, drawn, params, device)


def _in_order(vectors: Vectors, centroids: np.ndarray, params: ClusterParams, device: torch.device) -> KMeans:
    whole = Part.own(vectors, device)
    largest = largest_value(whole, params.num_clusters)
    rows = torch.from_numpy(centroids).to(device)
    return ordered(
        whole, rows, ENGINES[params.algorithm], largest, params.prefixes, params.pull,
        spherical=params.spherical and params.method == "kmeans",
    )  # fmt: skip


def _metrics(found: KMeans, params: ClusterParams, num_vectors: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "num_clusters": params.num_clusters, "objective": found.objective, "num_empty": found.num_empty,
        "num_iterations": len(found.rows), "num_vectors": num_vectors, "num_trained_on": found.num_trained_on,
        "smallest_cluster": int(found.counts.min()), "largest_cluster": int(found.counts.max()),
        "num_refilled": int(sum(row["refilled"] for row in found.rows)),
    }  # fmt: skip
    if found.rows:
        history = found.history
        last = (history[-2] - history[-1]) / history[-2] if len(history) > 1 and history[-2] > 0 else 0.0
        metrics |= {"objective_at_start": history[0], "last_relative_change": last}
    if found.prefixes:
        metrics["prefixes"] = {str(k): {"objective": objective} for k, objective in found.prefixes}
    if found.objective_before_pull is not None:
        metrics["objective_before_pull"] = found.objective_before_pull
    return metrics


def curve_text(rows: tuple[Row, ...]) -> str:
    """The curve as CSV: one line an iteration; the objective is that before the iteration's update."""
    lines = [",".join(COLUMNS)]
    lines += [
        f"{int(row['step'])},{row['objective']:.8g},{int(row['empty'])},{int(row['refilled'])}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
