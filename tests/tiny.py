"""A small labelled dataset, a tokenizer and a CLIP with fresh weights, for tests of stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vqpipe.data.build import DatasetParams, build_dataset
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.runtime.seeds import numpy_rng, seed_everything
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.vision import towers
from vqpipe.vision.clip import write_clip

CLASSES = ("dark", "light")
TOKENIZER: dict[str, Any] = {
    "codebook": "none", "resolution": 16, "seed": 0, "augment": {"crop": "centre", "flip": False},
    "latent_init": "standard",
    "trunk": {
        "patch": 4, "channels": 8, "channel_multipliers": [1], "num_blocks": 1, "attention_levels": [],
        "middle": False, "middle_attention": False, "shortcut": False, "latent_channels": 4, "dropout": 0.0,
    },
    "quantizer": {
        "kind": "vq", "num_codes": 16, "dim": 4, "beta": 0.25, "beta_on": "commitment", "init": "uniform",
    },
    "losses": {
        "reconstruction": {"l1": 1.0, "l2": 0.0}, "perceptual": {"kind": "none"}, "perceptual_weight": 0.0,
        "quantizer_weight": 1.0,
        "adversarial": {
            "weight": 0.0, "start": 1.0, "warmup": 0.0, "max_adaptive_weight": 1.0,
            "discriminator": {"channels": 8, "num_layers": 1, "lr_scale": 1.0, "norm": "group"},
        },
    },
    "training": {
        "num_steps": 1, "batch_size": 1, "learning_rate": 1e-3, "betas": [0.5, 0.9], "weight_decay": 0.0,
        "warmup_fraction": 0.0, "final_lr_fraction": 0.0, "clip_grad_norm": 1.0, "ema_decay": 0.0,
        "precision": "fp32", "log_every": 1, "checkpoint_every": 1,
    },
}  # fmt: skip
CLIP = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest",
    },
}  # fmt: skip


def picture(index: int, light: bool) -> Image.Image:
    """A 16 x 16 picture of three by three blurred patches, dark or light."""
    low = 128 if light else 0
    coarse = numpy_rng(index, "picture").integers(low, low + 128, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((16, 16), Image.Resampling.BILINEAR)


def write_dataset(
    root: Path, num_images: dict[str, int], classes: str = "folders", templates: list[str] | None = None
) -> Path:
    """Publish `root/dataset`: the classes alternate within each split; `templates` are the captions, by default one."""
    index = 0
    for split, count in num_images.items():
        for _ in range(count):
            folder = root / "raw" / split / CLASSES[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture(index, bool(index % 2)).save(folder / f"{index:03d}.png")
            index += 1
    source = {
        "kind": "image_folder", "path": str(root / "raw"), "splits": {name: name for name in num_images},
        "holdout": {"validation": 0.0, "test": 0.0, "seed": 0}, "classes": classes,
        "templates": ["a {} picture" if classes == "folders" else "a picture"] if templates is None else templates,
    }  # fmt: skip
    section = {
        "source": source, "resize": {"short_side": 16, "filter": "box", "too_small": "upscale"},
        "max_bad_fraction": 0.0, "max_pixels": 4096, "shard_bytes": 1 << 20,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_WORKERS", "1")
        build_dataset(validate(section, "dataset", DatasetParams), root / "dataset")
    return root / "dataset"


def write_tokenizer(folder: Path, seed: int = 0, **quantizer: Any) -> Path:
    """Publish a tokenizer with fresh weights: 16 codes on a 4 x 4 grid unless `quantizer` says otherwise."""
    section = {**TOKENIZER, "quantizer": {**TOKENIZER["quantizer"], **quantizer}}
    config = validate(section, "tokenizer", TokenizerParams)
    seed_everything(seed, "tiny")
    tokenizer = Tokenizer(config, build(config.quantizer, None))
    with torch.no_grad():  # spread codes: different images get different ones
        tokenizer.get_parameter("quantizer.codes").normal_()
    tokenizer.save(folder, {})
    return folder


def write_tiny_clip(folder: Path) -> Path:
    """Publish a CLIP of a few thousand weights (and its 49,408 token embeddings of width 8)."""
    seed_everything(0, "tiny clip")
    model = towers.build_model(CLIP["model_cfg"], "tiny")
    write_clip(folder, model, CLIP, name="tiny", tag="fresh", fitted_on=None)
    return folder
