"""The centroids artifact: a codebook prior made of k-means centroids of patch features."""

from vqpipe.artifacts.spec import FolderSpec, TensorSpec

CENTROID_TENSORS = TensorSpec(
    "centroid-tensors", 1, {"centroids": "F32", "counts": "I64"},
    stage="cluster", about="centroids [K, d] and the vectors nearest to each [K], the fullest cluster first",
)  # fmt: skip

CENTROIDS = FolderSpec(
    "centroids", 1, stage="cluster", required=("centroids.safetensors",),
    about="facts: num_clusters, dim, clip_id, projected, grid, objective, num_vectors",
)  # fmt: skip
