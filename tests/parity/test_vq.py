"""`vq` against vector-quantize-pytorch on the same codes and latents."""

from __future__ import annotations

import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

from vqpipe.params.base import validate
from vqpipe.quantizers.vq import VectorQuantizer, VqParams


@pytest.mark.parametrize(("k", "d"), [(64, 4), (300, 32)])
def test_indices_codes_and_losses_are_the_same(k: int, d: int) -> None:
    torch.manual_seed(0)
    params = {
        "kind": "vq",
        "num_codes": k,
        "dim": d,
        "beta": 0.25,
        "beta_on": "commitment",
        "init": "uniform",
    }
    ours = VectorQuantizer(validate(params, "quantizer", VqParams)).train()
    theirs = VectorQuantize(
        dim=d, codebook_size=k, accept_image_fmap=True, commitment_weight=0.25, learnable_codebook=True,
        ema_update=False, rotation_trick=False,
    ).train()  # fmt: skip
    codes = torch.randn(k, d)
    with torch.no_grad():
        ours.codes.copy_(codes)
        theirs._codebook.embed.copy_(codes[None])

    z = torch.randn(3, d, 5, 7)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    out = ours(a)
    z_q, indices, _, parts = theirs(b, return_loss_breakdown=True)
    assert torch.equal(out.indices[:, 0], indices)
    torch.testing.assert_close(out.z_q, z_q)
    torch.testing.assert_close(out.terms["commitment"], parts.commitment.squeeze())

    weight = torch.randn_like(z)  # gradients: straight-through plus beta times the commitment term
    ((out.z_q * weight).sum() + out.loss).backward()
    ((z_q * weight).sum() + 0.25 * parts.commitment.sum()).backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_a_row_as_far_from_two_codes_takes_the_first_as_argmin_does() -> None:
    params = {
        "kind": "vq",
        "num_codes": 2,
        "dim": 1,
        "beta": 0.25,
        "beta_on": "commitment",
        "init": "uniform",
    }
    ours = VectorQuantizer(validate(params, "quantizer", VqParams)).eval()
    with torch.no_grad():
        ours.codes.copy_(torch.tensor([[1.0], [-1.0]]))
        assert ours(torch.zeros(1, 1, 1, 1)).indices.item() == 0
