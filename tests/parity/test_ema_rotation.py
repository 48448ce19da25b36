"""`ema`, and `vq` with the rotation trick, against vector-quantize-pytorch on the same codes and latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build


def ours(**params: Any) -> Quantizer:
    return build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]


@pytest.mark.parametrize(("k", "d", "decay"), [(64, 4, 0.99), (300, 32, 0.8)])
def test_ema_codes_losses_and_codes_after_three_updates(k: int, d: int, decay: float) -> None:
    torch.manual_seed(0)
    quantizer = ours(
        kind="ema", num_codes=k, dim=d, beta=0.25, decay=decay, epsilon=1e-5, init="uniform", restart=None
    )
    theirs = VectorQuantize(
        dim=d, codebook_size=k, decay=decay, eps=1e-5, commitment_weight=0.25, rotation_trick=False
    ).train()
    start = torch.randn(k, d)
    for name in ("codes", "sums"):
        quantizer.get_buffer(name).copy_(start)
    theirs.codebook = start  # codes and sums alike; cluster sizes start at 1 in both
    theirs._codebook.embed_avg.copy_(start[None])
    for _ in range(3):
        z = torch.randn(3, 35, d)
        a = z.movedim(-1, 1)[..., None].clone().requires_grad_()
        b = z.clone().requires_grad_()
        out = quantizer(a)
        z_q, indices, loss = theirs(b)
        assert torch.equal(out.indices[:, 0, :, 0], indices)
        torch.testing.assert_close(out.z_q[..., 0].movedim(1, -1), z_q)
        torch.testing.assert_close(out.loss, loss.squeeze())
        torch.testing.assert_close(quantizer.get_buffer("codes"), theirs.codebook)
        weight = torch.randn_like(z)
        ((out.z_q[..., 0].movedim(1, -1) * weight).sum() + out.loss).backward()
        ((z_q * weight).sum() + loss.sum()).backward()
        assert a.grad is not None
        torch.testing.assert_close(a.grad[..., 0].movedim(1, -1), b.grad)
    torch.testing.assert_close(quantizer.get_buffer("cluster_sizes"), theirs._codebook.cluster_size[0])
    assert not torch.equal(quantizer.get_buffer("codes"), start)


def test_the_rotation_trick_gives_the_same_gradient() -> None:
    torch.manual_seed(0)
    k, d = 64, 8
    quantizer = ours(
        kind="vq", num_codes=k, dim=d, beta=0.25, beta_on="commitment", init="uniform", estimator="rotation"
    )
    theirs = VectorQuantize(
        dim=d, codebook_size=k, commitment_weight=0.25, learnable_codebook=True, ema_update=False,
        rotation_trick=True,
    ).train()  # fmt: skip
    codes = torch.randn(k, d)
    with torch.no_grad():
        quantizer.get_parameter("codes").copy_(codes)
        theirs.codebook.copy_(codes)
    z, weight = torch.randn(3, 35, d), torch.randn(3, 35, d)
    a, b = z.movedim(-1, 1)[..., None].clone().requires_grad_(), z.clone().requires_grad_()
    out = quantizer(a)
    z_q, indices, _ = theirs(b)
    assert torch.equal(out.indices[:, 0, :, 0], indices)
    torch.testing.assert_close(out.z_q[..., 0].movedim(1, -1), z_q, rtol=1e-4, atol=1e-5)
    (out.z_q[..., 0].movedim(1, -1) * weight).sum().backward()
    (z_q * weight).sum().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad[..., 0].movedim(1, -1), b.grad, rtol=1e-3, atol=1e-4)
