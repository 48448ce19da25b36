"""`fsq`, `lfq` and `residual` against vector-quantize-pytorch on the same latents and codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ

from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build


def ours(**params: Any) -> Quantizer:
    torch.manual_seed(0)
    return build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]


def gradient(z: Tensor, value: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(value, z, retain_graph=True)
    return grad


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [8, 6, 5], [7, 5, 5, 5, 5], [4, 3], [9, 16]])
def test_fsq(levels: list[int]) -> None:
    # Its bound is half a step wider than the paper's and its shift exact: margin 0.001, shift atanh.
    quantizer = ours(kind="fsq", dim=len(levels), levels=levels, margin=1e-3, shift="atanh")
    theirs = FSQ(levels=levels, channel_first=True)
    z = (torch.randn(3, len(levels), 5, 7) * 2).requires_grad_()
    out = quantizer(z)
    z_q, indices = theirs(z)
    assert torch.equal(out.indices[:, 0], indices.long())
    assert torch.equal(out.z_q, z_q)
    assert torch.equal(quantizer.decode(out.indices), theirs.indices_to_codes(indices))
    weight = torch.randn_like(z)
    torch.testing.assert_close(gradient(z, (out.z_q * weight).sum()), gradient(z, (z_q * weight).sum()))


@pytest.mark.parametrize(("dim", "inverse_temperature"), [(6, 1.0), (9, 0.3), (4, 5.0)])
def test_lfq(dim: int, inverse_temperature: float) -> None:
    # It clamps probabilities at 1e-5 inside the logarithm, which shows at its default temperature of 0.01: hence
    # softer ones here. Its first dimension is the most significant bit, the paper's the least.
    quantizer = ours(
        kind="lfq", dim=dim, entropy_weight=0.1, sample_weight=1.0, batch_weight=0.7,
        inverse_temperature=inverse_temperature, commitment_weight=0.25,
    )  # fmt: skip
    theirs = LFQ(
        dim=dim, codebook_size=2**dim, entropy_loss_weight=0.1, commitment_loss_weight=0.25, diversity_gamma=0.7
    ).train()  # fmt: skip
    z = torch.randn(3, dim, 5, 7, requires_grad=True)
    out = quantizer(z)
    (z_q, indices, loss), parts = theirs(z, inv_temperature=inverse_temperature, return_loss_breakdown=True)
    assert torch.equal(out.z_q, z_q)
    reverse = sum(((out.indices[:, 0] >> bit) & 1) << (dim - 1 - bit) for bit in range(dim))
    assert torch.equal(torch.as_tensor(reverse), indices)
    torch.testing.assert_close(out.terms["commitment"], parts.commitment.detach())
    torch.testing.assert_close(
        out.terms["sample_entropy"], parts.per_sample_entropy.detach(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(out.terms["batch_entropy"], parts.batch_entropy.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.loss, loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient(z, out.loss), gradient(z, loss), rtol=1e-3, atol=1e-5)
    weight = torch.randn_like(z)
    assert torch.equal(gradient(z, (out.z_q * weight).sum()), weight)
    assert torch.equal(gradient(z, (z_q * weight).sum()), weight)


@pytest.mark.parametrize("shared", [False, True])
def test_residual(shared: bool) -> None:
    stages, k, d = 3, 16, 8
    base = {"kind": "vq", "num_codes": k, "dim": d, "beta": 0.25, "beta_on": "commitment", "init": "uniform"}
    quantizer = ours(kind="residual", base=base, num_stages=stages, shared=shared, reduce="sum")
    theirs = ResidualVQ(
        dim=d, num_quantizers=stages, codebook_size=k, shared_codebook=shared, commitment_weight=0.25,
        learnable_codebook=True, ema_update=False, rotation_trick=False,
    ).train()  # fmt: skip
    codes = torch.randn(1 if shared else stages, k, d)
    with torch.no_grad():
        for number, (mine, his) in enumerate(zip(quantizer.parameters(), theirs.parameters(), strict=True)):
            mine.copy_(codes[number])
            his.copy_(codes[number])
    z = torch.randn(3, d, 5, 7, requires_grad=True)
    out = quantizer(z)
    rows, indices, losses = theirs(z.flatten(2).transpose(1, 2))  # its maps must be square
    z_q = rows.transpose(1, 2).view_as(z)
    assert torch.equal(out.indices.flatten(2).transpose(1, 2), indices)
    torch.testing.assert_close(out.z_q, z_q)
    torch.testing.assert_close(quantizer.decode(out.indices), z_q)
    commitments = torch.stack([out.terms[f"commitment_{stage}"] for stage in range(stages)])
    torch.testing.assert_close(0.25 * commitments, losses.detach())
    torch.testing.assert_close(gradient(z, out.loss), gradient(z, losses.sum()))  # one term per stage
    for mine, his in zip(quantizer.parameters(), theirs.parameters(), strict=True):
        # Its one loss moves both sides with the commitment weight; beta leaves our codebook term at 1.
        torch.testing.assert_close(0.25 * gradient(mine, out.loss), gradient(his, losses.sum())[0])

    # It adds up the stages' straight-through steps, so that the encoder's gradient comes out once per stage.
    weight = torch.randn_like(z)
    torch.testing.assert_close(gradient(z, (out.z_q * weight).sum()), weight)
    torch.testing.assert_close(gradient(z, (z_q * weight).sum()), stages * weight)
