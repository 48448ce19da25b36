"""The tokens artifact: every image of every split as indices."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec

CODES = TableSpec(
    "codes", 1, {"image_id": "string", "split": "string", "label": "int32", "indices": "list<int32>"},
    stage="tokens", about="one row per image; indices flattened from (groups, h, w); label -1 is none",
)  # fmt: skip

TOKENS = FolderSpec(
    "tokens", 1, stage="tokens",
    about="SPLIT-00000.parquet, …; facts: groups, grid, num_codes, splits (rows of each), classes, tokenizer",
)  # fmt: skip
