"""The patches codebook: centroids of patch features."""

from vqpipe.artifacts.spec import FolderSpec, TensorSpec

CENTROID_TENSORS = TensorSpec(
    "centroid-tensors", 2, {"centroids": "F32", "counts": "I64"},
    stage="cluster",
    about="centroids [K, d], the vectors nearest to each [K]; in nested order, without prefixes by falling count",
)  # fmt: skip

CENTROIDS = FolderSpec(
    "centroids", 2, stage="cluster", required=("centroids.safetensors",),
    about=(
        "the patches codebook; facts: num_clusters, dim, clip_id, projected, grid, objective, num_vectors, method, "
        "per_class, prefixes: list of {k, objective of the first k centroids}"
    ),
)  # fmt: skip
