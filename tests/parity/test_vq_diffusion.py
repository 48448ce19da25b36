"""Equality with the numbers recorded from microsoft/VQ-Diffusion (tests/data/README.md), where it has a counterpart.

Recorded distributions are logs of shape (images, codes and mask, positions). Impossible outcomes are not -inf there but
-69, and where a posterior divides them -53: they are compared as probabilities, above 1e-20. The recorded draws are by
Gumbel noise, ours are not: with the recorded noise our distributions give the recorded draws.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_priors import shared
from vqpipe.params.base import validate
from vqpipe.priors.contract import ImageSpace
from vqpipe.priors.discrete import DrawnTimes, Step, Transitions, logs
from vqpipe.priors.sampling import TokenSampling, probabilities
from vqpipe.priors.vq_diffusion import VQDiffusion, VQDiffusionParams, guided_logs, jumps, predicted_logs

FILES = sorted((Path(__file__).parents[1] / "data/parity").glob("vq_diffusion_*.npz"))
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "suffix", "rtol"),
    [pytest.param(torch.float32, "", 1e-5, id="f32"), pytest.param(torch.float64, "_f64", 1e-6, id="f64")],
)
SETS = pytest.mark.parametrize("own", ["s0", "s1", "s2"])


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    with np.load(request.param, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def chain(recorded: dict[str, Any]) -> Transitions:
    return Transitions(int(recorded["K"]), int(recorded["T"]))


def rows(array: Tensor) -> Tensor:
    """(b, k, n) or (b, n) to rows of positions."""
    return array.flatten() if array.ndim == 2 else array.transpose(1, 2).flatten(0, 1)


def per_row(time: Tensor, like: Tensor) -> Tensor:
    return time.repeat_interleave(like.shape[-1])


def close(found: Tensor, expected: Tensor, rtol: float) -> None:
    """Equal as probabilities, but for what is impossible."""
    torch.testing.assert_close(found.exp(), expected.to(found.dtype).exp(), rtol=rtol, atol=1e-20)


def reached(step: Step, codes: Tensor, num_codes: int) -> Tensor:
    """Log-probabilities of all states after a step from codes or masks: what the three numbers of a step mean."""
    probs = step.uniform[:, None].expand(-1, num_codes).clone()
    masked = codes == num_codes
    probs.scatter_add_(1, codes.clamp_max(num_codes - 1)[:, None], step.keep[:, None])
    whole = torch.cat(
        [probs.masked_fill(masked[:, None], 0.0), step.mask.where(~masked, 1.0)[:, None]], dim=1
    )
    return logs(whole)


def both(parts: tuple[Tensor, Tensor]) -> Tensor:
    return logs(torch.cat([parts[0], parts[1][:, None]], dim=1))


def gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform + 1e-30) + 1e-30)


def test_there_are_recorded_numbers() -> None:
    assert len(FILES) >= 2


def test_the_schedule(recorded: dict[str, Any]) -> None:
    own, times = chain(recorded), torch.arange(int(recorded["T"]))
    image = torch.full_like(times, -1)
    for name, step in (("cum", own.between(image, times)), ("step", own.between(times - 1, times))):
        for part, found in zip(("keep", "uniform", "mask"), step, strict=True):
            expected = recorded[f"{name}_{part}"][: len(times)]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    for name, short in (("keep", "at"), ("uniform", "bt"), ("mask", "ct")):
        close(
            getattr(own.between(image, times), name).log().float(),
            recorded[f"buf/log_cumprod_{short}"][:-1],
            1e-5,
        )
        close(getattr(own.between(times - 1, times), name).log().float(), recorded[f"buf/log_{short}"], 1e-5)


@SETS
@PRECISIONS
def test_the_distributions_of_a_noised_image(
    recorded: dict[str, Any], own: str, dtype: torch.dtype, suffix: str, rtol: float
) -> None:
    transitions, num_codes = chain(recorded), int(recorded["K"])
    x0, before = rows(recorded["x0"]), rows(recorded[f"{own}/x_tm1"])
    time = per_row(recorded[f"{own}/t"], recorded["x0"])
    image = torch.full_like(time, -1)
    expected = [
        (transitions.between(image, time), x0, f"q_xt_given_x0_logp{suffix}"),
        (transitions.between(time - 1, time), before, f"q_xt_given_xtm1_logp{suffix}"),
        (transitions.between(image, time - 1), x0, "q_xtm1_given_x0_logp"),
    ]
    for step, codes, name in expected:
        wanted = rows(recorded[f"{own}/{name}"])
        found = reached(step, codes, num_codes).to(wanted.dtype)
        # From the mask the recorded step gives codes what it gives them from another code; its posterior does not.
        compared = (codes < num_codes)[:, None] | (torch.arange(num_codes + 1) == num_codes)
        close(found[compared], wanted[compared], rtol if wanted.dtype == dtype else 1e-5)


@SETS
@PRECISIONS
def test_the_posteriors(
    recorded: dict[str, Any], own: str, dtype: torch.dtype, suffix: str, rtol: float
) -> None:
    transitions, num_codes = chain(recorded), int(recorded["K"])
    time = per_row(recorded[f"{own}/t"], recorded["x0"])
    tokens = rows(recorded[f"{own}/x_t"])
    true = nn.functional.one_hot(rows(recorded["x0"]), num_codes).to(dtype)
    found = both(transitions.posterior(true, tokens, time, time - 1))
    close(found, rows(recorded[f"{own}/posterior_logp{suffix}"]), rtol)

    logits = rows(recorded["recon_logits"]).to(dtype)
    log_predicted = predicted_logs(logits)
    close(log_predicted.float(), rows(recorded[f"{own}/recon_logp"])[:, :-1], 1e-5)
    found = both(transitions.posterior(log_predicted.exp(), tokens, time, time - 1))
    close(found, rows(recorded[f"{own}/model_posterior_logp{suffix}"]), rtol)


@SETS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_terms_of_the_loss(recorded: dict[str, Any], own: str, dtype: torch.dtype) -> None:
    transitions = chain(recorded)
    codes, tokens = rows(recorded["x0"]), rows(recorded[f"{own}/x_t"])
    time = per_row(recorded[f"{own}/t"], recorded["x0"])
    log_predicted = predicted_logs(rows(recorded["recon_logits"]).to(dtype))
    found = transitions.divergence(log_predicted, codes, tokens, time)
    kl, nll = (rows(recorded[f"{own}/{name}_per_position"]).to(dtype) for name in ("kl", "decoder_nll"))
    torch.testing.assert_close(found, torch.where(time == 0, nll, kl), rtol=1e-5, atol=1e-6)
    auxiliary = -log_predicted.gather(1, codes[:, None])[:, 0]
    expected = rows(recorded[f"{own}/kl_aux_per_position"]).to(dtype)
    torch.testing.assert_close(auxiliary, expected, rtol=1e-5, atol=1e-6)


class Table(nn.Module):
    """A network whose prediction is a table of logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        num_codes = logits.shape[-1]
        self.heads = nn.ModuleList([nn.Linear(num_codes, num_codes)]).to(logits.dtype)
        nn.init.eye_(self.heads[0].weight)
        nn.init.zeros_(self.heads[0].bias)

    def features(self, tokens: Tensor, time: Tensor) -> Tensor:
        return self.logits


def diffusion(recorded: dict[str, Any], logits: Tensor, **changes: Any) -> VQDiffusion:
    content = {
        **shared(), **VQDiffusion.example(), "kind": "vq_diffusion", "condition": "none", "condition_drop": 0.0,
        "num_times": int(recorded["T"]), **changes,
    }  # fmt: skip
    config = validate(content, "prior", VQDiffusionParams)
    made = VQDiffusion(config, ImageSpace((int(recorded["K"]),), (2, logits.shape[1] // 2)))
    made.denoiser = Table(logits)  # type: ignore[assignment]
    return made


CASES: dict[str, dict[str, Any]] = {
    "plain": {"auxiliary_weight": 0.0, "adaptive_auxiliary": False},
    "aux": {"auxiliary_weight": 5e-4, "adaptive_auxiliary": False},
    "aux_adaptive": {"auxiliary_weight": 5e-4, "adaptive_auxiliary": True},
    "aux_adaptive_maskw": {"auxiliary_weight": 0.01, "adaptive_auxiliary": True, "mask_weight": [1.0, 0.3]},
}


@SETS
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_and_its_history(recorded: dict[str, Any], own: str, case: str, dtype: torch.dtype) -> None:
    prior = diffusion(recorded, recorded["recon_logits"].transpose(1, 2).to(dtype), **CASES[case])
    codes, tokens = recorded["x0"][:, None], recorded[f"{own}/x_t"][:, None]
    time, chance = recorded[f"{own}/t"], recorded[f"{own}/pt"].to(dtype)
    per_image, bound = prior.losses(codes, tokens, time, chance, {})
    expected = recorded[f"{own}/loss/{case}/per_sample"].to(dtype)
    torch.testing.assert_close(per_image, expected, rtol=1e-5, atol=0)
    total = recorded[f"{own}/loss/{case}/total"].to(dtype)
    torch.testing.assert_close(per_image.mean() / codes.shape[-1], total, rtol=1e-5, atol=0)

    times = prior.times
    assert times is not None
    times.history.copy_(recorded[f"{own}/loss/{case}/history_before"])
    times.record(time, bound)
    expected = recorded[f"{own}/loss/{case}/history_after"]
    torch.testing.assert_close(times.history, expected, rtol=1e-5, atol=0)
    assert torch.equal(times.visits.float(), recorded[f"{own}/loss/{case}/count_after"])


def test_the_probabilities_of_times(recorded: dict[str, Any]) -> None:
    times = DrawnTimes(int(recorded["T"]))
    torch.testing.assert_close(
        times.probabilities()[: len(recorded["imp_not_ready/pt"])], recorded["imp_not_ready/pt"]
    )
    for own in ("imp0", "imp1"):
        times.history.copy_(recorded[f"{own}/history"])
        times.visits.fill_(11)
        times.visits[0] = 10
        assert torch.equal(times.probabilities(), torch.full_like(times.history, 1 / len(times.history)))
        times.visits[0] = 11
        torch.testing.assert_close(times.probabilities(), recorded[f"{own}/p_all"], rtol=1e-5, atol=0)
        torch.testing.assert_close(
            times.probabilities()[recorded[f"{own}/t"]], recorded[f"{own}/pt"], rtol=1e-5, atol=0
        )


@SETS
def test_the_recorded_noise_gives_the_recorded_codes(recorded: dict[str, Any], own: str) -> None:
    time = per_row(recorded[f"{own}/t"], recorded["x0"])
    step = chain(recorded).between(torch.full_like(time, -1), time)
    log_probs = reached(step, rows(recorded["x0"]), int(recorded["K"]))
    noise = gumbel(rows(recorded[f"{own}/gumbel_uniform"]))
    assert torch.equal((log_probs + noise).argmax(1), rows(recorded[f"{own}/gumbel_x_t"]))


def skips(recorded: dict[str, Any]) -> list[int]:
    return sorted({int(found[1]) for name in recorded if (found := re.match(r"fast_skip(\d+)/", name))})


def test_sampling_with_fewer_steps(recorded: dict[str, Any]) -> None:
    transitions, num_codes = chain(recorded), int(recorded["K"])
    assert skips(recorded) == [1, 2]
    for skip in skips(recorded):
        run = {name.split("/")[1]: a for name, a in recorded.items() if name.startswith(f"fast_skip{skip}/")}
        passes = jumps(int(recorded["T"]), skip, "last")
        assert [time for time, _, _ in passes] == run["t_model"].tolist()
        assert [last for _, last, _ in passes] == run["t_posterior"].tolist()
        assert [before for _, _, before in passes] == [last - 1 for _, last, _ in passes]
        tokens = torch.full_like(run["x_t"][0], num_codes)
        for at, (_, last, before) in enumerate(passes[: int(run["n_recorded"])]):
            assert torch.equal(tokens, run["x_t"][at])
            predicted = rows(run["recon_logp"][at])[:, :-1].exp()
            flat = rows(tokens)
            own = (torch.full_like(flat, time) for time in (last, before))
            found = both(transitions.posterior(predicted, flat, *own))
            close(found, rows(run["posterior_logp"][at]), 1e-5)
            drawn = (found + gumbel(rows(run["uniform"][at]))).argmax(1)
            tokens = drawn.view(tokens.shape)
            assert torch.equal(tokens, run["x_next"][at])
        if int(run["n_recorded"]) == len(passes):
            assert torch.equal(tokens, run["final"])


def renormalised(log_probs: Tensor) -> Tensor:
    """What is kept of a truncated distribution, as ours is; the mask's row is never kept."""
    kept = rows(log_probs)[:, :-1].double()
    probs = kept.exp().masked_fill(kept < -69, 0.0)
    return probs / probs.sum(1, keepdim=True)


def truncation(top_k: int | None = None, top_p: float = 1.0) -> TokenSampling:
    return TokenSampling(guidance=1.0, temperature=1.0, top_k=top_k, top_p=top_p)


def test_truncation_keeps_the_same_codes(recorded: dict[str, Any]) -> None:
    log_probs = rows(recorded["trunc/logp"])[:, :-1]
    names = [name for name in recorded if name.startswith("trunc/top")]
    assert len(names) == 6
    for name in names:
        number = name.removeprefix("trunc/top")[:-1]
        config = truncation(top_p=float(number)) if name.endswith("r") else truncation(top_k=int(number))
        found, expected = probabilities(log_probs, config), renormalised(recorded[name])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)


def test_guidance_then_truncation(recorded: dict[str, Any]) -> None:
    conditional, null = (rows(recorded[f"guid/{name}_logits"]) for name in ("cond", "uncond"))
    names = [name for name in recorded if name.endswith("/truncated_logp")]
    assert len(names) == 3
    for name in names:
        found = re.fullmatch(r"guid/r([\d.]+)_s([\d.]+)/truncated_logp", name)
        assert found is not None
        top_p, scale = float(found[1]), float(found[2])
        guided = guided_logs(conditional, null, scale)
        expected = rows(recorded[name])[:, :-1]
        kept = probabilities(guided, truncation(top_p=top_p)) > 0
        assert torch.equal(kept, expected > -69)
        torch.testing.assert_close(guided[kept], expected[kept], rtol=1e-5, atol=1e-6)
