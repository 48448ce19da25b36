"""Quantizers with a nearest-code search in small, and latents as rows, for the tests of each method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, build
from vqpipe.quantizers.nearest import NearestCodeQuantizer


def fresh(params: dict[str, Any], **changes: Any) -> NearestCodeQuantizer:
    torch.manual_seed(0)
    quantizer = build(validate({**params, **changes}, "quantizer", AnyQuantizer), None)  # type: ignore[arg-type]
    assert isinstance(quantizer, NearestCodeQuantizer)
    return quantizer.train()


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def as_latent(points: Tensor) -> Tensor:
    """(n, d) rows as one image of n positions."""
    return points.T[None, :, :, None]


def set_codes(quantizer: NearestCodeQuantizer, codes: Tensor) -> None:
    with torch.no_grad():
        for name, tensor in quantizer.state_dict().items():
            if name in ("codes", "sums"):
                tensor.copy_(codes)
