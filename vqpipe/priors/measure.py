"""How well a prior models tokens: bits beside the unigram floor, samples beside training images.

Letters: n m images, g groups, h w the token grid, k codes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from vqpipe.priors.gpt import GPT
from vqpipe.priors.train import condition_of
from vqpipe.tokenizers.tokens import TokenSplit

POOLED_SIDE = 32
"""Nearest images are looked for after block means down to at most this many pixels a side."""


@torch.no_grad()
def image_bits(prior: GPT, split: TokenSplit, batch_size: int) -> Float64[Tensor, " n"]:
    """-log2 p(codes | label) of each image of a split under the prior, in bits; exact, in eval mode."""
    device = prior.positions.device
    parts = []
    for start in range(0, len(split), batch_size):
        indices, labels = (part.to(device) for part in split.batch(slice(start, start + batch_size)))
        likelihood = prior.log_likelihood(indices, condition_of(prior, labels))
        parts.append(-likelihood.double().sum(dim=(1, 2, 3)).cpu() / math.log(2))
    return torch.cat(parts)


def unigram(train: TokenSplit, num_codes: tuple[int, ...]) -> list[Float64[Tensor, " k"]]:
    """Per group, each code's training frequency with one added to every count: (c + 1) / (n + k)."""
    counts = [
        torch.bincount(train.indices[:, group].flatten().long(), minlength=codes).double() + 1
        for group, codes in enumerate(num_codes)
    ]
    return [count / count.sum() for count in counts]


def unigram_bits(floor: list[Float64[Tensor, " k"]], split: TokenSplit) -> float:
    """Mean bits per token of a split under training frequencies: the price of ignoring all context."""
    bits = [-probs[split.indices[:, group].long()].log2().mean() for group, probs in enumerate(floor)]
    return float(torch.stack(bits).mean())


def unigram_samples(
    floor: list[Float64[Tensor, " k"]], n: int, grid: tuple[int, int], generator: torch.Generator
) -> Int64[Tensor, "n g h w"]:
    """Codes drawn at each position from the training frequencies alone."""
    positions = n * grid[0] * grid[1]
    drawn = [torch.multinomial(probs, positions, replacement=True, generator=generator) for probs in floor]
    return torch.stack([codes.view(n, *grid) for codes in drawn], dim=1)


def pooled(images: UInt8[Tensor, "n 3 H W"]) -> Float64[Tensor, "n d"]:
    """Block means at `POOLED_SIDE` or below, flattened: float64 of shape (n, d), in [0, 255]."""
    side = min(POOLED_SIDE, images.shape[-1])
    return F.adaptive_avg_pool2d(images.float(), side).flatten(1).double()


class NearestImages:
    """The training image nearest to each query, by root mean squared error of block means; fed in chunks."""

    def __init__(self, queries: UInt8[Tensor, "n 3 H W"]) -> None:
        self._queries = pooled(queries)
        self._squared = torch.full((len(queries),), math.inf, dtype=torch.float64)
        self.rows = torch.zeros(len(queries), dtype=torch.int64)
        """Row of the nearest image among all that were fed."""
        self._seen = 0

    def feed(self, images: UInt8[Tensor, "m 3 H W"]) -> None:
        """Compare with further images."""
        other = pooled(images)
        norms = self._queries.square().sum(1)[:, None] + other.square().sum(1)
        best, rows = (norms - 2 * self._queries @ other.T).clamp_min(0).min(dim=1)
        closer = best < self._squared
        self._squared = torch.where(closer, best, self._squared)
        self.rows = torch.where(closer, rows + self._seen, self.rows)
        self._seen += len(images)

    @property
    def rmse(self) -> Float64[Tensor, " n"]:
        """Distance to the nearest image in [0, 255]."""
        return (self._squared / self._queries.shape[1]).sqrt()


def same_codes(
    queries: Int64[Tensor, "n g h w"], train: TokenSplit, chunk: int = 1024
) -> Float64[Tensor, " n"]:
    """For each query the largest part of its codes that one training image has in the same places."""
    best = torch.zeros(len(queries), dtype=torch.float64)
    flat = queries.flatten(1).to(torch.int32)
    for reference in _chunks(train.indices.flatten(1), chunk):
        for row, query in enumerate(flat):
            most = int((reference == query).sum(dim=1).max())
            best[row] = max(float(best[row]), most / flat.shape[1])
    return best


def _chunks(rows: Tensor, chunk: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), chunk):
        yield rows[start : start + chunk]
