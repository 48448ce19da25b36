"""Priors with fresh weights as artifacts, with a tokenizer and a CLIP where the pipeline has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.small_priors import shared
from tests.tiny import write_tiny_clip, write_tokenizer
from vqpipe.params.base import validate
from vqpipe.priors import PRIORS
from vqpipe.priors.artifact import MadeWith, PriorPictures, save_prior
from vqpipe.priors.contract import ConditionKind, ImageSpace
from vqpipe.priors.text import ClipText
from vqpipe.runtime.seeds import seed_everything
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip

CLASSES, PIXEL_CLASSES = ("circle", "square", "star"), ("sky", "sea")
LENGTH = 6
"""Tokens of a text."""


def write_prior(
    root: Path,
    name: str,
    kind: str = "gpt",
    condition: ConditionKind = "class",
    drop: float = 0.1,
    **changes: Any,
) -> Path:
    """Publish `root/artifacts/prior/NAME` over the tokenizer `vq` (16 codes, 4 x 4 tokens of 16 x 16 pixels).

    Tokenizer and CLIP are published next to it where they are not there yet. Its predictions are far from uniform.
    """
    artifacts = root / "artifacts"
    if not (artifacts / "tokenizer/vq").exists():
        write_tokenizer(artifacts / "tokenizer/vq")
    tokenizer, text = Tokenizer.from_pretrained(artifacts / "tokenizer/vq"), None
    if condition == "text":
        if not (artifacts / "clip").exists():
            write_tiny_clip(artifacts / "clip")
        text = ClipText(Clip.load(artifacts / "clip"), LENGTH)
    dim = tokenizer.config.quantizer.dim
    space = ImageSpace(
        tokenizer.num_codes, tokenizer.grid, CLASSES, dim, (1.0,) * dim, tokenizer.resolution,
        PIXEL_CLASSES, text.length if text else 0, text.dim if text else 0,
    )  # fmt: skip
    content = {
        **shared(), **PRIORS[kind].example(), "kind": kind, "condition": condition,
        "condition_drop": 0.0 if condition == "none" else drop,
        "text": {"encoder": "clip", "max_tokens": LENGTH} if text else None, **changes,
    }  # fmt: skip
    seed_everything(0, "prior folder")
    prior = PRIORS[kind](validate(content, "prior", PRIORS[kind].Params), space)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    none, picture = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    pictures = PriorPictures(
        picture, torch.zeros(1, 1, 4, 4, dtype=torch.int64), torch.tensor([-1]), [""], None, picture, picture, ["a"],
        none, none,
    )  # fmt: skip
    save_prior(artifacts / "prior" / name, prior, True, pictures, MadeWith.of(tokenizer, text))
    return artifacts / "prior" / name
