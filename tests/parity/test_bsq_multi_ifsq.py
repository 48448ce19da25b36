"""`bsq`, `multi` and the slope of `fsq` against vector-quantize-pytorch and the formulas of the papers' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch import LFQ

from tests.recipes import BSQ
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build

SIGNS = {"entropy_weight": 0.1, "sample_weight": 1.0, "batch_weight": 0.7, "commitment_weight": 0.25}


def ours(**params: Any) -> Quantizer:
    torch.manual_seed(0)
    return build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]


def gradient(z: Tensor, value: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(value, z, retain_graph=True)
    return grad


def reversed_bits(indices: Tensor, dim: int) -> Tensor:
    """Its first dimension is the most significant bit, the papers' and ours the least."""
    return torch.stack([((indices >> bit) & 1) << (dim - 1 - bit) for bit in range(dim)]).sum(0)


@pytest.mark.parametrize(("dim", "inverse_temperature"), [(6, 1.0), (9, 0.5), (4, 5.0)])
def test_bsq(dim: int, inverse_temperature: float) -> None:
    # Its entropy of the batch is the exact one: joint_bits dim. It clamps probabilities at 1e-5 inside the logarithm.
    quantizer = ours(
        kind="bsq", dim=dim, joint_bits=dim, inverse_temperature=inverse_temperature, **SIGNS
    )  # fmt: skip
    theirs = LFQ(
        dim=dim, codebook_size=2**dim, entropy_loss_weight=0.1, commitment_loss_weight=0.25, diversity_gamma=0.7,
        spherical=True,
    ).train()  # fmt: skip
    z = (torch.randn(3, dim, 5, 7) * 3).requires_grad_()
    out = quantizer(z)
    (z_q, indices, loss), parts = theirs(z, inv_temperature=inverse_temperature, return_loss_breakdown=True)
    torch.testing.assert_close(out.z_q, z_q)
    assert torch.equal(reversed_bits(out.indices[:, 0], dim), indices)
    torch.testing.assert_close(quantizer.decode(out.indices), theirs.indices_to_codes(indices))
    torch.testing.assert_close(out.terms["commitment"], parts.commitment.detach())
    torch.testing.assert_close(
        out.terms["sample_entropy"], parts.per_sample_entropy.detach(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(out.terms["batch_entropy"], parts.batch_entropy.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.loss, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(z, out.loss), gradient(z, loss), rtol=1e-3, atol=1e-5)
    weight = torch.randn_like(z)
    mine, his = (gradient(z, (value * weight).sum()) for value in (out.z_q, z_q))
    torch.testing.assert_close(mine, his)
    assert (
        float((mine * z.detach()).sum(1).abs().max()) < 1e-5 < float(mine.abs().max())
    )  # perpendicular to z


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_factorised_entropies_of_bsq_are_those_of_its_public_code(bits: int) -> None:
    # There the soft assignment of a group of bits is a softmax over its 2^bits codes, of entries 1 / sqrt(d).
    dim = 6
    quantizer = ours(**{**BSQ, "dim": dim, "joint_bits": bits, "inverse_temperature": 1.0})
    z = torch.randn(3, dim, 5, 7)
    out = quantizer(z)
    rows = F.normalize(z.permute(0, 2, 3, 1).reshape(-1, dim), dim=-1).view(-1, dim // bits, bits).double()
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits).view(-1, bits).double() / dim**0.5
    p = (2 * torch.einsum("ngb,kb->ngk", rows, codes)).softmax(-1)
    mean = p.mean(0)
    sample = -(p * p.log()).sum((1, 2)).mean()
    batch = -(mean * mean.log()).sum()
    torch.testing.assert_close(out.terms["sample_entropy"].double(), sample, rtol=1e-5, atol=0)
    torch.testing.assert_close(out.terms["batch_entropy"].double(), batch, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("groups", "bits"), [(2, 5), (4, 3), (3, 1)])
def test_group_wise_lfq(groups: int, bits: int) -> None:
    base = {"kind": "lfq", "dim": bits, "inverse_temperature": 1.0, **SIGNS}
    quantizer = ours(kind="multi", base=base, num_groups=groups, reduce="mean")
    theirs = LFQ(
        codebook_size=2**bits, num_codebooks=groups, entropy_loss_weight=0.1, commitment_loss_weight=0.25,
        diversity_gamma=0.7,
    ).train()  # fmt: skip
    z = torch.randn(3, groups * bits, 5, 7, requires_grad=True)
    out = quantizer(z)
    (z_q, indices, loss), parts = theirs(z, inv_temperature=1.0, return_loss_breakdown=True)
    assert torch.equal(out.z_q, z_q)
    assert torch.equal(reversed_bits(out.indices, bits), indices.movedim(-1, 1))
    assert torch.equal(quantizer.decode(out.indices), theirs.indices_to_codes(indices))

    def mean(name: str) -> Tensor:
        return torch.stack([out.terms[f"{name}_{group}"] for group in range(groups)]).mean()

    torch.testing.assert_close(mean("commitment"), parts.commitment.detach())
    torch.testing.assert_close(
        mean("sample_entropy"), parts.per_sample_entropy.detach(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(mean("batch_entropy"), parts.batch_entropy.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.loss, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(z, out.loss), gradient(z, loss), rtol=1e-3, atol=1e-5)


def test_unitok() -> None:
    # Its code: unit vectors on both sides, the losses' mean over codebooks, each |sg(z) - e|^2 + beta |z - sg(e)|^2.
    groups, width, count = 3, 4, 16
    base = {
        "kind": "fc", "dim": width, "num_codes": count, "beta": 0.25, "beta_on": "commitment", "init": "uniform",
        "normalise": True,
    }  # fmt: skip
    quantizer = ours(kind="multi", base=base, num_groups=groups, reduce="mean")
    z = torch.randn(3, groups * width, 5, 7, requires_grad=True)
    out = quantizer(z)
    codes = torch.stack([F.normalize(p, dim=1) for p in quantizer.parameters()])
    rows = F.normalize(z.permute(0, 2, 3, 1).reshape(-1, groups, width), dim=-1)
    index = torch.einsum("ngw,gkw->ngk", rows, codes).argmax(-1)
    chosen = torch.stack([codes[group][index[:, group]] for group in range(groups)], 1)
    loss = F.mse_loss(chosen, rows.detach()) + 0.25 * F.mse_loss(rows, chosen.detach())
    assert torch.equal(out.indices.movedim(1, -1).reshape(-1, groups), index)
    torch.testing.assert_close(out.z_q.movedim(1, -1).reshape(-1, groups, width), chosen)
    torch.testing.assert_close(out.loss, loss)
    torch.testing.assert_close(gradient(z, out.loss), gradient(z, loss))
    for p in quantizer.parameters():
        torch.testing.assert_close(gradient(p, out.loss), gradient(p, loss))


@pytest.mark.parametrize("levels", [[17, 17, 17, 17], [5, 5, 5, 5, 5], [3, 9]])
def test_ifsq(levels: list[int]) -> None:
    # Its code bounds by (L - 1) / 2 times 2 sigmoid(1.6 z) - 1, without margin or shift, for odd L alone.
    quantizer = ours(kind="fsq", dim=len(levels), levels=levels, margin=0.0, shift="atanh", slope=0.8)
    z = (torch.randn(3, len(levels), 5, 7) * 2).requires_grad_()
    out = quantizer(z)
    half = (torch.tensor(levels) - 1).view(1, -1, 1, 1) / 2
    bounded = (2 * torch.sigmoid(1.6 * z) - 1) * half
    torch.testing.assert_close(out.z_q, bounded.round() / half)
    digits = bounded.detach().round().long() + half.long()
    basis = torch.tensor([1, *levels]).cumprod(0)[:-1].view(1, -1, 1, 1)
    assert torch.equal(out.indices[:, 0], (digits * basis).sum(1))
    weight = torch.randn_like(z)
    torch.testing.assert_close(
        gradient(z, (out.z_q * weight).sum()), gradient(z, (bounded / half * weight).sum())
    )
