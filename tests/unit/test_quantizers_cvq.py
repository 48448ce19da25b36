"""The online clustered codebook against naive forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nearest import as_latent, fresh, latent, rows, set_codes
from tests.recipes import CONTRASTIVE, CVQ, DIM
from vqpipe.params.base import validate
from vqpipe.quantizers import cvq, soft
from vqpipe.quantizers.cvq import ContrastiveParams


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
