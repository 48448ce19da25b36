"""A small corpus, captions of it and an aligner, for tests of the alignment losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqpipe.alignment.aligner import Aligner, AlignParams, TextBatch
from vqpipe.params.base import validate
from vqpipe.quantizers import Quantized

START, END, PAD = 49406, 49407, 0
WORD_DIM, TEXT_DIM, MAX_TOKENS = 12, 10, 12
IDS = torch.tensor([*range(300, 340), START, END])
"""The corpus's tokens; 0, which pads, is not one."""
GLOBAL: dict[str, Any] = {
    "weight": 0.5, "directions": "image_to_text", "temperature": {"kind": "fixed", "value": 1.0}, "gather": False,
}  # fmt: skip
LEARNED = {"kind": "learned", "initial": 0.2, "lowest": 0.01}
MASKED: dict[str, Any] = {
    "weight": 2.0, "mean": 0.5, "std": 0.1, "low": 0.1, "high": 0.3, "num_layers": 2, "width": 16, "dropout": 0.0,
    "label_smoothing": 0.1,
}  # fmt: skip
RELATIONSHIP: dict[str, Any] = {"weight": 3.0, "projection": "mlp"}
PARTS = {"global": GLOBAL, "masked": MASKED, "relationship": RELATIONSHIP}
CAPTIONS: list[list[list[int]]] = [
    [[300], [301, 302], [303], [304]],
    [[305], [306, 307, 308], [300], [309], [310, 311], [312]],
    [[313], [314]],
]
"""Captions as lists of words, each a list of tokens."""


def params(*losses: str, **changes: Any) -> AlignParams:
    """The small aligner's params with the named losses, or with all."""
    chosen = {name: part if name in (losses or PARTS) else None for name, part in PARTS.items()}
    section = {"width": 16, "num_layers": 1, "num_heads": 2, "max_tokens": MAX_TOKENS, **chosen, **changes}
    return validate(section, "align", AlignParams)


def embeddings() -> Tensor:
    return torch.randn(len(IDS), WORD_DIM, generator=torch.Generator().manual_seed(9))


def captions(texts: Sequence[Sequence[Sequence[int]]], width: int = MAX_TOKENS, seed: int = 5) -> TextBatch:
    """Captions of lists of words; one of None has no token at all."""
    tokens = torch.full((len(texts), width), PAD)
    words, lengths = torch.full((len(texts), width), -1), []
    for row, text in enumerate(texts):
        flat = [START, *(token for word in text for token in word), END]
        tokens[row, : len(flat)] = torch.tensor(flat)
        numbers = [number for number, word in enumerate(text) for _ in word]
        words[row, 1 : len(flat) - 1] = torch.tensor(numbers, dtype=torch.int64)
        lengths.append(len(flat))
    draw = torch.Generator().manual_seed(seed)
    return TextBatch(tokens, torch.tensor(lengths), words, torch.randn(len(texts), TEXT_DIM, generator=draw))


def make(config: AlignParams, dims: Sequence[int] = (8,), latent: int = 8, positions: int = 12) -> Aligner:
    """Fresh weights, the same for the same params."""
    torch.manual_seed(0)
    return Aligner(
        config, num_positions=positions, latent_dim=latent, code_dims=dims, vocabulary=IDS,
        embeddings=embeddings(), text_dim=TEXT_DIM,
    )  # fmt: skip


def codes(batch: int = 3, dims: Sequence[int] = (8,), num_codes: int = 16, seed: int = 2) -> Quantized:
    """A made pass of a quantizer over a 3 x 4 grid: live vectors, and a latent that leads back to them."""
    draw = torch.Generator().manual_seed(seed)
    vectors = tuple(torch.randn(num_codes, dim, generator=draw).requires_grad_() for dim in dims)
    indices = torch.randint(num_codes, (batch, len(dims), 3, 4), generator=draw)
    z_q = torch.cat([v.detach()[indices[:, g]].movedim(-1, 1) for g, v in enumerate(vectors)], dim=1)
    return Quantized(z_q.requires_grad_(), indices, torch.zeros(()), {}, vectors)
