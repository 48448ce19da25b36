"""The evaluation artifact: what the measures of one tokenizer rest on, image by image and code by code."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec

PER_IMAGE = TableSpec(
    "evaluation-per-image", 1,
    {
        "image_id": "string", "psnr": "double", "ssim": "double", "l1": "double", "l2": "double",
        "perceptual": "double",
    },
    stage="evaluate", about="one row per test image; facts: perceptual (the distance's name, or null)",
)  # fmt: skip

EXAMPLES = TableSpec(
    "evaluation-examples", 2,
    {
        "kind": "string", "image_id": "string", "original": "binary", "reconstruction": "binary",
        "psnr": "double", "ssim": "double", "perceptual": "double",
    },
    stage="evaluate", about="pairs of PNG images; kind: random, hard, typical or easy for the block mean, or worst",
)  # fmt: skip

USAGE = TableSpec(
    "evaluation-usage", 1, {"group": "string", "code": "int32", "name": "string", "count": "int64"},
    stage="evaluate", about="uses of each code over the test split; group: code, adjective, noun",
)  # fmt: skip

WORDS = TableSpec(
    "evaluation-words", 1,
    {"group": "string", "code": "int32", "name": "string", "count": "int64", "patches": "list<binary>"},
    stage="evaluate", about="the most used codes of each group, with PNG crops of test images",
)  # fmt: skip

EVALUATION = FolderSpec(
    "evaluation", 1, stage="evaluate",
    required=("per_image.parquet", "examples.parquet", "usage.parquet", "words.parquet"),
    about="facts: split, num_images, resolution, grid, num_codes, perceptual",
)  # fmt: skip
