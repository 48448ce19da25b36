"""`diveq` against vector-quantize-pytorch's directional reparameterisation, on the same codes, latents and noise."""

from __future__ import annotations

import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import directional_reparam

from tests.recipes import DIVEQ
from vqpipe.params.base import validate
from vqpipe.quantizers.diveq import DiveqParams, DiveqQuantizer


@pytest.mark.parametrize("variance", [1e-3, 5e-3, 0.5])
def test_values_and_gradients_are_the_same(variance: float) -> None:
    torch.manual_seed(0)
    params = {**DIVEQ, "noise_variance": variance}
    ours = DiveqQuantizer(validate(params, "quantizer", DiveqParams)).train()
    points = torch.randn(16, 8)
    with torch.no_grad():
        ours.points.copy_(points)
    z, weight = torch.randn(30, 8), torch.randn(30, 8)
    a, b, codes = z.clone().requires_grad_(), z.clone().requires_grad_(), points.clone().requires_grad_()

    torch.manual_seed(1)
    out = ours(a.T[None, :, :, None])
    torch.manual_seed(1)
    theirs = directional_reparam(b, codes[torch.cdist(z, points).argmin(1)], variance)
    rows = out.z_q[0, :, :, 0].T
    torch.testing.assert_close(rows, theirs)
    (rows * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.points.grad, codes.grad)
