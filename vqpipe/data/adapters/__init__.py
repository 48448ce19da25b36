"""Data sources by kind. A new one: a file with plan, load and layout, and a line in `ADAPTERS`."""

from __future__ import annotations

from vqpipe.data.adapters.base import Adapter
from vqpipe.data.adapters.coco import COCO
from vqpipe.data.adapters.image_folder import IMAGE_FOLDER
from vqpipe.data.adapters.pairs import PAIRS
from vqpipe.data.adapters.scenes import SCENES

ADAPTERS: dict[str, Adapter] = {
    "scenes": SCENES, "coco": COCO, "image_folder": IMAGE_FOLDER, "pairs": PAIRS,
}  # fmt: skip
"""One entry per `kind` of `dataset.source`."""
