"""Latents of any size and dtype: finite losses and gradients; what is not finite is an error, not a code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.properties.test_quantizers import CASES, fresh, latent, same_state, state_of
from tests.recipes import DIM, SQ_VAE, Recipe, make_tokenizer
from vqpipe.errors import MismatchError
from vqpipe.quantizers.soft import gumbel_noise
from vqpipe.quantizers.sq_vae import LARGEST_LOG_VARIANCE, SqVaeQuantizer

LATENTS: dict[str, Callable[[], Tensor]] = {
    "small": lambda: latent(2, DIM, 4, 4) * 1e-6,
    "unit": lambda: latent(2, DIM, 4, 4),
    "large": lambda: latent(2, DIM, 4, 4) * 200,
    "larger": lambda: latent(2, DIM, 4, 4) * 1e4,
    "zero": lambda: torch.zeros(2, DIM, 4, 4),
    "constant": lambda: torch.full((2, DIM, 4, 4), 3.0),
    "some-rows-zero": lambda: latent(2, DIM, 4, 4) * (torch.arange(4) > 1),
}
DTYPES = {torch.float16: 0.9, torch.bfloat16: 0.6, torch.float64: 0.99}
"""The least share of equal indices, of a trunk that computes with 11 or 8 bits, or with more than float32's."""


@pytest.mark.parametrize("recipe", CASES)
@pytest.mark.parametrize("name", LATENTS)
def test_losses_and_gradients_are_finite(name: str, recipe: Recipe) -> None:
    weight = latent(2, DIM, 4, 4, seed=5)
    quantizer = fresh(recipe).train()
    for progress in (0.0, 1.0):
        z = LATENTS[name]().requires_grad_()
        out = quantizer(z, progress)
        (out.loss + (out.z_q * weight).sum()).backward()
        assert z.grad is not None
        grads = {n: p.grad for n, p in quantizer.named_parameters() if p.grad is not None}
        found = {"loss": out.loss, "z_q": out.z_q, "z": z.grad, **grads, **state_of(quantizer)}
        assert [n for n, value in found.items() if not value.isfinite().all()] == []


@pytest.mark.parametrize("recipe", CASES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_latent_that_is_not_finite_is_no_code(bad: float, recipe: Recipe) -> None:
    quantizer = fresh(recipe).train()
    quantizer(latent(2, DIM, 4, 4))
    z = latent(2, DIM, 3, 3)
    z[1, 2, 0, 1] = bad
    with pytest.raises(MismatchError, match=r"not finite.*\n.*1 of 144 values"):
        quantizer.eval()(z)
    out = quantizer.train()(z)  # without a look at values: the engine refuses a loss that is not finite
    assert not (out.loss.isfinite() and out.z_q.isfinite().all())


@pytest.mark.parametrize("recipe", CASES)
@pytest.mark.parametrize("shape", [(DIM, 3, 3), (2, DIM + 1, 3, 3), (2, 3, 3, DIM)])
def test_a_latent_of_another_shape_is_refused(shape: tuple[int, ...], recipe: Recipe) -> None:
    for training in (True, False):
        with pytest.raises(MismatchError, match=f"expected: .*{DIM}, h, w"):
            fresh(recipe).train(training)(latent(*shape))


@pytest.mark.parametrize("recipe", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tokenizer_of_another_dtype_codes_the_same(dtype: torch.dtype, recipe: Recipe) -> None:
    tokenizer = make_tokenizer(recipe)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    indices, codes = tokenizer.encode(images), state_of(tokenizer.quantizer)  # type: ignore[arg-type]
    other = make_tokenizer(recipe).to(dtype)
    assert same_state(codes, state_of(other.quantizer)), "codes are not rounded"  # type: ignore[arg-type]
    assert other.dtype == dtype
    for given in (images, images.to(dtype)):
        found = other.encode(given)
        assert found.dtype == torch.int64
        equal = (found == indices).float().mean().item()
        assert equal >= DTYPES[dtype], f"{equal:.3f} of the indices"
    decoded = other.decode(indices)
    assert decoded.dtype == dtype
    torch.testing.assert_close(decoded.float(), tokenizer.decode(indices), atol=0.05, rtol=0.05)
    reconstruction, quantized = other(images)
    assert reconstruction.dtype == dtype
    assert quantized.z_q.dtype == torch.float32
    assert torch.equal(quantized.indices, found)
    assert other.quantize_latent(other.encode_latent(images)).dtype == torch.float32


def test_the_variance_of_far_latents_has_the_gradient_of_float64() -> None:
    quantizer = fresh(Recipe({**SQ_VAE, "variance": "position"})).train()
    assert isinstance(quantizer, SqVaeQuantizer)
    head = quantizer.log_variance_of
    assert head is not None
    z = (latent(1, DIM, 6, 6) * 200).requires_grad_()
    torch.manual_seed(1)
    loss = quantizer(z, 0.5).loss
    names = dict(quantizer.named_parameters())
    grads = torch.autograd.grad(loss, [z, *names.values()])

    exact = {name: p.detach().double().requires_grad_() for name, p in names.items()}
    far = z.detach().double().requires_grad_()
    rows = far.movedim(1, -1).reshape(-1, DIM)
    logs = rows @ exact["log_variance_of.weight"].flatten(1).T + exact["log_variance_of.bias"]
    assert logs.max() > 100 > LARGEST_LOG_VARIANCE, "float32 overflows here"
    variance = exact["log_variance"].exp() + logs.exp()
    codes = exact["codes"]
    logits = (rows @ codes.T - codes.square().sum(1) / 2) / variance
    torch.manual_seed(1)
    noise = gumbel_noise(torch.empty(len(rows), len(codes))).double()
    temperature = 0.05  # of EXPONENTIAL at progress 0.5
    z_q = ((logits + noise) / temperature).softmax(-1) @ codes
    log_p = logits.log_softmax(-1)
    regularisation = (rows - z_q).square().sum(-1) / (2 * variance.squeeze(1))
    expected = 0.1 * (regularisation + (log_p.exp() * log_p).sum(-1)).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    wanted = torch.autograd.grad(expected, [far, *exact.values()])
    for name, own, right in zip(["z", *names], grads, wanted, strict=True):
        assert right.abs().max() > 0, name
        scale = right.abs().max().item()
        torch.testing.assert_close(own.double(), right, rtol=1e-3, atol=1e-5 * scale, msg=name)
