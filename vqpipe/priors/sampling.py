"""From logits to drawn codes, for priors over tokens: guidance, temperature, top-k, top-p, and a draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.priors.contract import SamplingParams

COLDEST = 1e-6
"""The lowest temperature, in place of 0: the likeliest code is drawn, and logits that it divides are finite."""


class TokenSampling(SamplingParams):
    """How codes are drawn from the prediction, in this order: guidance, temperature, top-k, top-p."""

    temperature: Annotated[float, Field(ge=COLDEST)]
    """Divides the logits; 1 leaves them."""
    top_k: Annotated[int, Field(ge=1)] | None
    """Codes kept, the likeliest ones; null keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Smallest set of likeliest codes with at least this probability; 1 keeps all."""


def guide(
    conditional: Float[Tensor, "b k"], null: Float[Tensor, "b k"], scale: float | Float[Tensor, "b 1"]
) -> Float[Tensor, "b k"]:
    """Classifier-free guidance on logits, u + scale (c - u) (Ho & Salimans, 2022); scale 1 is none."""
    return null + scale * (conditional - null)


def probabilities(logits: Float[Tensor, "b k"], config: TokenSampling) -> Float[Tensor, "b k"]:
    """Distribution over codes after temperature, top-k and top-p (Holtzman et al., 2020), in order; float64.

    Exactly min(top_k, k) codes pass top-k, the lower index first among equals. Top-p keeps the smallest set
    of the likeliest codes whose probability, among those that passed top-k, is at least `top_p`: never less
    than one.
    """
    if logits.dtype == torch.bfloat16:  # which NumPy does not have
        logits = logits.float()
    whole = _softmax(logits, config.temperature)
    if config.top_k is None and config.top_p == 1:
        return whole
    count = min(config.top_k or logits.shape[-1], logits.shape[-1])
    likeliest = _largest(logits, count)
    last = torch.full_like(likeliest[:, :1], count - 1, dtype=torch.int64)
    if config.top_p < 1:
        reached = _softmax(likeliest, config.temperature).cumsum(-1)
        last = torch.searchsorted(reached, torch.full_like(reached[:, :1], config.top_p)).minimum(last)
    kept = _kept(logits, likeliest.gather(-1, last), last + 1)
    probs = whole * kept.double()
    return probs / probs.sum(-1, keepdim=True)


def _softmax(logits: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, "b k"]:
    scaled = logits.double()
    return (scaled if temperature == 1 else scaled / temperature).softmax(-1)


def _kept(
    logits: Float[Tensor, "b k"], least: Float[Tensor, "b 1"], count: Int64[Tensor, "b 1"]
) -> Bool[Tensor, "b k"]:
    """The `count` codes of each row whose logits are `least` or more; of its equals the first ones."""
    kept = logits >= least
    over = kept.sum(-1, keepdim=True) - count
    # On a GPU it would take longer to ask whether there are too many than to leave them out.
    if logits.device.type != "cpu" or bool(over.any()):
        equal = logits == least
        kept &= ~(equal & (equal.cumsum(-1) > equal.sum(-1, keepdim=True) - over))
    return kept


def _largest(logits: Float[Tensor, "b k"], count: int) -> Float[Tensor, "b count"]:
    """The `count` largest logits of each row, from the largest on."""
    if logits.device.type != "cpu":
        return logits.topk(count).values if count < logits.shape[-1] else logits.sort(descending=True).values
    # NumPy's are vectorised: of 1,024 logits they take a third to an eighth of the time of torch's.
    values = logits.detach().numpy()
    if count < logits.shape[-1]:
        values = np.partition(values, -count, axis=-1)[:, -count:]
    return torch.from_numpy(np.sort(values, axis=-1)).flip(-1)


def draw(probs: Float[Tensor, "b k"], uniform: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """The code at which the cumulative probability passes `uniform`, in [0, 1).

    A code of probability 0 is never drawn. The numbers are given and not drawn here, so that an image's draw
    depends neither on the batch it is drawn in nor on the device.
    """
    cumulative = probs.double().cumsum(-1)
    target = uniform.to(probs.device, torch.float64)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def image_generators(n: int, generator: torch.Generator) -> list[torch.Generator]:
    """A CPU generator for each of `n` images, seeded by `generator` alone.

    With them the random numbers of an image depend neither on how many others are drawn after it nor on how many are
    drawn at once, however many numbers a sampler needs for each.
    """
    seeds = torch.randint(2**63 - 1, (n,), generator=generator)
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def normal(generators: Sequence[torch.Generator], *shape: int) -> Float[Tensor, "n ..."]:
    """Standard normal numbers of this shape for each image, each from its own generator; on the CPU."""
    return torch.stack([torch.randn(shape, generator=own) for own in generators])


def uniform(generators: Sequence[torch.Generator], *shape: int) -> Float[Tensor, "n ..."]:
    """Numbers in [0, 1) of this shape for each image, each from its own generator; on the CPU."""
    return torch.stack([torch.rand(shape, generator=own) for own in generators])
