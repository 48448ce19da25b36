"""Which tokenizer made something: a digest of what decides its indices and images."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from vqpipe.tokenizers.tokenizer import Tokenizer

SHOWN = 12
"""Hexadecimal digits that are shown in messages."""


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """SHA-256, in hexadecimal, over what decides which indices an image gets and which image indices give.

    That is the params of trunk and quantizer, and every weight and buffer by name, dtype, shape and bytes. How the
    tokenizer was trained, its card and its file's form do not count.
    """
    config = tokenizer.config
    shape = {
        "trunk": config.trunk.model_dump(mode="json"),
        "quantizer": config.quantizer.model_dump(mode="json"),
    }
    found = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        found.update(f"\0{name}\0{plain.dtype}\0{list(plain.shape)}\0".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def tokenizer_identity(tokenizer: Tokenizer) -> dict[str, Any]:
    """The facts by which an artifact names the tokenizer that made it."""
    return {"quantizer": tokenizer.config.quantizer.kind, "sha256": tokenizer_digest(tokenizer)}


def identity_text(identity: dict[str, Any]) -> str:
    """`tokenizer_identity` as text for a message."""
    return f"{identity['quantizer']}, sha256 {str(identity['sha256'])[:SHOWN]}…"
