"""The reading artifact: what the heads over a tokenizer's codes say of test images, image by image and as examples.

`reader` says whose heads: `fresh` (trained on the frozen codes) or `own` (trained with the tokenizer).
"""

from vqpipe.artifacts.spec import FolderSpec, TableSpec

READING_PER_IMAGE = TableSpec(
    "reading-per-image", 1,
    {"reader": "string", "measure": "string", "image_id": "string", "value": "double"},
    stage="read", about="each measure's value of each test image that has one; measures are named as in the metrics",
)  # fmt: skip

READING_MASKED = TableSpec(
    "reading-masked", 1,
    {
        "reader": "string", "count": "int32", "image_id": "string", "picture": "binary", "caption": "string",
        "masked": "string", "words": "list<string>", "predictions": "list<list<string>>",
        "chances": "list<list<double>>", "right": "list<bool>",
    },
    stage="read",
    about="masked words of test captions: `masked`, the caption with them left out; each word, its best predictions "
    "with their probabilities, and whether the first is right; PNG",
)  # fmt: skip

READING_RETRIEVAL = TableSpec(
    "reading-retrieval", 1,
    {
        "reader": "string", "direction": "string", "image_id": "string", "picture": "binary", "caption": "string",
        "captions": "list<string>", "image_ids": "list<string>", "pictures": "list<binary>", "scores": "list<double>",
        "right": "list<bool>",
    },
    stage="read",
    about="direction image_to_text: an image and its best captions; text_to_image: a caption and its best images; "
    "with cosines; PNG",
)  # fmt: skip

READING_SIMILARITY = TableSpec(
    "reading-similarity", 1,
    {
        "reader": "string", "image_id": "string", "picture": "binary", "caption": "string", "words": "list<string>",
        "positions": "list<int32>", "codes": "list<list<int32>>", "word_cosines": "list<list<double>>",
        "code_cosines": "list<list<double>>", "projected_cosines": "list<list<double>>",
    },
    stage="read",
    about="a caption's words, the position and the codes (one per group) that stand for each, and the cosines of "
    "words, of code vectors and of projected ones (null without a projection); PNG",
)  # fmt: skip

READING = FolderSpec(
    "reading", 1, stage="read",
    required=("per_image.parquet", "masked.parquet", "retrieval.parquet", "similarity.parquet"),
    about="facts: split, num_images, grid, readers (which heads were read: fresh, own)",
)  # fmt: skip
