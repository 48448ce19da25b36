"""What is read from a row's frozen codes, as flat numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vqpipe.alignment.aligner import Aligner
from vqpipe.params.reading import ReadingParams
from vqpipe.reading.read import read_heads
from vqpipe.tokenizers.caption_text import check_max_tokens
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip

INTERVAL = {"mean", "low", "high"}
PROTOCOL = ("num_images", "num_tokens", "num_positions")


def check_reading(config: ReadingParams | None, clip: Clip) -> None:
    """Refuse a reading that would fail when the row is already trained.

    Raises:
        MismatchError: captions longer than the CLIP takes.
    """
    if config is not None:
        check_max_tokens(config.align.max_tokens, clip)


def read_row(
    tokenizer: Tokenizer,
    own: Aligner | None,
    dataset: Path,
    clip: Clip,
    config: ReadingParams,
    *,
    scratch: Path,
    device: torch.device,
    title: str,
) -> dict[str, Any]:
    """Read a row's tokenizer as `read_heads`, and give its measures flat; errors as there.

    Returns:
        `read.fresh.NAME`, what fresh heads read that were trained on the frozen codes; `read.own.NAME`, what its own
        heads read, where the tokenizer was trained with any; `read.training.NAME`, how the fresh ones were trained;
        `read.num_images`, and the tokens of the vocabulary and positions of the grid. A mean is `NAME`, its 95 %
        bootstrap interval over images `NAME_low` and `NAME_high`.
    """
    folder = scratch / "reader"
    folder.mkdir(exist_ok=True)
    found = read_heads(
        tokenizer, own, dataset, clip, config, scratch=folder, curves=None, device=device, title=title
    ).metrics
    protocol = {f"read.{name}": found["protocol"][name] for name in PROTOCOL}
    return {**flat({name: part for name, part in found.items() if name != "protocol"}, "read"), **protocol}


def flat(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested metrics with dotted names; `{mean, low, high}` is one number with its interval beside it."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        full = f"{prefix}.{name}"
        if not isinstance(value, Mapping):
            out[full] = value
        elif set(value) == INTERVAL:
            out |= {full: value["mean"], f"{full}_low": value["low"], f"{full}_high": value["high"]}
        else:
            out |= flat(value, full)
    return out
