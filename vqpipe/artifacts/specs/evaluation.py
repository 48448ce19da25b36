"""The evaluation artifact: the measures of one tokenizer image by image and code by code, and pictures."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec

_PICTURES = {"image_id": "string", "original": "binary", "reconstruction": "binary", "psnr": "double"}
_CODE = {"group": "string", "code": "int32", "name": "string", "count": "int64"}

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
    {"kind": "string", **_PICTURES, "ssim": "double", "perceptual": "double"},
    stage="evaluate", about="pairs of PNG images; kind: random, hard, typical or easy for the block mean, or worst",
)  # fmt: skip

USAGE = TableSpec(
    "evaluation-usage", 2,
    {
        **_CODE, "norm": "double", "nearest_code": "int32", "nearest_similarity": "double",
        "nearest_distance": "double", "map_x": "double", "map_y": "double",
    },
    stage="evaluate",
    about="each code: group (code, adjective, noun), uses over the test split, norm, the other code with the highest "
    "cosine, the distance of the closest, and its place in t-SNE; null where a large K was sampled",
)  # fmt: skip

USAGE_CURVE = TableSpec(
    "evaluation-usage-curve", 1,
    {"group": "string", "images": "int64", "tokens": "int64", "used": "int64", "uniform": "double"},
    stage="evaluate", about="codes used by the first images in a random order, and how many uniform draws would reach",
)  # fmt: skip

SIMILARITY = TableSpec(
    "evaluation-similarity", 1,
    {**_CODE, "cosine": "list<float>"},
    stage="evaluate", about="cosines between the most used codes, rows and columns in the order of a clustering",
)  # fmt: skip

DECODED = TableSpec(
    "evaluation-decoded", 1,
    {"group": "string", "codes": "list<int32>", "names": "list<string>", "count": "int64", "picture": "binary"},
    stage="evaluate",
    about="what the decoder makes of a grid filled with one code (or one code per group); group: whose code varies, "
    "or pair; PNG",
)  # fmt: skip

WORDS = TableSpec(
    "evaluation-words", 1,
    {**_CODE, "patches": "list<binary>"},
    stage="evaluate", about="the most used codes of each group, with PNG crops of test images",
)  # fmt: skip

REPLACED = TableSpec(
    "evaluation-replaced", 1,
    {
        **_PICTURES, "tokens": "int32", "ranks": "list<int32>", "pictures": "list<binary>", "psnrs": "list<double>",
        "changed": "list<int32>", "other_id": "string", "mixed": "binary", "mixed_changed": "int32",
    },
    stage="evaluate",
    about="images decoded after their tokens were exchanged: each for its n-th nearest other code (by rank n: the "
    "picture, its PSNR against the original, tokens that changed), and those of the middle for another image's (mixed; "
    "null where only one image was drawn); PNG; there only where evaluate.examples.replaced asks for it",
)  # fmt: skip

TABLES = {
    "per_image": PER_IMAGE, "examples": EXAMPLES, "usage": USAGE, "words": WORDS, "usage_curve": USAGE_CURVE,
    "similarity": SIMILARITY, "decoded": DECODED,
}  # fmt: skip
"""The tables of every evaluation by the stem of their file."""

EVALUATION = FolderSpec(
    "evaluation", 2, stage="evaluate", required=tuple(f"{name}.parquet" for name in TABLES),
    about="facts: split, num_images, resolution, grid, num_codes, perceptual, map (per group, why t-SNE is absent, "
    "or null); with replaced.parquet, ranks_left_out (those that the smallest codebook does not have)",
)  # fmt: skip
