"""The soft, lattice and residual quantizers on two ranks: in step, and with the gradient of one process."""

from __future__ import annotations

from pathlib import Path

from tests.ranks import run_two

PROGRAM = """
import torch
from tests.recipes import DIM, VQ
from tests.recipes import GUMBEL, IBQ, LFQ, SQ_VAE, residual
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer
from vqpipe.quantizers import build

def fresh(params):
    torch.manual_seed(0)
    return build(validate(params, "quantizer", AnyQuantizer), None).train()

def same(tensors):
    for tensor in tensors:
        other = tensor.detach().clone()
        dist.broadcast(other, src=0)
        assert torch.equal(tensor, other)

torch.manual_seed(1)
whole = torch.randn(4, DIM, 3, 5)
own = whole[2 * rank : 2 * rank + 2]

without_noise = (IBQ, LFQ, residual({**IBQ, "entropy_weight": 1.0}), residual(LFQ, stage_scale=0.5))
expected = []
for params in without_noise:
    single, z = fresh(params), whole.clone().requires_grad_()
    loss = single(z).loss
    loss.backward()
    expected.append((loss.detach(), z.grad, single))
join()

# Without noise: the loss and the gradients of one process that sees both halves, entropies of the batch included.
for params, (loss, grad, single) in zip(without_noise, expected, strict=True):
    split = fresh(params)
    z = own.clone().requires_grad_()
    shared = split(z).loss
    shared.backward()
    average_gradients(split)
    mean = shared.detach().clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / 2, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z.grad / 2, grad[2 * rank : 2 * rank + 2], rtol=1e-4, atol=1e-6)
    for a, b in zip(split.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)

# With noise of each rank's own, and starting from data: the weights stay the same on both.
data = {**SQ_VAE, "init": "data"}
for params in (GUMBEL, data, {**IBQ, "init": "data"}, residual({**VQ, "init": "data"}), residual(data)):
    quantizer = fresh(params)
    torch.manual_seed(100 + rank)
    optimiser = torch.optim.SGD(quantizer.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        out = quantizer(own)
        (out.loss + out.z_q.square().mean()).backward()
        average_gradients(quantizer)
        optimiser.step()
    same(quantizer.state_dict().values())

# In eval ranks may see unequal numbers of batches: nothing waits for the other.
if rank == 0:
    for params in (IBQ, LFQ, GUMBEL, SQ_VAE, residual(LFQ)):
        fresh(params).eval()(own)
"""


def test_two_ranks_stay_in_step(tmp_path: Path) -> None:
    run_two(PROGRAM, tmp_path)
