"""Small params of judges, and a small dataset of scenes, for the tests of the judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vqpipe.data.build import DatasetParams, build_dataset
from vqpipe.params.base import validate

PARAMS: dict[str, Any] = {
    "seed": 0, "crop": 32, "resolution": 32, "channels": 8, "num_blocks": 1, "flip": True, "min_visible": 0.25,
    "threshold": 0.3, "adjective_threshold": 0.5, "max_found": 8, "num_images": None, "batch_size": 3,
    "training": {
        "num_steps": 4, "batch_size": 4, "learning_rate": 0.01, "betas": [0.9, 0.95], "weight_decay": 0.01,
        "warmup_fraction": 0.0, "final_lr_fraction": 1.0, "clip_grad_norm": 1.0, "ema_decay": 0.0,
        "precision": "fp32", "log_every": 2, "checkpoint_every": 2,
    },
}  # fmt: skip
SCENES: dict[str, Any] = {
    "kind": "scenes", "path": "artifacts/code/dataset.txt", "resolution": 32, "supersample": 1, "num_train": 24,
    "num_validation": 2, "num_test": 8, "seed": 0, "max_objects": 4, "max_captions": 5,
}  # fmt: skip


def write_scenes(folder: Path) -> Path:
    """Publish the dataset of `SCENES`."""
    section = {
        "source": SCENES, "resize": {"short_side": None, "filter": "lanczos", "too_small": "quarantine"},
        "max_bad_fraction": 0.0, "max_pixels": 4096, "shard_bytes": 1 << 20,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_WORKERS", "1")
        build_dataset(validate(section, "dataset", DatasetParams), folder)
    return folder
