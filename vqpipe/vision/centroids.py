"""The centroids prior: k-means over patch features, published; `vqpipe.codebooks.centroids` reads it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.centroids import CENTROID_TENSORS, CENTROIDS
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.params.cluster import ClusterParams
from vqpipe.vision.features import patch_facts, read_vectors
from vqpipe.vision.kmeans import kmeans


def write_centroids(patches: Path, params: ClusterParams, out: Path) -> dict[str, Any]:
    """Cluster the vectors of a PATCHES artifact, publish the CENTROIDS artifact, and return the metrics.

    Raises:
        ArtifactError: no patches there.
        MismatchError, DataError, SetupError: as `vqpipe.vision.kmeans.kmeans`.
    """
    source = patch_facts(patches)
    found = kmeans(
        read_vectors(patches), params.num_clusters, params.num_iterations, params.seed,
        max_points_per_centroid=params.max_points_per_centroid, spherical=params.spherical,
    )  # fmt: skip
    facts = {
        "num_clusters": params.num_clusters, "objective": found.objective,
        **{key: source[key] for key in ("dim", "clip_id", "projected", "grid", "num_vectors")},
    }  # fmt: skip
    tensors = {"centroids": torch.from_numpy(found.centroids), "counts": torch.from_numpy(found.counts)}
    with publish_folder(out, CENTROIDS, facts) as partial:
        write_tensors(partial / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
    return {
        "num_clusters": params.num_clusters, "objective": found.objective, "num_empty": found.num_empty,
        "num_iterations": len(found.history), "num_vectors": source["num_vectors"],
        "num_trained_on": found.num_trained_on, "smallest_cluster": int(found.counts.min()),
        "largest_cluster": int(found.counts.max()), "objective_at_start": found.history[0],
        "last_relative_change": _last_change(found.history),
    }  # fmt: skip


def _last_change(history: tuple[float, ...]) -> float:
    """How much the last iteration lowered the training objective, as a part of it."""
    return (history[-2] - history[-1]) / history[-2] if len(history) > 1 and history[-2] > 0 else 0.0
