"""The nearest-code quantizers against naive forms: ema, fc, reg_vq, sim_vq, cvq; and what they are for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.nearest import as_latent, fresh, latent, rows, set_codes
from tests.recipes import CONTRASTIVE, CVQ, DIM, EMA, FC, REG_VQ, SIM_VQ, VQ
from vqpipe.errors import ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import cvq, soft
from vqpipe.quantizers.contract import latent_of, rows_of
from vqpipe.quantizers.cvq import ContrastiveParams


def test_rows_are_the_positions_image_by_image_and_go_back_to_their_places() -> None:
    z = latent(2, DIM, 3, 5)
    found = rows_of(z)
    assert found.shape == (2 * 3 * 5, DIM)
    assert torch.equal(found[1 * 15 + 2 * 5 + 4], z[1, :, 2, 4])
    assert torch.equal(latent_of(found, z), z)


# ema


@pytest.mark.parametrize("initial_size", [0, 1])
def test_ema_follows_the_formula_and_a_pass_returns_the_codes_before_it(initial_size: int) -> None:
    quantizer = fresh(EMA, num_codes=5, decay=0.9, epsilon=1e-3, initial_size=initial_size)
    codes = latent(5, DIM, seed=3)
    set_codes(quantizer, codes)
    sizes, sums = [float(initial_size)] * 5, [code.double() for code in codes]
    now = codes.double()
    for step in range(4):
        z = latent(2, DIM, 2, 3, seed=10 + step)
        out = quantizer(z)
        torch.testing.assert_close(out.vectors[0], now.float())
        index = torch.cdist(rows(z).double(), now).argmin(1)
        assert torch.equal(out.indices.flatten(), index)
        torch.testing.assert_close(out.z_q, as_grid(now.float()[index], z))
        for k in range(5):
            own = rows(z)[index == k].double()
            sizes[k] = 0.9 * sizes[k] + 0.1 * len(own)
            sums[k] = 0.9 * sums[k] + 0.1 * own.sum(0)
        total = sum(sizes)
        smoothed = [(size + 1e-3) / (total + 5 * 1e-3) * total for size in sizes]
        now = torch.stack([s / n for s, n in zip(sums, smoothed, strict=True)])
    torch.testing.assert_close(quantizer.get_buffer("codes"), now.float())
    torch.testing.assert_close(quantizer.get_buffer("cluster_sizes"), torch.tensor(sizes))


def as_grid(values: Tensor, like: Tensor) -> Tensor:
    b, d, h, w = like.shape
    return values.view(b, h, w, d).permute(0, 3, 1, 2)


def test_ema_starts_from_latents_each_as_if_used_once() -> None:
    quantizer = fresh(EMA, init="data")
    z = latent(2, DIM, 4, 4)
    quantizer.initialise(z)
    codes = quantizer.get_buffer("codes")
    assert all((rows(z) == code).all(1).any() for code in codes)
    assert torch.equal(quantizer.get_buffer("sums"), codes)
    assert (quantizer.get_buffer("cluster_sizes") == 1).all()


def test_ema_throws_unused_codes_out_where_sizes_start_at_0_and_leaves_them_where_at_1() -> None:
    codes = torch.eye(DIM)[:3]
    z = as_latent(codes[:1].repeat(10, 1))  # all latents are code 0
    for initial_size in (0, 1):
        quantizer = fresh(EMA, num_codes=3, initial_size=initial_size)
        set_codes(quantizer, codes)
        away = []
        for _ in range(3):
            quantizer(z)
            away.append(float(quantizer.get_buffer("codes")[1].norm()))
        # e = m (N + K epsilon) / (N epsilon) with m = .99^t and N = 10 (1 - .99^t), and m / (N_k + epsilon) = 1.
        far = [0.99**t * (1 / 1e-5 + 3 / (10 * (1 - 0.99**t))) for t in (1, 2, 3)]
        assert away == pytest.approx(far if initial_size == 0 else [1.0] * 3, rel=1e-3)


@pytest.mark.parametrize(("initial_size", "used"), [(0, 2), (1, 1)])
def test_ema_codes_that_were_thrown_out_come_back_into_use(initial_size: int, used: int) -> None:
    quantizer = fresh(EMA, num_codes=2, decay=0.7, initial_size=initial_size)
    set_codes(quantizer, torch.tensor([1.5, 0.01])[:, None] * torch.eye(DIM)[:1])
    z = as_latent(torch.tensor([1.4, 3.0])[:, None] * torch.eye(DIM)[:1])  # both nearer to the first code
    for _ in range(40):
        quantizer(z)
    assert len(quantizer.eval()(z).indices.unique()) == used


def test_ema_codes_kept_for_eval_follow_an_update() -> None:
    quantizer = fresh(EMA).eval()
    z = latent(2, DIM, 4, 4)
    with torch.no_grad():
        before = quantizer(z).z_q
        quantizer.train()(z)
        after = quantizer.eval()(z)
    assert not torch.equal(before, after.z_q)
    assert torch.equal(after.vectors[0], quantizer.get_buffer("codes"))


def test_ema_revives_dead_codes_from_the_batch_every_so_many_passes() -> None:
    far = torch.full((4, DIM), 1e3) * torch.arange(1, 5)[:, None]
    far[0] = 0
    quantizer = fresh(EMA, num_codes=4, decay=0.5, restart={"threshold": 0.3, "every": 2})
    set_codes(quantizer, far)
    z = latent(1, DIM, 3, 3)  # near code 0: the other three are not used
    quantizer(z)
    assert (quantizer.get_buffer("cluster_sizes")[1:] == 0.5).all()
    kept = quantizer.get_buffer("codes").clone()
    quantizer(z)  # 0.25 < 0.3, and the second pass
    codes, sizes = quantizer.get_buffer("codes"), quantizer.get_buffer("cluster_sizes")
    drawn = [(rows(z) == code).all(1).nonzero().flatten().tolist() for code in codes[1:]]
    assert all(len(found) == 1 for found in drawn)
    assert len({found[0] for found in drawn}) == 3  # three different latents
    assert torch.equal(sizes[1:], torch.ones(3))
    assert torch.equal(quantizer.get_buffer("sums")[1:], codes[1:])
    torch.testing.assert_close(sizes[0], torch.tensor(0.25 + 9 * 0.75))
    assert not torch.equal(codes[0], kept[0])
    assert not (rows(z) == codes[0]).all(1).any()  # the one in use follows the mean


def test_ema_leaves_codes_alone_that_are_used_and_draws_more_than_there_are_latents() -> None:
    quantizer = fresh(EMA, num_codes=2, restart={"threshold": 0.3, "every": 1})
    set_codes(quantizer, torch.stack([torch.zeros(DIM), torch.ones(DIM)]))
    plain = fresh(EMA, num_codes=2)
    plain.load_state_dict(quantizer.state_dict())
    z = as_latent(torch.stack([torch.zeros(DIM) + 0.1, torch.ones(DIM)]))
    quantizer(z)
    plain(z)
    assert torch.equal(plain.get_buffer("codes"), quantizer.get_buffer("codes"))
    many = fresh(EMA, num_codes=64, decay=0.0, restart={"threshold": 0.5, "every": 1})
    many(as_latent(latent(3, DIM)))
    assert many.get_buffer("codes").isfinite().all()
    assert len(many.get_buffer("codes").unique(dim=0)) == 64


# fc


def test_fc_searches_by_cosine_on_the_sphere() -> None:
    quantizer = fresh(FC, num_codes=33)
    set_codes(quantizer, latent(33, DIM, seed=3) * torch.arange(1, 34)[:, None])
    z = latent(2, DIM, 3, 5) * 7
    out = quantizer(z)
    codes = quantizer.state_dict()["codes"].double()
    cosine = torch.nn.functional.cosine_similarity(rows(z).double()[:, None], codes[None], dim=-1)
    assert torch.equal(out.indices.flatten(), cosine.argmax(1))
    torch.testing.assert_close(out.z_q.norm(dim=1), torch.ones(2, 3, 5))
    torch.testing.assert_close(
        rows(out.z_q.detach()).double(),
        codes[cosine.argmax(1)] / codes[cosine.argmax(1)].norm(dim=1, keepdim=True),
        rtol=0,
        atol=1e-6,
    )
    closest = cosine.amax(1)
    torch.testing.assert_close(out.terms["commitment"].double(), (2 - 2 * closest).mean() / DIM)
    torch.testing.assert_close(quantizer.codebooks()[0].vectors.norm(dim=1), torch.ones(33))


@pytest.mark.parametrize("init", ["uniform", "data"])
def test_fc_starts_on_the_sphere(init: str) -> None:
    quantizer = fresh(FC, init=init)
    quantizer.initialise(latent(2, DIM, 4, 4) * 30)
    torch.testing.assert_close(quantizer.state_dict()["codes"].norm(dim=1), torch.ones(16))


def test_fc_takes_a_latent_of_zeros() -> None:
    quantizer = fresh(FC)
    z = torch.zeros(1, DIM, 2, 2, requires_grad=True)
    out = quantizer(z)
    (out.loss + out.z_q.sum()).backward()
    assert z.grad is not None
    assert out.loss.isfinite()
    assert z.grad.isfinite().all()


def test_fc_of_vqgan_lc_is_plain_vq_with_a_third_on_the_codebook_term() -> None:
    quantizer = fresh(FC, num_codes=33, normalise=False, beta=0.33, beta_on="codebook")
    codes = quantizer.get_parameter("codes")
    assert 0.9 / 33 < codes.abs().max().item() <= 1 / 33
    z = (latent(2, DIM, 3, 5) * 0.1).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    wide, latents = codes.detach().double().requires_grad_(), rows(z.detach()).double().requires_grad_()
    index = torch.cdist(latents, wide).argmin(1)
    loss = (wide[index].detach() - latents).square().mean()
    loss = loss + 0.33 * (wide[index] - latents.detach()).square().mean()
    loss.backward()
    assert torch.equal(out.indices.flatten(), index)
    torch.testing.assert_close(rows(out.z_q.detach()), codes.detach()[index], rtol=0, atol=0)
    torch.testing.assert_close(out.loss.double(), loss)
    assert z.grad is not None
    assert codes.grad is not None
    torch.testing.assert_close(rows(z.grad).double(), latents.grad)
    torch.testing.assert_close(codes.grad.double(), wide.grad)


# reg_vq


def test_reg_vq_takes_the_nearest_code_but_at_masked_positions() -> None:
    z = latent(4, DIM, 20, 20)
    hot = {"kind": "constant", "value": 1e6}  # sampled codes are then as good as uniform
    nearest = fresh(REG_VQ, stochastic_share=0.0, temperature=hot)(z).indices
    quantizer = fresh(REG_VQ, stochastic_share=0.25, temperature=hot)
    sampled = quantizer(z).indices
    differ = (sampled != nearest).float().mean().item()
    assert differ == pytest.approx(0.25 * 15 / 16, abs=0.04)
    assert torch.equal(quantizer.eval()(z).indices, nearest)
    counts = torch.bincount(sampled[sampled != nearest], minlength=16).float()
    assert counts.min() > 0.5 * counts.mean()


def test_reg_vq_samples_by_likelihood_at_the_temperature_of_the_time() -> None:
    cooling = {"kind": "cosine", "start": 2.0, "end": 0.5}
    quantizer = fresh(REG_VQ, num_codes=3, stochastic_share=1.0, temperature=cooling)
    codes = torch.eye(DIM)[:3] * torch.tensor([0.3, 0.6, 1.0])[:, None]
    set_codes(quantizer, codes)
    z = torch.zeros(1, DIM, 60, 60)
    for progress, temperature in ((0.0, 2.0), (1.0, 0.5)):
        share = torch.bincount(quantizer(z, progress).indices.flatten(), minlength=3) / 3600
        expected = (-codes.square().sum(1) / temperature).softmax(0)
        torch.testing.assert_close(share, expected, rtol=0, atol=0.04)


def test_reg_vq_divergence_is_zero_for_even_use_and_finite_for_codes_out_of_reach() -> None:
    quantizer = fresh(REG_VQ, num_codes=4, stochastic_share=0.0)
    set_codes(quantizer, 5 * torch.eye(DIM)[:4])
    even = quantizer(as_latent(5 * torch.eye(DIM)[:4]))
    assert even.terms["prior"].item() == pytest.approx(0, abs=1e-4)
    z = as_latent(torch.zeros(3, DIM) + 0.1)
    set_codes(quantizer, torch.tensor([0.0, 1e3, 2e3, 3e3])[:, None].expand(4, DIM))
    out = quantizer(z)
    far = [(value - 0.1) ** 2 * DIM / 0.5 for value in (0.0, 1e3, 2e3, 3e3)]
    expected = -math.log(4) + (sum(far) - 4 * far[0]) / 4
    assert out.terms["prior"].item() == pytest.approx(expected, rel=1e-4)
    out.loss.backward()
    grad = quantizer.get_parameter("codes").grad
    assert grad is not None
    assert grad.isfinite().all()
    assert (grad[1:] > 0).all()  # out of reach as they are, descent draws them nearer


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_reg_vq_by_the_paper_is_the_divergence_of_the_choices_with_the_gradient_of_the_softmax(
    share: float,
) -> None:
    quantizer = fresh(REG_VQ, num_codes=40, stochastic_share=share, divergence="paper", prior_weight=1.0)
    plain = fresh(REG_VQ, num_codes=40, prior_weight=0.0)
    codes, z = latent(40, DIM, seed=3), latent(2, DIM, 3, 5).requires_grad_()
    set_codes(quantizer, codes)
    set_codes(plain, codes)
    out = quantizer(z, 1.0)
    out.loss.backward()
    wide, latents = codes.double().requires_grad_(), rows(z.detach()).double().requires_grad_()
    soft_choice = (-torch.cdist(latents, wide).square() / 0.5).softmax(1)
    onehot = torch.nn.functional.one_hot(out.indices.flatten(), 40).double()
    p = (onehot + soft_choice - soft_choice.detach()).mean(0)
    prior = (p * (40 * (p + 1e-10)).log()).sum()
    assert 0 < prior.item() < math.log(40)
    torch.testing.assert_close(out.terms["prior"].double(), prior)
    commitment = (wide[out.indices.flatten()].detach() - latents).square().mean()
    codebook = (wide[out.indices.flatten()] - latents.detach()).square().mean()
    (prior + codebook + 0.25 * commitment).backward()
    grad = quantizer.get_parameter("codes").grad
    assert grad is not None
    assert z.grad is not None
    torch.testing.assert_close(grad.double(), wide.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(rows(z.grad).double(), latents.grad, rtol=1e-3, atol=1e-5)
    assert grad.abs().amax(1).gt(0).all()  # codes that no position chose, too


@pytest.mark.parametrize("divergence", ["reverse", "paper"])
def test_reg_vq_in_tiles_is_the_same(divergence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z = latent(2, DIM, 8, 8)
    whole = fresh(REG_VQ, stochastic_share=0.0, divergence=divergence)
    out = whole(z)
    out.loss.backward()
    monkeypatch.setitem(soft.TILE, "cpu", 16 * 10)
    tiled = fresh(REG_VQ, stochastic_share=0.0, divergence=divergence)
    again = tiled(z)
    again.loss.backward()
    torch.testing.assert_close(out.loss, again.loss)
    torch.testing.assert_close(whole.get_parameter("codes").grad, tiled.get_parameter("codes").grad)


# sim_vq


def test_sim_vq_moves_all_codes_together() -> None:
    quantizer = fresh(SIM_VQ, num_codes=64)
    frozen, before = quantizer.get_buffer("frozen").clone(), quantizer.codebooks()[0].vectors
    assert frozen.std().item() == pytest.approx(DIM**-0.5, rel=0.1)
    weight = quantizer.get_parameter("map.weight")
    torch.testing.assert_close(before, frozen @ weight.T)
    optimiser = torch.optim.SGD(quantizer.parameters(), lr=1.0)
    out = quantizer(latent(1, DIM, 1, 1))  # a single latent uses a single code
    out.loss.backward()
    optimiser.step()
    assert torch.equal(frozen, quantizer.get_buffer("frozen"))
    assert (quantizer.codebooks()[0].vectors != before).any(1).all()


def test_sim_vq_starts_where_the_latents_lie() -> None:
    quantizer = fresh(SIM_VQ, num_codes=64, bias=True, init="data")
    z = latent(8, DIM, 6, 6) * torch.arange(1, 9).view(1, -1, 1, 1) + 5
    codes = quantizer(z).vectors[0]
    torch.testing.assert_close(codes.mean(0), rows(z).mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(codes.T.cov(correction=0), rows(z).T.cov(correction=0), atol=2e-2, rtol=1e-3)


def test_sim_vq_refuses_a_start_from_data_without_a_bias() -> None:
    with pytest.raises(ParamsError, match="needs bias: true"):
        fresh(SIM_VQ, bias=False, init="data")
    assert "map.bias" in fresh(SIM_VQ, bias=True).state_dict()


# what they are for


@pytest.mark.parametrize(
    ("params", "least", "most"),
    [
        (VQ, 1, 4),
        ({**CVQ, "anchor": "probrandom", "distance": "cosine"}, 24, 32),
        ({**CVQ, "anchor": "random", "contrastive": CONTRASTIVE}, 24, 32),
        ({**EMA, "decay": 0.9, "restart": {"threshold": 0.5, "every": 5}}, 24, 32),
    ],
    ids=["vq", "cvq-probrandom", "cvq-random-contrastive", "ema-restart"],
)
def test_codes_far_from_the_latents_come_into_use(params: dict[str, Any], least: int, most: int) -> None:
    quantizer = fresh(params, num_codes=32)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(())), *quantizer.parameters()], lr=0.1)
    centres = 4 * latent(32, DIM) + 10
    for step in range(40):
        z = as_latent(centres.repeat(4, 1) + 0.1 * latent(128, DIM, seed=step))
        optimiser.zero_grad()
        quantizer(z).loss.backward() if list(quantizer.parameters()) else quantizer(z)
        optimiser.step()
    assert least <= len(quantizer.eval()(z).indices.unique()) <= most


# cvq


@pytest.mark.parametrize("anchor", ["closest", "probrandom", "random"])
def test_cvq_moves_codes_by_how_little_they_are_used(anchor: str) -> None:
    # One code is used by all latents, the others by none and far away: they move nearly the whole way to an anchor.
    quantizer = fresh(CVQ, num_codes=4, anchor=anchor)
    codes = 40.0 * torch.eye(DIM)[:4]
    codes[0] = 0
    set_codes(quantizer, codes)
    latents = torch.cat([latent(9, DIM), 13 * torch.eye(DIM)[1:4]])
    out = quantizer(as_latent(latents))
    assert not out.indices.any()
    usage = torch.tensor([0.01, 0, 0, 0])
    torch.testing.assert_close(quantizer.get_buffer("usage"), usage)
    alpha = torch.exp(-10 * usage * 4 / 0.01 - 1e-3)
    moved = quantizer.state_dict()["codes"]
    anchors = (moved - (1 - alpha[:, None]) * codes) / alpha[:, None].clamp_min(1e-12)
    torch.testing.assert_close(moved[0], codes[0], rtol=0, atol=1e-12)  # exp(-40) of the way
    chosen = torch.cdist(anchors[1:], latents)
    assert (chosen.amin(1) < 1e-3).all()
    if anchor == "random":
        assert len(chosen.argmin(1).unique()) == 3
    else:  # the latent on its own axis is by far the nearest
        assert chosen.argmin(1).tolist() == [9, 10, 11]


def test_cvq_usage_is_a_running_mean_of_the_shares() -> None:
    quantizer = fresh(CVQ, num_codes=6, decay=0.8)
    expected = torch.zeros(6, dtype=torch.float64)
    for step in range(5):
        out = quantizer(latent(2, DIM, 3, 3, seed=step))
        share = torch.bincount(out.indices.flatten(), minlength=6).double() / 18
        expected = 0.8 * expected + 0.2 * share
    torch.testing.assert_close(quantizer.get_buffer("usage").double(), expected, rtol=1e-5, atol=1e-7)
    before = quantizer.state_dict()["codes"].clone()
    quantizer.eval()(latent(2, DIM, 3, 3))
    assert torch.equal(before, quantizer.state_dict()["codes"])
    torch.testing.assert_close(quantizer.get_buffer("usage").double(), expected, rtol=1e-5, atol=1e-7)


def test_cvq_moves_codes_in_between_part_of_the_way() -> None:
    quantizer = fresh(CVQ, num_codes=6)
    codes = latent(6, DIM, seed=3) + 2 * torch.tensor([0, 1, 1, 1, 1, 1.0])[:, None]
    set_codes(quantizer, codes)
    latents = torch.cat([latent(60, DIM) / 2, codes[3:4] + 0.1])
    out = quantizer(as_latent(latents))
    share = torch.bincount(out.indices.flatten(), minlength=6) / 61
    alpha = torch.exp(-10 * share * 6 - 1e-3)[:, None]
    assert ((alpha > 0.1) & (alpha < 0.9)).any()
    anchors = latents[torch.cdist(codes, latents).argmin(1)]
    torch.testing.assert_close(quantizer.state_dict()["codes"], (1 - alpha) * codes + alpha * anchors)


def test_cvq_draws_anchors_by_their_likelihood() -> None:
    quantizer = fresh(CVQ, num_codes=4000, anchor="probrandom")
    assert isinstance(quantizer, cvq.OnlineClusteredQuantizer)
    set_codes(quantizer, torch.zeros(4000, DIM))
    latents = torch.eye(DIM)[:3] * torch.tensor([0.0, 0.5, 1.0])[:, None]
    drawn = quantizer._anchors(latents)
    share = torch.bincount(drawn, minlength=3) / 4000
    expected = torch.tensor([0.0, -0.25, -1.0]).softmax(0)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.04)


def test_cvq_as_lg_vq_and_vqct_run_it() -> None:
    # Euclidean, anchors drawn by likelihood, codes uniform in +-1/K, contrastive term of weight 1 and temperature .07.
    quantizer = fresh(
        CVQ, num_codes=12, anchor="probrandom", contrastive={"weight": 1.0, "temperature": 0.07}
    )
    before, z = quantizer.get_parameter("codes").detach().clone(), latent(2, DIM, 3, 5)
    assert 0.9 / 12 < before.abs().max().item() <= 1 / 12
    out = quantizer(z)
    out.loss.backward()
    codes, latents = before.double().requires_grad_(), rows(z).double()
    scores = -torch.cdist(latents, codes).square()  # (30, 12)
    index = scores.argmax(1)
    ordered = scores.sort(0).values
    logits = torch.cat([ordered[-2:].mean(0, keepdim=True), ordered[:15]]).T / 0.07  # 30 // 12 and 30 // 2
    contrastive = torch.nn.functional.cross_entropy(logits, torch.zeros(12, dtype=torch.int64))
    loss = 0.25 * (codes[index].detach() - latents).square().mean()
    loss = loss + (codes[index] - latents).square().mean() + contrastive
    loss.backward()
    assert torch.equal(out.indices.flatten(), index)
    torch.testing.assert_close(out.loss.double(), loss, rtol=1e-5, atol=1e-5)
    grad = quantizer.get_parameter("codes").grad
    assert grad is not None
    torch.testing.assert_close(grad.double(), codes.grad, rtol=1e-4, atol=1e-4)
    usage = 0.01 * torch.bincount(index, minlength=12) / 30
    alpha = torch.exp(-usage * 12 * 10 / 0.01 - 1e-3)[:, None]
    anchors = (quantizer.get_parameter("codes").detach() - (1 - alpha) * before) / alpha
    dead = usage == 0
    assert dead.any()
    assert torch.cdist(anchors[dead], rows(z)).amin(1).max() < 2e-3


def test_cvq_by_cosine() -> None:
    quantizer = fresh(CVQ, num_codes=40, distance="cosine", contrastive={"weight": 1.0, "temperature": 0.3})
    z = latent(2, DIM, 3, 5) * latent(2, 1, 3, 5, seed=9).exp()
    codes = quantizer.state_dict()["codes"].double()
    out = quantizer(z)
    cosine = torch.cosine_similarity(rows(z).double()[:, None], codes[None], dim=-1)
    assert torch.equal(out.indices.flatten(), cosine.argmax(1))
    logits = torch.cat([cosine.amax(0, keepdim=True), cosine.sort(0).values[:15]]) / 0.3
    torch.testing.assert_close(out.terms["contrastive"].double(), -logits.log_softmax(0)[0].mean())
    unused = torch.tensor([k for k in range(40) if k not in out.indices])
    assert len(unused) > 0
    alpha = math.exp(-1e-3)
    expected = (1 - alpha) * codes + alpha * rows(z).double()[cosine.argmax(0)]
    torch.testing.assert_close(quantizer.state_dict()["codes"].double()[unused], expected[unused])


def test_cvq_draws_each_latent_as_rarely_as_can_be() -> None:
    quantizer = fresh(CVQ, num_codes=25, anchor="random")
    assert isinstance(quantizer, cvq.OnlineClusteredQuantizer)
    drawn = quantizer._anchors(latent(10, DIM))
    assert sorted(torch.bincount(drawn, minlength=10).tolist()) == [2] * 5 + [3] * 5


def test_cvq_in_tiles_is_the_same_and_holds_no_more_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, latents = latent(50, DIM, seed=3), latent(300, DIM, seed=4)
    config = validate(CONTRASTIVE, "contrastive", ContrastiveParams)

    def run() -> tuple[Tensor, Tensor]:
        live = codes.clone().requires_grad_()
        loss = cvq.contrastive_loss(live, latents, config, "euclidean")
        loss.backward()
        assert live.grad is not None
        return loss.detach(), live.grad

    whole = run()
    made: list[int] = []

    def recorded(part: Tensor, all_latents: Tensor, metric: Any) -> Tensor:
        scores = plain(part, all_latents, metric)
        made.append(scores.numel())
        return scores

    plain = cvq.similarities
    monkeypatch.setattr(cvq, "similarities", recorded)
    monkeypatch.setitem(soft.TILE, "cpu", 2000)
    tiled = run()
    torch.testing.assert_close(whole, tiled)
    assert max(made) <= 2000
    made.clear()
    quantizer = fresh(CVQ, num_codes=50, anchor="probrandom")
    quantizer(as_latent(latents))
    assert sum(made) == 50 * 300
    assert max(made) <= 2000
