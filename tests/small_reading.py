"""Eight captions and frozen codes for them, and what is read of them, for tests of reading."""

from __future__ import annotations

from typing import Any

import torch

from tests.small_alignment import CAPTIONS, captions, make, params
from tests.tiny import TOKENIZER
from vqpipe.alignment.aligner import Aligner
from vqpipe.params.base import validate
from vqpipe.params.reading import ReadingParams
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers import build
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.reading.measure import measure_reading
from vqpipe.reading.summary import Measured
from vqpipe.tokenizers.tokenizer import Tokenizer

EIGHT = [*CAPTIONS, *CAPTIONS[:2], [[320], [321]], [[322]], CAPTIONS[1][::-1]]
"""Eight captions: rows 3 and 4 say what 0 and 1 say, and row 6 has one word."""


def config(**changes: Any) -> ReadingParams:
    section = {
        "tokenizer": "vq", "align": params().model_dump(mode="json"), "training": None, "seed": 3, "num_images": None,
        "masked_counts": [1, 3], "batch_size": 3, "num_bootstrap": 100,
        "examples": {"num_images": 2, "num_candidates": 2, "num_predictions": 3}, **changes,
    }  # fmt: skip
    return validate(section, "read", ReadingParams)


def frozen(collapsed: bool = False) -> FrozenCodes:
    torch.manual_seed(1)
    settings = validate(TOKENIZER, "tokenizer", TokenizerParams)
    tokenizer = Tokenizer(settings, build(settings.quantizer, None)).eval()
    vectors = tokenizer.get_parameter("quantizer.codes").data.normal_()
    indices = torch.randint(16, (len(EIGHT), 1, 4, 4), dtype=torch.int32)
    return FrozenCodes(tokenizer, torch.full_like(indices, 5) if collapsed else indices, (vectors,))


def aligner(*losses: str) -> Aligner:
    return make(params(*losses), dims=(4,), latent=4, positions=16).eval()


def measured(collapsed: bool = False, **changes: Any) -> Measured:
    commonest = {1: (300,), 2: (301, 302)}
    return measure_reading(
        aligner(), frozen(collapsed), captions(EIGHT), config(**changes), commonest, examples=[0, 6]
    )
