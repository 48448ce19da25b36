"""Top-k, top-p, temperature, guidance and draws on distributions that are known."""

from __future__ import annotations

import pytest
import torch

from vqpipe.priors.sampling import TokenSampling, draw, guide, probabilities

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
