"""gumbel, sq_vae and ibq: their formulas in float64, where gradients land, what is sampled, and the tiles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.recipes import GUMBEL, IBQ, SQ_VAE
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build, soft
from vqpipe.quantizers.soft import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    entropy,
    gumbel_noise,
    hard_mixture,
    rise,
    value_at,
)

DIM = 8


def fresh(params: dict[str, Any], **changes: Any) -> Quantizer:
    torch.manual_seed(0)
    return build(validate({**params, **changes}, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]


def at(value: float) -> dict[str, Any]:
    return {"kind": "constant", "value": value}


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_of(z: Tensor) -> Tensor:
    return z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1]).double()


def flat(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def noise_of(seed: int, *shape: int) -> Tensor:
    torch.manual_seed(seed)
    return gumbel_noise(torch.empty(*shape)).double()


@pytest.fixture
def small_tile(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(soft.TILE, "cpu", 7 * 16)
    return 7 * 16


def test_schedules() -> None:
    cosine = CosineSchedule(kind="cosine", start=0.9, end=0.1, until=0.5)
    assert [value_at(cosine, p) for p in (-1, 0, 0.25, 0.5, 1)] == pytest.approx([0.9, 0.9, 0.5, 0.1, 0.1])
    exponential = ExponentialSchedule(kind="exponential", start=1.0, end=0.01)
    assert [value_at(exponential, p) for p in (0, 0.5, 1, 2)] == pytest.approx([1, 0.1, 0.01, 0.01])
    assert value_at(ConstantSchedule(kind="constant", value=0.3), 0.7) == 0.3
    assert [rise(0.2, p) for p in (0, 0.1, 0.2, 1)] == pytest.approx([0, 0.5, 1, 1])
    assert rise(None, 0) == 1


def test_entropy_has_no_hole_at_zero() -> None:
    p = torch.tensor([[0.0, 1.0], [0.25, 0.75]], requires_grad=True)
    value = entropy(p)
    assert value.tolist() == pytest.approx([0, -0.25 * math.log(0.25) - 0.75 * math.log(0.75)])
    value.sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_gumbel_noise_is_gumbel_and_comes_from_the_global_generator() -> None:
    noise = noise_of(0, 200_000)
    assert noise.mean() == pytest.approx(0.577216, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.01)
    assert torch.equal(noise, noise_of(0, 200_000))
    assert not torch.equal(noise, noise_of(1, 200_000))


def test_a_hard_mixture_is_the_code_with_the_gradient_of_the_mixture() -> None:
    weights = torch.randn(6, 4).softmax(1).requires_grad_()
    codes, index = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 3, 3, 1, 2, 0])
    upstream = torch.randn(6, 3)
    out = hard_mixture(weights, index, codes)
    assert torch.equal(out, codes[index])
    got = torch.autograd.grad((out * upstream).sum(), [weights, codes])
    onehot = torch.nn.functional.one_hot(index, 4) - weights.detach() + weights
    expected = torch.autograd.grad((onehot @ codes * upstream).sum(), [weights, codes])
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_is_the_naive_form(hard: bool) -> None:
    quantizer = fresh(GUMBEL, hard=hard, kl_warmup=0.8)
    z = latent(2, DIM, 3, 5).requires_grad_()
    torch.manual_seed(5)
    out = quantizer(z, 0.4)
    upstream = latent(2, DIM, 3, 5, seed=2)
    (out.loss * 1000 + (out.z_q * upstream).sum()).backward()

    wide = {name: p.detach().double().requires_grad_() for name, p in quantizer.named_parameters()}
    rows = rows_of(z).requires_grad_()
    logits = rows @ wide["logits.weight"][:, :, 0, 0].T + wide["logits.bias"]
    q = logits.softmax(1)
    kl = (q * (q * 16).log()).sum(1).mean()
    scores = logits + noise_of(5, 30, 16)
    temperature = 0.1 + 0.8 * (1 + math.cos(math.pi * 0.4)) / 2
    y = (scores / temperature).softmax(1)
    if hard:
        y = torch.nn.functional.one_hot(y.argmax(1), 16) - y.detach() + y
    z_q = y @ wide["codes"]
    loss = 0.01 * 0.5 * kl
    assert torch.equal(out.indices.flatten(), scores.argmax(1))
    torch.testing.assert_close(flat(out.z_q).double(), z_q, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.loss.double(), loss, atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(out.terms["kl"].double(), kl, atol=1e-6, rtol=1e-5)
    (loss * 1000 + (z_q * flat(upstream)).sum()).backward()
    assert z.grad is not None
    torch.testing.assert_close(flat(z.grad).double(), rows.grad, atol=1e-4, rtol=1e-4)
    for name, p in quantizer.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad.double(), wide[name].grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["global", "position"])
def test_sq_vae_is_the_naive_form(training: bool, kind: str) -> None:
    quantizer = fresh(SQ_VAE, variance=kind).train(training)
    z = latent(2, DIM, 3, 5).requires_grad_()
    torch.manual_seed(5)
    out = quantizer(z, 0.25)
    upstream = latent(2, DIM, 3, 5, seed=2)
    (out.loss + (out.z_q * upstream).sum()).backward()

    wide = {name: p.detach().double().requires_grad_() for name, p in quantizer.named_parameters()}
    rows = rows_of(z).requires_grad_()
    variance = wide["log_variance"].exp().expand(30)
    if kind == "position":
        weight, bias = wide["log_variance_of.weight"], wide["log_variance_of.bias"]
        variance = variance + (rows @ weight[:, :, 0, 0].T + bias).exp().squeeze(1)
    logits = -(rows[:, None] - wide["codes"]).square().sum(2) / (2 * variance[:, None])
    p = logits.softmax(1)
    temperature = 0.05**0.5  # exponential from 1 to 0.05, half of the way to its end
    scores = logits + noise_of(5, 30, 16) if training else logits
    y = (scores / temperature).softmax(1)
    if not training:
        y = torch.nn.functional.one_hot(y.argmax(1), 16) - y.detach() + y
    z_q = y @ wide["codes"]
    regularisation = ((rows - z_q).square().sum(1) / (2 * variance)).mean()
    entropies = -(p * p.log()).sum(1).mean()
    loss = 0.1 * (regularisation - entropies)
    assert torch.equal(out.indices.flatten(), scores.argmax(1))
    torch.testing.assert_close(flat(out.z_q).double(), z_q, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.loss.double(), loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.terms["regularisation"].double(), regularisation, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.terms["entropy"].double(), entropies, atol=1e-5, rtol=1e-5)
    (loss + (z_q * flat(upstream)).sum()).backward()
    assert z.grad is not None
    torch.testing.assert_close(flat(z.grad).double(), rows.grad, atol=1e-3, rtol=1e-3)
    for name, value in quantizer.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(value.grad.double(), wide[name].grad, atol=1e-3, rtol=1e-3)


def test_ibq_starts_normal_as_an_embedding_layer_does() -> None:
    quantizer = fresh(IBQ, num_codes=64, init="normal")
    torch.manual_seed(0)
    assert torch.equal(quantizer.get_parameter("codes"), torch.nn.Embedding(64, DIM).weight)
    z = latent(2, DIM, 3, 5) * 5
    products = rows_of(z) @ quantizer.get_parameter("codes").double().T
    found = quantizer.eval()(z).indices.flatten()
    assert torch.equal(found, products.argmax(1))  # of the raw codes, long ones are preferred
    assert not torch.equal(
        found, torch.cdist(rows_of(z), quantizer.get_parameter("codes").double()).argmin(1)
    )


def test_ibq_is_the_naive_form() -> None:
    quantizer = fresh(IBQ, init="data", entropy_weight=0.3, sample_weight=0.6, batch_weight=1.2)
    quantizer(latent(2, DIM, 4, 4, seed=8))
    z = latent(2, DIM, 3, 5).requires_grad_()
    out = quantizer(z)
    upstream = latent(2, DIM, 3, 5, seed=2)
    (out.loss + (out.z_q * upstream).sum()).backward()

    codes = quantizer.codes.detach().double().requires_grad_()  # type: ignore[union-attr]
    rows = rows_of(z).requires_grad_()
    logits = rows @ codes.T
    p, index = logits.softmax(1), logits.argmax(1)
    z_q = (torch.nn.functional.one_hot(index, 16) - p.detach() + p) @ codes
    chosen = codes[index]
    distance = (z_q - rows).square().mean()
    double = distance + (rows - chosen.detach()).square().mean()
    double = double + 0.25 * (chosen - rows.detach()).square().mean()
    sharp = (2.0 * logits).softmax(1)
    mean = sharp.mean(0)
    sample, batch = -(sharp * sharp.log()).sum(1).mean(), -(mean * mean.log()).sum()
    loss = double + 0.3 * (0.6 * sample - 1.2 * batch)
    assert torch.equal(out.indices.flatten(), index)
    torch.testing.assert_close(flat(out.z_q).double(), z_q, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.loss.double(), loss, atol=1e-5, rtol=1e-5)
    for name, value in {"distance": distance, "sample_entropy": sample, "batch_entropy": batch}.items():
        torch.testing.assert_close(out.terms[name].double(), value, atol=1e-5, rtol=1e-5)
    (loss + (z_q * flat(upstream)).sum()).backward()
    assert z.grad is not None
    torch.testing.assert_close(flat(z.grad).double(), rows.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(quantizer.codes.grad.double(), codes.grad, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]


def moved_by(quantizer: Quantizer, value: Tensor) -> set[str]:
    quantizer.zero_grad()
    value.backward()
    return {name for name, p in quantizer.named_parameters() if p.grad is not None and p.grad.any()}


def test_where_gradients_land() -> None:
    z = latent(2, DIM, 3, 5).requires_grad_()
    convolution = {"logits.weight", "logits.bias"}
    gumbel = fresh(GUMBEL, hard=True)
    assert moved_by(gumbel, gumbel(z).loss) == convolution  # the divergence does not see the codes
    assert moved_by(gumbel, gumbel(z).z_q.square().sum()) == {"codes"} | convolution
    sq_vae = fresh(SQ_VAE)
    assert moved_by(sq_vae, sq_vae(z).loss) == {"codes", "log_variance"}
    assert moved_by(sq_vae, sq_vae(z).z_q.square().sum()) == {"codes", "log_variance"}
    ibq = fresh(IBQ, entropy_weight=0.0)
    out = ibq(z)
    out.z_q.square().sum().backward()
    codes = ibq.codes
    assert isinstance(codes, torch.nn.Parameter)
    assert codes.grad is not None
    assert len(out.indices.unique()) < 16
    assert codes.grad.abs().amax(1).gt(0).all()  # codes that no latent took move too


@pytest.mark.parametrize("params", [GUMBEL, SQ_VAE])
def test_a_low_temperature_gives_one_code(params: dict[str, Any]) -> None:
    z = latent(2, DIM, 3, 5)
    for temperature, mixed in ((1e-6, False), (1.0, True)):
        quantizer = fresh(params, temperature=at(temperature))
        out = quantizer(z)
        chosen = quantizer.decode(out.indices)
        assert torch.allclose(out.z_q, chosen, atol=1e-5) != mixed


def test_gumbel_samples_the_softmax_of_its_logits() -> None:
    quantizer = fresh(GUMBEL, num_codes=5, hard=True)
    z = latent(1, DIM, 1, 1).expand(40, DIM, 20, 25)
    counts = quantizer(z).indices.flatten().bincount(minlength=5) / 20_000
    logits = quantizer.logits(z[:1, :, :1, :1]).flatten()  # type: ignore[operator]
    torch.testing.assert_close(counts, logits.softmax(0).detach(), atol=0.012, rtol=0)  # 3.4 standard errors
    assert quantizer.eval()(z).indices.unique().tolist() == [int(logits.argmax())]


def test_sq_vae_samples_its_posterior_and_anneals_itself() -> None:
    z = latent(1, DIM, 1, 1).expand(40, DIM, 20, 25)
    quantizer = fresh(SQ_VAE, num_codes=5, start_variance=6.0)
    counts = quantizer(z).indices.flatten().bincount(minlength=5) / 20_000
    distances = (z[0, :, 0, 0] - quantizer.codes).square().sum(1).detach()  # type: ignore[operator]
    torch.testing.assert_close(counts, (-distances / 12).softmax(0), atol=0.012, rtol=0)
    sharp = fresh(SQ_VAE, num_codes=5, start_variance=1e-4)
    assert sharp(z).indices.unique().tolist() == [int(distances.argmin())]
    assert quantizer.eval()(z).indices.unique().tolist() == [int(distances.argmin())]


def test_sq_vae_from_data_measures_its_variance_in_that_of_the_latents() -> None:
    quantizer = fresh(SQ_VAE, init="data", start_variance=0.25)
    z = latent(4, DIM, 6, 6) * 7
    variance = float(quantizer(z).terms["variance"])
    assert variance == pytest.approx(0.25 * 49, rel=0.1)


@pytest.mark.parametrize("params", [{**GUMBEL, "hard": True}, GUMBEL, SQ_VAE, IBQ])
def test_tiles_change_memory_only(
    params: dict[str, Any], small_tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Largest(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            made = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
            self.most = max([self.most, *(t.numel() for t in made)])
            return out

    def run() -> tuple[list[Tensor], int]:
        quantizer = fresh(params)
        z = latent(2, DIM, 3, 5).requires_grad_()
        torch.manual_seed(3)
        with Largest() as seen:
            out = quantizer(z)
            (out.loss + out.z_q.square().sum()).backward()
        grads = [z.grad, *(p.grad for p in quantizer.parameters())]
        return [out.z_q, out.indices, out.loss, *(g for g in grads if g is not None)], seen.most

    tiled, most = run()
    assert most < 30 * 16
    monkeypatch.setattr(soft, "checkpoint", lambda step, part, use_reentrant: step(part))
    kept, _ = run()  # the same tiles and so the same noise, but nothing is computed twice
    assert all(torch.equal(a, b) for a, b in zip(tiled, kept, strict=True))
    monkeypatch.setitem(soft.TILE, "cpu", 1 << 22)
    whole, most = run()
    assert most >= 30 * 16
    if params is IBQ:  # without noise the tiles must not show at all
        for a, b in zip(tiled, whole, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_eval_draws_nothing_and_needs_no_gradient(small_tile: int) -> None:
    for params in (GUMBEL, SQ_VAE, IBQ):
        quantizer = fresh(params).eval()
        state = torch.get_rng_state()
        with torch.no_grad():
            tiled = quantizer(latent(2, DIM, 3, 5))
        assert torch.equal(state, torch.get_rng_state())
        soft.TILE["cpu"] = 1 << 22
        with torch.no_grad():
            whole = quantizer(latent(2, DIM, 3, 5))
        soft.TILE["cpu"] = small_tile
        assert torch.equal(tiled.indices, whole.indices)
        torch.testing.assert_close(tiled.loss, whole.loss)
