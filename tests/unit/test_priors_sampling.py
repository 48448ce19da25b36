"""Top-k, top-p, temperature, guidance and draws on distributions that are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.small_priors import naive_draw, naive_probabilities
from vqpipe.priors.sampling import TokenSampling, _largest, draw, guide, probabilities

P = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]], dtype=torch.float64)


def config(temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> TokenSampling:
    return TokenSampling(temperature=temperature, top_k=top_k, top_p=top_p, guidance=1.0)


def kept(**changes: float) -> list[float]:
    return [round(p, 9) for p in probabilities(P.log(), config(**changes))[0].tolist()]  # type: ignore[arg-type]


def test_nothing_filtered_gives_the_softmax() -> None:
    torch.testing.assert_close(probabilities(P.log(), config()), P)


def test_temperature_is_a_power_of_the_probabilities() -> None:
    expected = P**2 / (P**2).sum()
    torch.testing.assert_close(probabilities(P.log(), config(temperature=0.5)), expected)


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [(1, [0, 1, 0, 0, 0]), (2, [0, 4 / 7, 0, 3 / 7, 0]), (5, P[0].tolist()), (99, P[0].tolist())],
)
def test_top_k_keeps_the_likeliest(top_k: int, expected: list[float]) -> None:
    assert kept(top_k=top_k) == pytest.approx(expected)


def test_top_k_keeps_exactly_k_among_equals() -> None:
    found = probabilities(torch.zeros(1, 6), config(top_k=2))
    assert found[0].tolist() == [0.5, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [0, 1, 0, 0, 0]),
        (0.39, [0, 1, 0, 0, 0]),
        (0.41, [0, 4 / 7, 0, 3 / 7, 0]),
        (0.84, [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),
        (0.96, P[0].tolist()),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, expected: list[float]) -> None:
    assert kept(top_p=top_p) == pytest.approx(expected)


def test_top_p_counts_within_what_top_k_left() -> None:
    # Of the two likeliest, the first alone has 4/7 = 0.571 of the mass.
    assert kept(top_k=2, top_p=0.57) == [0, 1, 0, 0, 0]
    assert kept(top_k=2, top_p=0.58) == pytest.approx([0, 4 / 7, 0, 3 / 7, 0])


def test_guidance_of_one_is_exact_and_larger_ones_extrapolate() -> None:
    conditional, null = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]])
    assert guide(conditional, null, 1.0).tolist() == [[1.0, 2.0]]
    assert guide(conditional, null, 0.0).tolist() == [[0.0, 3.0]]
    assert guide(conditional, null, 3.0).tolist() == [[3.0, 0.0]]


def test_draw_is_the_inverse_of_the_cumulative_distribution() -> None:
    uniform = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.5499, 0.5501, 0.8501, 0.9999])
    assert draw(P.expand(9, 5), uniform).tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4]


def test_codes_without_probability_are_never_drawn() -> None:
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    edges = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert draw(probs.expand(3, 5), edges).tolist() == [1, 3, 3]


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draw(P.expand(n, 5), uniform), minlength=5).double()
    assert float(((counts - n * P[0]) ** 2 / (n * P[0])).sum()) < 18.5  # chi-squared, 4 degrees: p = 0.001


SETTINGS = [
    {"top_k": 1}, {"top_k": 7}, {"top_k": 250, "top_p": 0.9}, {"top_k": 999}, {"top_p": 0.95}, {"top_p": 0.01},
    {"top_p": 0.999999, "temperature": 0.3}, {"temperature": 2.0}, {"top_k": 40, "temperature": 0.7},
]  # fmt: skip


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
@pytest.mark.parametrize("logits", ["normal", "few values", "peaked", "one value", "bf16"])
def test_the_same_numbers_give_the_codes_of_the_form_that_sorts_all(
    logits: str, changes: dict[str, float]
) -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(64, 397, generator=rng)  # 0.95 and 0.9 of it are no whole numbers
    scores = {
        "normal": scores,
        "few values": (scores * 2).round(),
        "peaked": scores * 12,
        "one value": torch.zeros_like(scores),
        "bf16": scores.bfloat16(),
    }[logits]
    uniform = torch.rand(64, generator=rng)
    settings = config(**changes)  # type: ignore[arg-type]
    found, naive = probabilities(scores, settings), naive_probabilities(scores, settings)
    assert found.dtype == torch.float64
    assert torch.equal(found > 0, naive > 0)
    torch.testing.assert_close(found, naive, rtol=1e-12, atol=0)
    assert torch.equal(draw(found, uniform), naive_draw(naive, uniform))


class Calls(TorchDispatchMode):
    """Names of the operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def test_nothing_is_sorted_where_nothing_is_filtered() -> None:
    with Calls() as calls:
        draw(probabilities(torch.randn(3, 9), config()), torch.rand(3))
    assert not [
        name for name in calls.names if ("sort" in name and "searchsorted" not in name) or "topk" in name
    ]


@pytest.mark.parametrize("count", [1, 5, 11])
def test_devices_without_numpy_find_the_same_largest(count: int) -> None:
    class Elsewhere:
        """A tensor that does not say that it is on a CPU."""

        def __init__(self, tensor: Tensor) -> None:
            self.topk, self.sort, self.shape = tensor.topk, tensor.sort, tensor.shape
            self.device = torch.device("cuda")

    scores = torch.randn(4, 11, generator=torch.Generator().manual_seed(0)).mul(3).round()
    there: Any = Elsewhere(scores)
    assert torch.equal(_largest(scores, count), _largest(there, count))
