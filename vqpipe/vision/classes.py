"""k-means class by class, as VQGAN-LC's reference code builds its codebook: K divided equally among the classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES
from vqpipe.artifacts.specs.patches import PATCH_IMAGES
from vqpipe.artifacts.tables import iter_batches, read_table
from vqpipe.errors import DataError, MismatchError
from vqpipe.vision.features import iter_shards, patch_facts
from vqpipe.vision.kmeans import KMeans
from vqpipe.vision.lloyd import Row
from vqpipe.vision.vectors import Vectors, take


def vector_labels(patches: Path, dataset: Path) -> Int64[np.ndarray, " n"]:
    """The class index of each vector of a PATCHES artifact, through its images' ids.

    Raises:
        ArtifactError: no patches or dataset there.
        DataError: the dataset has no such split, or images without a label.
        MismatchError: the patches are of images that the dataset does not hold.
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


def shares(labels: Int64[np.ndarray, " n"], num_clusters: int) -> dict[int, int]:
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


def cluster_classes(
    vectors: Vectors,
    labels: Int64[np.ndarray, " n"],
    num_clusters: int,
    fit: Callable[[Vectors, int, str], KMeans],
) -> tuple[Float32[np.ndarray, "k d"], KMeans]:
    """Fit each class by itself; all centroids in class order, and an outcome that holds the common curve.

    Args:
        vectors: n vectors.
        labels: class of each.
        num_clusters: K.
        fit: (vectors of a class, its share of K, a name) to its k-means.

    Raises:
        MismatchError: as `shares`.
    """
    found = [
        fit(take(vectors, np.flatnonzero(labels == label)), share, f"class-{label}")
        for label, share in shares(labels, num_clusters).items()
    ]
    centroids = np.concatenate([one.centroids for one in found])
    trained_on = sum(one.num_trained_on for one in found)
    return centroids, replace(found[0], rows=_common_rows(found), num_trained_on=trained_on)


def _common_rows(found: list[KMeans]) -> tuple[Row, ...]:
    """One curve of all classes, weighted by their vectors; a class that ended early counts with its last row."""
    steps = max(len(one.rows) for one in found)
    total = sum(one.num_trained_on for one in found)
    rows = []
    for step in range(steps):
        now = [one.rows[min(step, len(one.rows) - 1)] for one in found]
        objective = sum(row["objective"] * one.num_trained_on for row, one in zip(now, found, strict=True))
        row = {"step": step + 1, "objective": objective / total}
        rows.append(row | {name: sum(r[name] for r in now) for name in ("empty", "refilled")})
    return tuple(rows)
