"""fsq and lfq: their formulas in float64, their lattices, their bounds, and the entropies without n x K."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.recipes import BSQ, LFQ
from vqpipe.errors import ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build
from vqpipe.quantizers.lattice import LatticeQuantizer
from vqpipe.quantizers.lfq import bit_entropy, mean_distribution


def fresh(**params: Any) -> Quantizer:
    return build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]


def fsq(levels: list[int], margin: float = -1e-3, shift: str = "tan") -> Quantizer:
    return fresh(kind="fsq", dim=len(levels), levels=levels, margin=margin, shift=shift)


def lfq(dim: int, **changes: Any) -> Quantizer:
    return fresh(**{**LFQ, "dim": dim, **changes})


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_fsq(value: float, levels: int, margin: float, shift: str) -> tuple[int, float, float]:
    """The digit, the value and the slope of one dimension."""
    half, offset = (levels - 1) * (1 + margin) / 2, 0.0 if levels % 2 else 0.5
    moved = value + (math.tan(offset / half) if shift == "tan" else math.atanh(offset / half))
    rounded = round(half * math.tanh(moved) - offset)
    return rounded + levels // 2, rounded / (levels // 2), half * (1 - math.tanh(moved) ** 2) / (levels // 2)


@pytest.mark.parametrize(("margin", "shift"), [(-1e-3, "tan"), (1e-3, "atanh")])
def test_fsq_is_the_naive_form(margin: float, shift: str) -> None:
    levels = [8, 5, 3, 2, 4]
    z = (latent(2, 5, 6, 7) * 2).requires_grad_()
    out = fsq(levels, margin, shift)(z)
    out.z_q.sum().backward()
    assert z.grad is not None
    index = torch.zeros_like(out.indices[:, 0])
    for i, count in enumerate(levels):
        triples = [naive_fsq(float(v), count, margin, shift) for v in z.detach()[:, i].flatten().double()]
        digits, values, slopes = (torch.tensor(column).view(2, 6, 7) for column in zip(*triples, strict=True))
        index += digits * math.prod(levels[:i])
        torch.testing.assert_close(out.z_q[:, i].detach(), values, rtol=0, atol=1e-6)
        torch.testing.assert_close(z.grad[:, i], slopes, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.indices[:, 0], index)
    assert out.loss == 0
    assert not out.loss.requires_grad
    assert out.vectors == ()


def test_fsq_lattice() -> None:
    (book,) = fsq([3, 2, 4]).codebooks()
    expected = [[a, b, c] for c, b, a in itertools.product([-1, -0.5, 0, 0.5], [-1, 0], [-1, 0, 1])]
    assert book.vectors.tolist() == expected  # the first dimension is least significant


@pytest.mark.parametrize(("margin", "shift"), [(-1e-3, "tan"), (1e-3, "atanh"), (0.5, "atanh")])
@pytest.mark.parametrize("levels", [[2], [3], [4], [5], [8], [255], [999]])
def test_every_level_is_reached_and_none_beyond(levels: list[int], margin: float, shift: str) -> None:
    z = torch.linspace(-9, 9, 40_001).view(1, 1, 1, -1)
    indices = fsq(levels, margin, shift)(z).indices
    assert indices.unique().tolist() == list(range(levels[0]))
    assert (indices.flatten().diff() >= 0).all()
    extreme = torch.tensor([-torch.inf, torch.inf, torch.nan]).view(1, 1, 1, 3)
    assert fsq(levels, margin, shift)(extreme).indices.flatten().tolist() == [0, levels[0] - 1, 0]


def test_atanh_centres_zero_exactly_and_tan_nearly() -> None:
    for levels, off in ((4, 0.02), (8, 0.01)):
        z = torch.zeros(1, 1, 1, 1)
        exact, paper = fsq([levels], 1e-3, "atanh"), fsq([levels])
        assert float(exact.bound(z)) == pytest.approx(0, abs=1e-6)  # type: ignore[operator]
        assert 0 < abs(float(paper.bound(z))) < off  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dim": 2}, "dim is 2, but there are 3 levels"),
        ({"levels": [4096, 4096, 2]}, "33554432 codes"),
        ({"levels": [2, 5, 5], "shift": "atanh"}, "2 levels and margin -0.001"),
        ({"levels": [1001, 5, 5]}, "the outermost of 1001 levels are never reached"),
        ({"levels": [1, 5, 5]}, "greater than or equal to 2"),
    ],
)
def test_fsq_params_that_do_not_fit_are_refused(changes: dict[str, Any], says: str) -> None:
    params = {"kind": "fsq", "dim": 3, "levels": [8, 5, 5], "margin": -0.001, "shift": "tan", **changes}
    with pytest.raises(ParamsError, match=says):
        fresh(**params)


@pytest.mark.parametrize(("dim", "inverse_temperature"), [(1, 1.0), (4, 0.5), (7, 1.0), (5, 100.0)])
def test_lfq_is_the_naive_form(dim: int, inverse_temperature: float) -> None:
    quantizer = lfq(
        dim, entropy_weight=0.3, sample_weight=0.6, batch_weight=1.2, inverse_temperature=inverse_temperature
    )
    z = (latent(2, dim, 3, 5) * 0.5).requires_grad_()
    out = quantizer(z)
    out.loss.backward()

    codes = torch.tensor(
        [bits[::-1] for bits in itertools.product([-1.0, 1.0], repeat=dim)], dtype=torch.float64
    )
    rows = z.detach().permute(0, 2, 3, 1).reshape(-1, dim).double().requires_grad_()
    p = (-inverse_temperature * (rows[:, None] - codes).square().sum(2)).softmax(1)
    mean = p.mean(0)
    sample = -(p * p.clamp_min(1e-300).log()).sum(1).mean()
    batch = -(mean * mean.clamp_min(1e-300).log()).sum()
    index = (rows[:, None] - codes).square().sum(2).argmin(1)
    commitment = (rows - codes[index]).square().mean()
    loss = 0.3 * (0.6 * sample - 1.2 * batch) + 0.25 * commitment
    assert torch.equal(out.indices.flatten(), index)
    assert torch.equal(quantizer.codebooks()[0].vectors.double(), codes)
    expected = {"commitment": commitment, "sample_entropy": sample, "batch_entropy": batch}
    for name, value in expected.items():
        torch.testing.assert_close(out.terms[name].double(), value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.loss.double(), loss, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert z.grad is not None
    assert rows.grad is not None
    torch.testing.assert_close(
        z.grad.permute(0, 2, 3, 1).reshape(-1, dim).double(), rows.grad, rtol=1e-3, atol=1e-5
    )


def test_the_mean_distribution_is_not_the_product_of_mean_bits() -> None:
    logits = torch.tensor([[50.0, 50.0], [-50.0, -50.0]])  # two rows of opposite bits
    torch.testing.assert_close(mean_distribution(logits), torch.tensor([0.5, 0.0, 0.0, 0.5]))
    assert float(bit_entropy(torch.zeros(()))) == pytest.approx(math.log(2))
    assert bit_entropy(torch.tensor([-1e4, 1e4])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("params", "most"), [(LFQ, 2**18), (BSQ, 2304), ({**BSQ, "joint_bits": 9}, 128 * 32)]
)
def test_entropies_over_a_quarter_million_codes_hold_no_matrix_of_rows_and_codes(
    params: dict[str, Any], most: int
) -> None:
    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.most = max(self.most, out.numel())
            return out

    quantizer = fresh(**{**params, "dim": 18, "inverse_temperature": 100.0})
    z = latent(1, 18, 8, 16).requires_grad_()
    with Largest() as seen:
        out = quantizer(z)
        out.loss.backward()
    assert seen.most == most  # E[p], or the latents where only marginals are made; n x K is 2^25
    if params is LFQ:
        assert float(out.terms["batch_entropy"]) == pytest.approx(
            math.log(128), abs=0.5
        )  # each row its own code
    assert len(quantizer.indices(z).unique()) == len(out.indices.unique()) > 120
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_the_entropy_of_marginals_bounds_that_of_all_bits_together() -> None:
    z = latent(2, 6, 8, 8)
    z[:, 1:] = z[:, :1] * 2 + z[:, 1:] / 4  # bits that depend on each other
    found = [
        float(fresh(**{**BSQ, "dim": 6, "joint_bits": j})(z).terms["batch_entropy"]) for j in (1, 2, 3, 6)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] + 0.1
    assert found[0] <= 6 * math.log(2)


def test_codes_of_bsq_are_unit_vectors_and_scale_of_z_counts_for_nothing() -> None:
    quantizer = fresh(**BSQ)
    (book,) = quantizer.codebooks()
    assert len(book.vectors.unique(dim=0)) == 256
    torch.testing.assert_close(book.vectors.norm(dim=1), torch.ones(256))
    z = latent(2, 8, 3, 5)
    near, far = quantizer(z), quantizer(z * 50)
    assert torch.equal(near.indices, far.indices)
    torch.testing.assert_close(near.loss, far.loss)


def test_joint_bits_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ParamsError, match="3 does not divide 8"):
        fresh(**{**BSQ, "joint_bits": 3})


@pytest.mark.parametrize(
    ("slope", "margin", "share"),
    [(1.0, 1e-3, (0.993, 0.993)), (0.8, 0.0, (0.957, 0.983)), (0.8, None, (1.0, 0.998))],
)
def test_the_slope_of_ifsq_fills_levels_evenly_with_the_margin_of_levels_of_equal_width(
    slope: float, margin: float | None, share: tuple[float, float]
) -> None:
    z = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(20_000) + 0.5) / 20_000).view(1, 1, 1, -1)
    for levels, expected in zip((5, 17), share, strict=True):
        own = 1 / (levels - 1) if margin is None else margin
        quantizer = fresh(kind="fsq", dim=1, levels=[levels], margin=own, shift="atanh", slope=slope)
        p = quantizer(z).indices.flatten().bincount(minlength=levels).double() / 20_000
        assert float(-(p * p.log()).sum()) / math.log(levels) == pytest.approx(expected, abs=6e-4)


def test_indices_and_digits_are_inverse() -> None:
    quantizer = fsq([3, 2, 4, 5])
    assert isinstance(quantizer, LatticeQuantizer)
    indices = torch.arange(120)
    assert torch.equal((quantizer.digits(indices) * quantizer.basis).sum(-1), indices)
