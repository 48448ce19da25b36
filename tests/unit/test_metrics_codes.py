"""Code usage counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vqpipe.errors import MismatchError
from vqpipe.metrics.codes import CodeUsage, bits_per_image, entropy_bits, usage_metrics


def test_usage_is_counted_per_group_over_batches() -> None:
    usage = CodeUsage((4, 3))
    usage.add(torch.tensor([[[[0, 0], [1, 1]], [[2, 2], [2, 2]]]]))
    usage.add(torch.tensor([[[[0, 3], [1, 1]], [[2, 0], [2, 2]]]]))
    assert [counts.tolist() for counts in usage.counts] == [[3, 4, 0, 1], [1, 0, 7]]
    first, second = map(usage_metrics, usage.counts)
    assert first.utilisation == 3 / 4
    assert second.utilisation == 2 / 3
    assert first.num_tokens == second.num_tokens == 8
    assert first.uniform_expectation == pytest.approx(1 - math.exp(-2))


def test_perplexity_counts_equally_used_codes() -> None:
    assert usage_metrics(np.array([5, 5, 5, 5, 0, 0])).perplexity == pytest.approx(4)
    assert usage_metrics(np.array([9, 0])).perplexity == 1
    assert entropy_bits(np.array([1, 1, 2])) == pytest.approx(1.5)
    assert usage_metrics(np.zeros(3, dtype=np.int64)).utilisation == 0


def test_uniform_draws_reach_the_uniform_expectation() -> None:
    usage = CodeUsage((1000,))
    generator = torch.Generator().manual_seed(0)
    usage.add(torch.randint(0, 1000, (10, 1, 10, 15), generator=generator))
    found = usage_metrics(usage.counts[0])
    assert found.utilisation == pytest.approx(found.uniform_expectation, abs=0.03)


@pytest.mark.parametrize(
    "bad", [torch.tensor([[[[4]]]]), torch.tensor([[[[-1]]]]), torch.zeros(1, 2, 1, 1, dtype=torch.long)]
)
def test_indices_that_do_not_fit_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(MismatchError):
        CodeUsage((4,)).add(bad)


def test_bits_per_image_sums_groups() -> None:
    assert bits_per_image((1024,), (8, 8)) == 640
    assert bits_per_image((32, 8), (4, 2)) == 8 * (5 + 3)
