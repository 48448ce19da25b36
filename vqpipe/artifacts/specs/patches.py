"""The patches artifact: pooled CLIP patch features in safetensors shards."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec

PATCH_SHARD = TensorSpec(
    "patch-shard", 1, {"features": "F16", "image": "I32", "position": "I32"},
    stage="patches",
    about="features [n, d]; image [n]: row of images.parquet; position [n]: row-major place in the grid",
)  # fmt: skip

PATCH_IMAGES = TableSpec(
    "patch-images", 1, {"image": "int32", "image_id": "string"},
    stage="patches", about="the image id behind each image number",
)  # fmt: skip

PATCHES = FolderSpec(
    "patches", 1, stage="patches", required=("images.parquet", "patches-00000.safetensors"),
    about="patches-00000.safetensors, …; facts: clip_id, dim, grid, projected, num_images, num_vectors",
)  # fmt: skip
