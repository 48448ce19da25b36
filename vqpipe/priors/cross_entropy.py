"""Cross-entropy over many codes in bounded memory: logits are made for a block of positions at a time.

Letters: m positions of all images, d width, k codes.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LOGITS = 1 << 26
"""Logits that are in memory at once: 256 MB of float32."""


def cross_entropy(
    features: Float[Tensor, "m d"], head: nn.Linear, codes: Int64[Tensor, " m"], label_smoothing: float = 0.0
) -> Float[Tensor, " m"]:
    """Cross-entropy in nats of each position's code, float32 or wider, with at most `LOGITS` logits at once.

    With a gradient, the logits of a block are computed again when it is asked for, and never kept.

    Args:
        features: what the head gets.
        head: from width to logits.
        codes: the targets.
        label_smoothing: part of the target that is spread evenly over all codes.
    """
    one = partial(_one_block, head=head, label_smoothing=label_smoothing)
    block = max(1, LOGITS // head.out_features)
    if len(features) <= block:
        return one(features, codes)
    again = partial(checkpoint, one, use_reentrant=False, preserve_rng_state=False)
    parts = zip(torch.split(features, block), torch.split(codes, block), strict=True)
    return torch.cat([again(*part) for part in parts])


def _one_block(
    features: Float[Tensor, "m d"], codes: Int64[Tensor, " m"], head: nn.Linear, label_smoothing: float
) -> Float[Tensor, " m"]:
    # Autocast keeps the half-precision copy of a parameter, but not of a view, for the next block; with a copy of its
    # own each block's gradient is float32 before they are added up.
    bias = None if head.bias is None else head.bias[:]
    scores = F.linear(features, head.weight[:], bias)
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return F.cross_entropy(wide, codes, reduction="none", label_smoothing=label_smoothing)
