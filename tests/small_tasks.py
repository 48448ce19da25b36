"""Eight captions and frozen codes for them, and what each task measures on them, for tests of tasks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.small_alignment import CAPTIONS, GLOBAL, MASKED, RELATIONSHIP, captions, make, params
from tests.tiny import TOKENIZER
from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text_sides import ClipTextParams
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.tasks import TASKS, masked_words
from vqpipe.tasks.caption_tasks import TestCaptions, TrainCaptions
from vqpipe.tasks.inputs import Codes, FrozenInputs
from vqpipe.tasks.task import HeadResult, Task, TaskParams, task_entry
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams

NO_CLIP = cast(Any, SimpleNamespace(id="none", context_length=12))
"""Names the text side of heads that are given token ids."""
EIGHT = [*CAPTIONS, *CAPTIONS[:2], [[320], [321]], [[322]], CAPTIONS[1][::-1]]
"""Eight captions: rows 3 and 4 repeat 0 and 1, and row 6 has one word."""
HEAD = {"width": 16, "num_layers": 1, "num_heads": 2, "max_tokens": 12}
JOINT = {"width": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "side": None}
CAPTION_KINDS = ("masked_words", "retrieval", "relations")
"""Tasks whose head is an aligner."""
COMMON: dict[str, Any] = {
    "tokenizer": "vq", "training": None, "seed": 3, "num_images": None, "batch_size": 3, "num_bootstrap": 100,
    "num_pictures": 2,
    "masked_words": {"head": HEAD, "masked": MASKED, "masked_counts": [1, 3], "num_predictions": 3},
    "retrieval": {"head": HEAD, "contrastive": GLOBAL, "num_candidates": 2},
    "grounding": {
        "head": {"width": 32, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "side": 4, "channels": 16},
        "max_words": 4, "l1_weight": 1.0, "giou_weight": 1.0, "inside_weight": 1.0,
    },
    "relations": {"head": HEAD, "masked": MASKED, "relationship": RELATIONSHIP},
    "classification": {"head": JOINT, "init": None, "label_smoothing": 0.0, "num_predictions": 2},
    "vqa": {
        "head": JOINT, "max_answers": 100, "max_words": 12, "label_smoothing": 0.0, "num_questions": None,
    },
    "captioning": {
        "head": {
            "side": None,
            "mapper": {
                "kind": "transformer", "prefix_length": 2, "num_layers": 1, "num_heads": 2, "num_vectors": None,
            },
            "language_model": {
                "kind": "words", "width": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "min_count": 1,
            },
        },
        "max_words": 8, "num_captions": 2, "beam": 2, "java": False,
    },
}  # fmt: skip


def config(kind: str, **changes: Any) -> TaskParams:
    found: TaskParams = validate(task_entry(COMMON, {"kind": kind, **changes}), "task", TASKS.params())
    return found


def frozen(collapsed: bool = False, texts: Any = EIGHT) -> FrozenInputs:
    torch.manual_seed(1)
    settings = validate(TOKENIZER, "tokenizer", TokenizerParams)
    tokenizer = Tokenizer(settings, build(settings.quantizer, None)).eval()
    vectors = tokenizer.get_parameter("quantizer.codes").data.normal_()
    indices = torch.randint(16, (len(texts), 1, 4, 4), dtype=torch.int32)
    return FrozenInputs(Codes(tokenizer, (vectors,)), torch.full_like(indices, 5) if collapsed else indices)


def head(*losses: str) -> Aligner:
    return make(params(*losses), dims=(4,), latent=4, positions=16).eval()


def task(kind: str, **changes: Any) -> Task:
    return TASKS[kind](config(kind, **changes), Path("dataset"), cast(Any, None), 16, None)


def measured(
    kind: str, collapsed: bool = False, model: Aligner | None = None, texts: Any = EIGHT, **changes: Any
) -> HeadResult:
    """A fresh head's result; the commonest training words are (300,) and (301, 302). Examples 0 and 6 are shown."""
    split = cast(Any, SimpleNamespace(ids=[str(at) for at in range(len(texts))]))
    text = captions(texts)
    test = TestCaptions(split, np.arange(len(texts)), captions=["" for _ in texts], clip=NO_CLIP)
    test._texts[ClipTextParams(), 12] = text
    train = TrainCaptions(
        split, np.arange(0), captions=cast(Any, SimpleNamespace(vocabulary=torch.arange(0)))
    )
    own = task(kind, **changes)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(own, "shown", lambda test: [0, 6])
        patch.setattr(masked_words, "_train_counts", lambda *_: Counter({(300,): 2, (301, 302): 1}))
        return own.measure(model or head(), frozen(collapsed, texts), test, train)
