"""How a tokenizer uses its codes over a whole split: utilisation, perplexity, entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from vqpipe.errors import MismatchError


class CodeUsage:
    """Counts, per group, how often each code is used. Memory is one integer per code.

    Args:
        num_codes: K of each group.
    """

    def __init__(self, num_codes: Sequence[int]) -> None:
        self.counts: list[Int64[np.ndarray, " k"]] = [np.zeros(k, dtype=np.int64) for k in num_codes]

    def add(self, indices: Int[Tensor, "b g h w"]) -> None:
        """Count a batch of code indices.

        Raises:
            MismatchError: another number of groups, or an index outside [0, K).
        """
        if indices.ndim != 4 or indices.shape[1] != len(self.counts):
            raise MismatchError(
                "code indices of the wrong shape",
                found=tuple(indices.shape),
                expected=f"(batch, {len(self.counts)}, height, width)",
            )
        for group, counts in enumerate(self.counts):
            flat = indices[:, group].reshape(-1)
            if flat.numel() == 0:
                continue
            if int(flat.min()) < 0 or int(flat.max()) >= len(counts):
                raise MismatchError(
                    f"code indices of group {group} are out of range",
                    found=f"{int(flat.min())} to {int(flat.max())}",
                    expected=f"0 to {len(counts) - 1}",
                )
            counts += torch.bincount(flat.long(), minlength=len(counts)).cpu().numpy()

    def summary(self) -> list[dict[str, float | int]]:
        """`usage_summary` of each group."""
        return [usage_summary(counts) for counts in self.counts]


def entropy_bits(counts: Int64[np.ndarray, " k"]) -> float:
    """Entropy of the empirical distribution of codes, in bits: what one token costs under a unigram model."""
    total = counts.sum()
    if total == 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(-(p * np.log2(p)).sum()) + 0.0


def usage_summary(counts: Int64[np.ndarray, " k"]) -> dict[str, float | int]:
    """What the counts of one group over one split say.

    Returns:
        `num_codes` K; `num_tokens` N; `utilisation`: codes used at least once / K; `uniform_expectation`: 1
        - exp(-N/K), the utilisation that N uniform draws would reach; `entropy_bits` of a token and
        `perplexity` = 2^entropy, in [1, K]. Utilisation compares between variants only where N is at least
        4 K.
    """
    num_codes, num_tokens = len(counts), int(counts.sum())
    entropy = entropy_bits(counts)
    return {
        "num_codes": num_codes,
        "num_tokens": num_tokens,
        "utilisation": float((counts > 0).sum() / num_codes),
        "uniform_expectation": -math.expm1(-num_tokens / num_codes),
        "entropy_bits": entropy,
        "perplexity": 2.0**entropy,
    }


def bits_per_image(num_codes: Sequence[int], grid: tuple[int, int]) -> float:
    """Bits of one image's indices at a fixed-length code: sum over groups of h w log2(K)."""
    return grid[0] * grid[1] * sum(math.log2(k) for k in num_codes)
