"""`fvq` and `wasserstein`: codes that move together, against forms written out and against scipy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.recipes import DIM, FVQ, VQ, WASSERSTEIN
from vqpipe.errors import VqpipeError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, build
from vqpipe.quantizers.fvq import FullQuantizer
from vqpipe.quantizers.wasserstein import gaussian_distance, moments


def fresh(params: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]


# fvq


def written_out(quantizer: FullQuantizer, patch: int, heads: int) -> Tensor:
    """The projector, with attention one head and one group at a time."""
    p = {name: value.detach() for name, value in quantizer.named_parameters()}

    def normal(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    groups = torch.stack([part.flatten() for part in p["raw"].split(patch)])
    x = normal(linear(groups, "compress.0"), "compress.1")
    for number in range(len(quantizer.blocks)):
        own = f"blocks.{number}"
        q, k, v = linear(normal(x, f"{own}.norm"), f"{own}.qkv").chunk(3, 1)
        size, mixed = x.shape[1] // heads, torch.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for row in range(len(x)):
                scores = (k[:, part] @ q[row, part]) / math.sqrt(size)
                mixed[row, part] = scores.softmax(0) @ v[:, part]
        x = x + linear(mixed, f"{own}.out")
        hidden = linear(normal(x, f"{own}.mlp_norm"), f"{own}.mlp.0")
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + linear(hidden, f"{own}.mlp.2")
    return linear(normal(x, "norm"), "recover").reshape(-1, DIM)


@pytest.mark.parametrize(("patch", "heads"), [(1, 3), (3, 2), (24, 1)])
def test_fvq_compresses_mixes_and_recovers(patch: int, heads: int) -> None:
    quantizer = fresh({**FVQ, "patch": patch, "heads": heads})
    (codes,) = quantizer.live_codes()
    torch.testing.assert_close(codes.detach(), written_out(quantizer, patch, heads), rtol=1e-4, atol=1e-5)


def test_one_used_code_of_fvq_moves_all_codes() -> None:
    quantizer = fresh(FVQ)
    before = quantizer.live_codes()[0].detach().clone()
    z = before[5][None, :, None, None] + 0.01
    out = quantizer(z)
    assert out.indices.unique().tolist() == [5]
    out.loss.backward()
    raw_grad = quantizer.raw.grad.abs().amax(1)
    assert (raw_grad > 0).all(), "every raw code, through the attention"
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()
    assert ((quantizer.live_codes()[0].detach() - before).abs().amax(1) > 0).all()


def test_fvq_starts_with_the_moments_of_the_latents() -> None:
    quantizer = fresh({**FVQ, "num_codes": 300, "init": "data"})
    z = torch.randn(4, DIM, 10, 10) * torch.linspace(0.2, 3, DIM)[:, None, None] + 2
    quantizer.initialise(z)
    rows, codes = z.movedim(1, -1).reshape(-1, DIM), quantizer.live_codes()[0].detach()
    torch.testing.assert_close(codes.mean(0), rows.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(codes.T.cov(correction=0), rows.T.cov(correction=0), rtol=0, atol=1e-2)


def test_the_projector_of_fvq_runs_once_in_eval() -> None:
    quantizer = fresh(FVQ).eval()
    calls: list[int] = []
    quantizer.recover.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for _ in range(3):
            quantizer.decode(quantizer(torch.randn(1, DIM, 3, 3)).indices)
    assert len(calls) == 1


def test_the_cost_of_fvq_grows_with_k_at_a_fixed_number_of_groups() -> None:
    def operations(patch: int) -> int:
        quantizer = fresh({**FVQ, "num_codes": 64 * patch, "patch": patch})
        with FlopCounterMode(display=False) as counter:
            quantizer.live_codes()[0].sum().backward()
        return counter.get_total_flops()

    small, twice, four = (operations(patch) for patch in (4, 8, 16))
    assert four - twice == 2 * (twice - small)


@pytest.mark.parametrize(
    ("changes", "message"), [({"patch": 5}, "multiple of patch"), ({"heads": 5}, "heads")]
)
def test_fvq_refuses_parts_that_do_not_divide(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VqpipeError, match=message):
        validate({**FVQ, **changes}, "quantizer", AnyQuantizer)  # type: ignore[arg-type]


# wasserstein


def by_scipy(x: Tensor, y: Tensor) -> float:
    """The distance of the Gaussians of two sets, with scipy's Schur method for the matrix roots."""
    a, b = x.double().numpy(), y.double().numpy()
    s, t = (np.cov(v.T, bias=True) for v in (a, b))
    root = scipy.linalg.sqrtm(s)
    cross = scipy.linalg.sqrtm(root @ t @ root)
    squared = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(cross).real
    return math.sqrt(squared)


def distance(x: Tensor, y: Tensor) -> Tensor:
    return gaussian_distance(moments(x, False), moments(y, False))


@pytest.mark.parametrize("d", [2, 8, 32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_distance_is_that_of_scipy(d: int, scale: float) -> None:
    torch.manual_seed(d)
    x = (torch.randn(400, d) @ torch.randn(d, d) + torch.randn(d)) * scale
    y = torch.randn(90, d) @ torch.randn(d, d)
    assert distance(x, y).item() == pytest.approx(by_scipy(x, y), rel=1e-6)
    assert distance(y, x).item() == pytest.approx(by_scipy(x, y), rel=1e-6)


def test_the_gradient_of_the_distance_is_that_of_differences() -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (12, 9))
    assert torch.autograd.gradcheck(distance, (x, y), eps=1e-6, atol=1e-7)


def test_equal_sets_and_flat_ones_have_a_finite_gradient() -> None:
    same = torch.randn(20, 4)
    flat = same * torch.tensor([1.0, 1.0, 0.0, 0.0])
    for x, y in (
        (same, same),
        (same, flat),
        (flat, flat),
        (flat, same),
        (same * 0, same),
        (same * 0, same * 0),
    ):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        distance(a, b).backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()
    assert distance(same, same) == distance(flat, flat) == 0
    to_a_point = same.double().square().sum(1).mean().sqrt().item()
    assert distance(same * 0, same).item() == pytest.approx(to_a_point)
    assert distance(torch.full((3, 4), torch.nan), same).isnan()


@pytest.mark.parametrize("scale", ["none", "codes"])
@pytest.mark.parametrize("moves", ["codes", "both"])
def test_the_distance_is_added_to_the_losses_of_vq(scale: str, moves: str) -> None:
    quantizer = fresh({**WASSERSTEIN, "scale": scale, "moves": moves, "weight": 0.7})
    other = fresh(VQ)
    codes = torch.randn(16, DIM) * 0.5
    with torch.no_grad():
        quantizer.codes.copy_(codes)
        other.codes.copy_(codes)
    a, b = (torch.randn(2, DIM, 4, 5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    out, plain = quantizer(a.requires_grad_()), other(b.requires_grad_())
    rows = a.detach().movedim(1, -1).reshape(-1, DIM)
    unit = codes.std(0, correction=0).max().item() if scale == "codes" else 1.0
    expected = by_scipy(rows, codes) / unit
    assert out.terms["wasserstein"].item() == pytest.approx(expected, rel=1e-5)
    assert (out.loss - plain.loss).item() == pytest.approx(0.7 * expected, rel=1e-4)
    out.loss.backward()
    plain.loss.backward()
    leaves = [t.clone().requires_grad_() for t in (rows, codes)]
    (0.7 * distance(*leaves) / unit).backward()
    own_rows, own_codes = (leaf.grad for leaf in leaves)
    assert own_rows is not None
    torch.testing.assert_close(quantizer.codes.grad - other.codes.grad, own_codes, rtol=1e-3, atol=1e-6)
    assert a.grad is not None
    assert b.grad is not None
    added = (a.grad - b.grad).movedim(1, -1).reshape(-1, DIM)
    torch.testing.assert_close(
        added, own_rows if moves == "both" else torch.zeros_like(added), rtol=1e-3, atol=1e-6
    )


def test_codes_that_no_latent_takes_come_to_the_latents() -> None:
    """Far codes get no gradient from `vq`, whose nearest ones take all latents."""
    z = torch.randn(4, DIM, 8, 8) + 3
    shares = {}
    for name, params in {"vq": VQ, "wasserstein": {**WASSERSTEIN, "weight": 1.0}}.items():
        quantizer = fresh({**params, "num_codes": 64})
        optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.05)
        for _ in range(200):
            optimiser.zero_grad()
            quantizer(z).loss.backward()
            optimiser.step()
        shares[name] = len(quantizer.eval().indices(z).unique()) / 64
    assert shares["wasserstein"] > 0.7
    assert shares["wasserstein"] > 2 * shares["vq"]
