"""The patches codebook: k-means over patch features, or a codebook that k-means is compared with, published.

`vqpipe.codebooks.patches` reads it back. Class by class, K is divided equally among the classes, as VQGAN-LC's
reference code builds its codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from pydantic import Field, model_validator

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_folder, publish_text, read_manifest
from vqpipe.artifacts.specs.codebooks import CENTROID_TENSORS, PATCHES_CODEBOOK
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES
from vqpipe.artifacts.specs.patches import PATCH_IMAGES
from vqpipe.artifacts.tables import iter_batches, read_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.errors import DataError, MismatchError, ParamsError
from vqpipe.params.base import Params
from vqpipe.runtime.distributed import is_main
from vqpipe.vision.assignment import SEARCH_METHODS, Algorithm
from vqpipe.vision.features import iter_shards, open_vectors, patch_facts
from vqpipe.vision.kmeans import (
    CPU,
    CurveRow,
    KMeans,
    Start,
    check_prefixes,
    kmeans,
    normal_vectors,
    order_and_measure,
    random_start,
)
from vqpipe.vision.vectors import RankPart, UnitVectors, Vectors, check_count, largest_value, take_rows

Method = Literal["kmeans", "selection", "normal"]


class ClusterParams(Params):
    """The `cluster` section."""

    num_clusters: Annotated[int, Field(ge=2)]
    """K, the number of centroids."""
    method: Method
    """`kmeans`; or, as VQGAN-LC's table 6 compares with it, `selection` (K of the vectors, drawn at random) and
    `normal` (random vectors, each dimension with the mean and standard deviation of the vectors'). The last two
    use num_clusters, algorithm, seed, prefixes and pull only."""
    algorithm: Algorithm
    """What searches for the nearest centroid: `faiss` (float32), or `torch` (exact: the same bytes on any number
    of ranks and threads)."""
    start: Start
    """Centroids to start from: `random` vectors, or `plusplus` for k-means++, which costs one iteration more."""
    num_iterations: Annotated[int, Field(ge=1)]
    """Lloyd iterations, at most."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Stop after an iteration that lowers the objective by less than this part of it; null stops only where no
    centroid moves any more."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the subsample and of the initial centroids."""
    max_points_per_centroid: Annotated[int, Field(ge=1)] | None = None
    """Train on a random subsample of at most K times this many vectors; null trains on all of them."""
    spherical: bool
    """Cluster directions: scale vectors and centroids to unit length."""
    per_class: bool = False
    """Divide K equally among the classes of the dataset and cluster the patches of each class by themselves, as
    VQGAN-LC's reference code does; every image needs a label."""
    prefixes: list[Annotated[int, Field(ge=1)]]
    """Sizes k below K at which the first k centroids are to be a codebook too, in a nested order; [] orders the
    centroids by falling count."""
    pull: Annotated[float, Field(ge=0, le=1)]
    """How far the centroids of prefixes up to K / 4 move to the means of the vectors nearest to them in that prefix. 0
    leaves the whole codebook as k-means made it; 0.3 halves what a prefix loses against k-means of its own size and
    costs the whole codebook well below 1 %. For prefixes below about K / 8."""

    @model_validator(mode="after")
    def _prefixes_fit(self) -> Self:
        if self.prefixes != sorted(set(self.prefixes)):
            raise ValueError(f"prefixes {self.prefixes} do not rise")
        if self.prefixes and self.prefixes[-1] >= self.num_clusters:
            raise ValueError(
                f"prefixes {self.prefixes} are not all below num_clusters {self.num_clusters}; "
                "the whole codebook needs no entry"
            )
        return self

    @model_validator(mode="after")
    def _per_class_is_kmeans(self) -> Self:
        if self.per_class and self.method != "kmeans":
            raise ValueError(
                f"method {self.method} clusters nothing class by class; per_class: false, or method: kmeans"
            )
        return self


COLUMNS = ("step", "objective", "empty", "refilled")
"""Of the curve's file."""


class PrefixMetrics(Metrics):
    """The first k centroids as a codebook of their own."""

    objective: float
    """Mean squared distance of a vector to the nearest of them; lower is better."""


class ClusterMetrics(Metrics):
    """What the `cluster` stage measures. Distances are squared and Euclidean, in the features' units."""

    num_clusters: int
    """K."""
    objective: float
    """Mean squared distance of a vector to its nearest centroid, over all vectors; lower is better."""
    objective_at_start: float | None = None
    """The same before the first iteration, over the vectors trained on; None without iterations."""
    objective_before_pull: float | None = None
    """The same before centroids of prefixes were pulled to their vectors; None where none were."""
    last_relative_change: float | None = None
    """The part of the objective that the last iteration removed; None without iterations."""
    num_iterations: int
    """Lloyd iterations that were run."""
    num_vectors: int
    """All vectors."""
    num_trained_on: int
    """Vectors that the centroids were fitted to; 0 without iterations."""
    num_empty: int
    """Clusters that no vector is nearest to."""
    num_refilled: int
    """Empty clusters that were given a vector, over all iterations."""
    smallest_cluster: int
    """Vectors of the smallest cluster."""
    largest_cluster: int
    """Vectors of the largest cluster."""
    prefixes: dict[str, PrefixMetrics] | None = None
    """By k; None without prefixes."""


def write_patches_codebook(
    patches: Path,
    params: ClusterParams,
    out: Path,
    *,
    dataset: Path | None = None,
    curves: Path | None = None,
    scratch: Path | None = None,
    device: torch.device = CPU,
) -> ClusterMetrics:
    """Cluster the vectors of a PATCHES artifact, publish the patches codebook, and return the metrics.

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
        MismatchError, DataError, SetupError: as `kmeans`, and for `per_class` as
            `vector_labels` and `clusters_per_class`.
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
        found = _kmeans(vectors, params.num_clusters, "kmeans", params, scratch, device, final=True)
    prefixes = [{"k": k, "objective": objective} for k, objective in found.prefixes]
    facts = {
        "num_clusters": params.num_clusters, "objective": found.objective, "prefixes": prefixes,
        "method": params.method, "per_class": params.per_class,
        **{key: source[key] for key in ("dim", "clip_id", "projected", "grid", "num_vectors")},
    }  # fmt: skip
    if is_main():
        tensors = {"centroids": torch.from_numpy(found.centroids), "counts": torch.from_numpy(found.counts)}
        with publish_folder(out, PATCHES_CODEBOOK, facts) as partial:
            write_tensors(partial / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
        if curves is not None:
            publish_text(curves, curve_text(found.rows))
    return _metrics(found, int(source["num_vectors"]))


def _kmeans(
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
        lambda own, share, name: _kmeans(own, share, name, params, scratch, device, final=False),
    )  # fmt: skip
    found = _in_order(UnitVectors(vectors) if params.spherical else vectors, centroids, params, device)
    return replace(found, rows=common.rows, num_trained_on=common.num_trained_on)


def _without_iterations(vectors: Vectors, params: ClusterParams, device: torch.device) -> KMeans:
    """`selection` or `normal`."""
    if params.method == "normal":
        drawn = normal_vectors(vectors, params.num_clusters, params.seed)
    else:
        drawn = random_start(RankPart.own(vectors, CPU), params.num_clusters, params.seed).numpy()
    return _in_order(vectors, drawn, params, device)


def _in_order(vectors: Vectors, centroids: np.ndarray, params: ClusterParams, device: torch.device) -> KMeans:
    whole = RankPart.own(vectors, device)
    largest = largest_value(whole, params.num_clusters)
    rows = torch.from_numpy(centroids).to(device)
    return order_and_measure(
        whole, rows, SEARCH_METHODS[params.algorithm], largest, params.prefixes, params.pull,
        spherical=params.spherical and params.method == "kmeans",
    )  # fmt: skip


def _metrics(found: KMeans, num_vectors: int) -> ClusterMetrics:
    history = found.history
    last = (history[-2] - history[-1]) / history[-2] if len(history) > 1 and history[-2] > 0 else 0.0
    prefixes = {str(k): PrefixMetrics(objective=objective) for k, objective in found.prefixes}
    return ClusterMetrics(
        num_clusters=len(found.centroids),
        objective=found.objective,
        objective_at_start=history[0] if history else None,
        objective_before_pull=found.objective_before_pull,
        last_relative_change=last if history else None,
        num_iterations=len(found.rows),
        num_vectors=num_vectors,
        num_trained_on=found.num_trained_on,
        num_empty=found.num_empty,
        num_refilled=int(sum(row["refilled"] for row in found.rows)),
        smallest_cluster=int(found.counts.min()),
        largest_cluster=int(found.counts.max()),
        prefixes=prefixes or None,
    )


def curve_text(rows: tuple[CurveRow, ...]) -> str:
    """The curve as CSV: one line an iteration; the objective is that before the iteration's update."""
    lines = [",".join(COLUMNS)]
    lines += [
        f"{int(row['step'])},{row['objective']:.8g},{int(row['empty'])},{int(row['refilled'])}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def cluster_classes(
    vectors: Vectors,
    labels: Int64[np.ndarray, " n"],
    num_clusters: int,
    run: Callable[[Vectors, int, str], KMeans],
) -> tuple[Float32[np.ndarray, "k d"], KMeans]:
    """k-means of each class by itself; all centroids in class order, and an outcome with the common curve.

    Args:
        vectors: n vectors.
        labels: class of each.
        num_clusters: K.
        run: k-means of (vectors of a class, its share of K, a name).

    Raises:
        MismatchError: as `clusters_per_class`.
    """
    found = [
        run(take_rows(vectors, np.flatnonzero(labels == label)), share, f"class-{label}")
        for label, share in clusters_per_class(labels, num_clusters).items()
    ]
    centroids = np.concatenate([one.centroids for one in found])
    trained_on = sum(one.num_trained_on for one in found)
    return centroids, replace(found[0], rows=_common_rows(found), num_trained_on=trained_on)


def clusters_per_class(labels: Int64[np.ndarray, " n"], num_clusters: int) -> dict[int, int]:
    """Centroids of each class: K over the number of classes, one more for the first ones where that leaves a rest.

    Raises:
        MismatchError: more classes than centroids, or a class with fewer vectors than its share.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) > num_clusters:
        raise MismatchError(
            "cluster.per_class: more classes than centroids",
            found=f"{len(classes)} classes, num_clusters {num_clusters}",
        )
    each, rest = divmod(num_clusters, len(classes))
    found = {int(label): each + (at < rest) for at, label in enumerate(classes)}
    for label, count in zip(classes, counts, strict=True):
        if count < found[int(label)]:
            raise MismatchError(
                "cluster.per_class: a class has fewer vectors than its share of the centroids",
                found=f"class {label}: {count} vectors, {found[int(label)]} centroids",
                expected=f"a num_clusters of at most {int(counts.min()) * len(classes)}",
            )
    return found


def vector_labels(patches: Path, dataset: Path) -> Int64[np.ndarray, " n"]:
    """The class index of each vector of a PATCHES artifact, through its images' ids.

    Raises:
        ArtifactError: no patches or dataset there.
        DataError: the dataset has no such split, or images without a label.
        MismatchError: the patches are of images that are not in the dataset.
    """
    split = str(patch_facts(patches).get("split", "train"))
    splits = read_manifest(dataset, DATASET).facts["splits"]
    if split not in splits:
        raise DataError(f"{dataset} has no split {split}", found=split, choices=splits)
    known: dict[str, int | None] = {}
    for name in splits[split]["shards"]:
        for batch in iter_batches(dataset / name, IMAGES, ["image_id", "label"], 4096):
            known |= dict(
                zip(batch.column("image_id").to_pylist(), batch.column("label").to_pylist(), strict=True)
            )
    table = read_table(patches / "images.parquet", PATCH_IMAGES, ["image", "image_id"])
    ids = dict(zip(table.column("image").to_pylist(), table.column("image_id").to_pylist(), strict=True))
    strange = [one for one in ids.values() if one not in known]
    if strange:
        raise MismatchError(
            "patches and dataset do not fit", found=f"{len(strange)} images of the patches, first {strange[0]}",
            expected=f"images of the split {split} of {dataset}", run="dvc repro patches",
        )  # fmt: skip
    bare = [one for one in ids.values() if known[one] is None]
    if bare:
        raise DataError(
            "cluster.per_class needs a label for every image",
            found=f"{len(bare)} of {len(ids)} images without one, first {bare[0]}",
            expected="a dataset with classes, or per_class: false",
        )
    by_image = np.full(max(ids, default=0) + 1, -1, dtype=np.int64)
    for image, one in ids.items():
        by_image[image] = known[one]
    images: list[Int32[np.ndarray, " m"]] = [shard["image"].numpy() for shard in iter_shards(patches)]
    labels: Int64[np.ndarray, " n"] = by_image[np.concatenate(images)]
    return labels


def _common_rows(found: list[KMeans]) -> tuple[CurveRow, ...]:
    """One curve of all classes, weighted by their vectors; a class that ended early keeps its last objective and its
    empty clusters, and refills none."""
    steps = max(len(one.rows) for one in found)
    total = sum(one.num_trained_on for one in found)
    rows = []
    for step in range(steps):
        now = [one.rows[min(step, len(one.rows) - 1)] for one in found]
        objective = sum(row["objective"] * one.num_trained_on for row, one in zip(now, found, strict=True))
        row = {"step": step + 1, "objective": objective / total}
        refilled = sum(one.rows[step]["refilled"] for one in found if step < len(one.rows))
        rows.append(row | {"empty": sum(own["empty"] for own in now), "refilled": refilled})
    return tuple(rows)
