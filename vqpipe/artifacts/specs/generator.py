"""The generator artifact: a trained prior over tokens, and what it drew."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec

PRIOR_WEIGHTS = TensorSpec(
    "prior_weights", 1, {}, stage="prior", open=True,
    about="weights of a prior; facts: params, num_codes, grid, num_classes, averaged",
)  # fmt: skip

SAMPLES = TableSpec(
    "samples", 1,
    {"image": "binary", "label": "int32", "label_name": "string", "indices": "list<int32>"},
    stage="prior",
    about="samples as PNG with the class they were asked for; indices flattened from (g, h, w)",
)  # fmt: skip

NEAREST = TableSpec(
    "nearest", 1,
    {
        "sample": "binary", "train": "binary", "train_id": "string", "rmse": "double", "same_codes": "double",
    },
    stage="prior",
    about="samples beside the training image nearest in pixels; rmse in [0, 255]; "
    "same_codes: the largest part of codes that any training image shares",
)  # fmt: skip

GENERATOR = FolderSpec(
    "generator", 1, stage="prior",
    required=("model.safetensors", "samples.png", "unigram.png", "samples.parquet", "nearest.parquet"),
    about="a prior, its samples as a grid and as rows, its floor, the nearest training images",
)  # fmt: skip
