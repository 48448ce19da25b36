"""The dataset artifact: a folder of Parquet shards per split, a quarantine table, and class names in the facts."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec

IMAGES = TableSpec(
    "images", 1,
    {
        "image_id": "string", "image": "binary", "height": "int32", "width": "int32",
        "label": "int32", "label_name": "string", "captions": "list<string>",
        "things": "list<struct<name: string, box: list<float>, adjectives: list<string>, visible: float>>",
        "referring": "list<struct<thing: int32, text: string>>",
        "questions": "list<struct<question: string, answer: string, kind: string>>",
        "segmentation": "binary",
    },
    stage="dataset", about="one row per image; `image` and `segmentation` are PNG",
)  # fmt: skip

QUARANTINE = TableSpec(
    "quarantine", 1, {"split": "string", "item": "string", "reason": "string", "detail": "string"},
    stage="dataset", about="items of the source that were left out, and why",
)  # fmt: skip

TRUTH = TableSpec(
    "truth", 1,
    {
        "adjective": "string", "noun": "string", "probability": "double",
        "said_train": "int64", "said_validation": "int64", "said_test": "int64",
    },
    stage="dataset", about="scenes only: how likely a noun has an adjective, and how often the captions state the pair",
)  # fmt: skip

DATASET = FolderSpec(
    "dataset", 1, stage="dataset", required=("quarantine.parquet",),
    about="SPLIT-00000.parquet, … for train, validation and test; facts: kind, splits, classes",
)  # fmt: skip
