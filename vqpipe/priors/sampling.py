"""From logits to drawn codes, for priors over tokens: guidance, temperature, top-k, top-p, and a draw."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.priors.contract import SamplingParams


class TokenSampling(SamplingParams):
    """How codes are drawn from the prediction, in this order: guidance, temperature, top-k, top-p."""

    temperature: Annotated[float, Field(gt=0)]
    """Divides the logits; 1 leaves them."""
    top_k: Annotated[int, Field(ge=1)] | None
    """Codes kept, the likeliest ones; null keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Smallest set of likeliest codes with at least this probability; 1 keeps all."""


def guide(
    conditional: Float[Tensor, "b k"], null: Float[Tensor, "b k"], scale: float
) -> Float[Tensor, "b k"]:
    """Classifier-free guidance on logits, u + scale (c - u) (Ho & Salimans, 2022); scale 1 is none."""
    return null + scale * (conditional - null)


def probabilities(logits: Float[Tensor, "b k"], config: TokenSampling) -> Float[Tensor, "b k"]:
    """Distribution over codes after temperature, top-k and top-p (Holtzman et al., 2020), in order; float64.

    Exactly min(top_k, k) codes pass top-k, the lower index first among equals. Top-p keeps the smallest set
    of the likeliest codes whose probability, among those that passed top-k, is at least `top_p`: never less
    than one.
    """
    scaled = logits.double() / config.temperature
    if config.top_k is None and config.top_p == 1:
        return scaled.softmax(-1)
    codes = logits.argsort(dim=-1, descending=True, stable=True)[:, : config.top_k]
    kept = scaled.gather(-1, codes).softmax(-1)
    if config.top_p < 1:
        before = kept.cumsum(-1) - kept
        kept = kept.masked_fill(before >= config.top_p, 0.0)
        kept = kept / kept.sum(-1, keepdim=True)
    return torch.zeros_like(scaled).scatter(-1, codes, kept)


def draw(probs: Float[Tensor, "b k"], uniform: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """The code at which the cumulative probability passes `uniform`, in [0, 1).

    A code of probability 0 is never drawn. The numbers are given and not drawn here, so that an image's draw
    depends neither on the batch it is drawn in nor on the device.
    """
    cumulative = probs.double().cumsum(-1)
    target = uniform.to(probs.device, torch.float64)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]
