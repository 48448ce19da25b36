"""The patches artifact: pooled CLIP patch features in safetensors shards."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec

PATCH_SHARD = TensorSpec(
    "patch-shard", 2, {"features": "F16", "image": "I32", "position": "I32"},
    stage="patches",
    about="features [n, d]; image [n]: position in the split; position [n]: row-major place in the grid",
)  # fmt: skip

PATCH_IMAGES = TableSpec(
    "patch-images", 2, {"image": "int32", "image_id": "string"},
    stage="patches", about="the image id behind each image number: the position in the split",
)  # fmt: skip

PATCHES = FolderSpec(
    "patches", 2, stage="patches", required=("images.parquet", "patches-00000.safetensors"),
    about=(
        "patches-00000.safetensors, …, images.parquet; facts: clip_id, dim, grid, projected, split, num_images, "
        "num_vectors, num_shards"
    ),
)  # fmt: skip
