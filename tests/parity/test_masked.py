"""Orders, schedules, scores and whole runs of the masked prior against recorded numbers of Halton-MaskGIT and
1d-tokenizer (tests/data/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vqpipe.priors.orders import (
    ParallelSampling,
    choose,
    confidence,
    gumbel,
    halton_order,
    masked_share,
    num_masked,
    step_of,
)
from vqpipe.priors.sampling import guide

DATA = Path(__file__).parent.parent / "data" / "parity"
HALTON = dict(np.load(DATA / "halton.npz", allow_pickle=False))
MASKGIT = dict(np.load(DATA / "maskgit.npz", allow_pickle=False))


def sampling(**changes: Any) -> ParallelSampling:
    own: dict[str, Any] = {
        "guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0, "order": "confidence",
        "schedule": "arccos",
    }  # fmt: skip
    return ParallelSampling(**own | changes)


def names(recorded: dict[str, Any], part: str) -> list[str]:
    found = [name for name in recorded if part in name]
    assert found
    return found


def drawn_after(unknown: int, steps: int, **changes: Any) -> list[int]:
    """Positions that are drawn after each step."""
    own, drawn, counts = sampling(steps=steps, **changes), torch.tensor([0]), []
    for at in range(steps):
        drawn = step_of(at, torch.tensor([unknown]), drawn, own).drawn
        counts.append(int(drawn))
    return counts


def size_of(name: str) -> tuple[str, int, int]:
    """Schedule, steps and tokens from the name of a recorded schedule."""
    schedule, steps, tokens = name.split("_")[-3:]
    return schedule, int(steps.removeprefix("steps")), int(tokens.removeprefix("tokens"))


@pytest.mark.parametrize("name", names(HALTON, "order/"))
def test_the_halton_order_is_the_recorded_one(name: str) -> None:
    rows, columns = (int(side) for side in name.split("/")[1].split("x"))
    places = [divmod(place, columns) for place in halton_order((rows, columns))]
    assert np.array_equal(places, HALTON[name])


@pytest.mark.parametrize("name", names(HALTON, "cumulative"))
def test_halton_maskgit_draws_as_many_positions_at_each_step(name: str) -> None:
    side, steps = name.split("/")[1].split("_steps")
    counts = drawn_after(int(side.split("x")[0]) ** 2, int(steps))
    assert counts == HALTON[name].tolist()
    assert (
        np.diff(counts, prepend=0).tolist() == HALTON[name.replace("cumulative", "tokens_per_step")].tolist()
    )


@pytest.mark.parametrize("name", names(MASKGIT, "build_sequence"))
def test_its_sampler_by_confidence_counts_from_zero(name: str) -> None:
    schedule, steps, tokens = size_of(name.split("/")[-1])
    recorded = np.maximum(MASKGIT[name], np.arange(steps) + 1)  # what its sampler makes of the bare rule
    assert drawn_after(tokens, steps, schedule=schedule, counts="ends") == recorded.tolist()


@pytest.mark.parametrize("name", [*names(MASKGIT, "floor_rule"), *names(MASKGIT, "masked_before_step")])
def test_1d_tokenizer_leaves_as_many_positions_masked(name: str) -> None:
    schedule, steps, tokens = size_of(name.removesuffix("/masked_before_step"))
    left = MASKGIT[name][-steps:]
    left[-1] = 0  # the last step draws the rest, which the bare rule does not
    counts = drawn_after(tokens, steps, schedule=schedule, counts="floor")
    assert counts == (tokens - left).tolist()


@pytest.mark.parametrize("schedule", ["arccos", "cosine", "linear", "square", "root"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_training_masks_the_recorded_share(schedule: Any, dtype: torch.dtype, rtol: float) -> None:
    progress = torch.from_numpy(MASKGIT["train_ratio/r"])
    shares = torch.from_numpy(MASKGIT[f"train_ratio/tok1d_{schedule}"])
    torch.testing.assert_close(
        masked_share(schedule, progress.to(dtype)), shares.to(dtype), rtol=rtol, atol=0
    )
    counts = torch.from_numpy(MASKGIT[f"train_ratio/halton_repo_{schedule}_masked_of_1000_grid"])
    assert torch.equal(num_masked(schedule, progress, 1000), counts)


def masked_after(masked: Tensor, scores: Tensor, drawn: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    chosen = choose(scores, masked, drawn - before)
    return chosen, masked & ~chosen


TITOK = {
    "a": {"guidance": 1.0},
    "b": {"guidance": 4.0},
    "c": {"guidance": 3.0, "guidance_ramp": "linear"},
    "d": {"guidance": 2.5, "guidance_ramp": "power_cosine"},
}
"""The runs of 1d-tokenizer, whose guidance s is 1 + s here but in the power cosine."""


@pytest.mark.parametrize("run", TITOK)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_run_of_1d_tokenizer_is_repeated(run: str, dtype: torch.dtype) -> None:
    recorded = {
        name.split("/")[-1]: value for name, value in MASKGIT.items() if name.startswith(f"tok1d/run_{run}/")
    }
    steps, n, k = (int(recorded[name]) for name in ("steps", "n_tokens", "mask_id"))
    own = sampling(
        steps=steps, counts="floor", noise=float(recorded["randomize_temperature"]), draws="annealed",
        score="logit", **TITOK[run],
    )  # fmt: skip
    tokens, unknown, drawn = torch.full((2, n), k), torch.tensor([n, n]), torch.zeros(2, dtype=torch.int64)
    for at in range(steps):
        assert torch.equal(tokens, torch.from_numpy(recorded["ids_before_step"][at]))
        step = step_of(at, unknown, drawn, own)
        c, u = (torch.from_numpy(recorded[f"logits_{part}"][at]).to(dtype) for part in ("cond", "uncond"))
        logits = guide(c, u, step.guidance.to(dtype)[:, None, None])
        if recorded["softmax_annealing"]:
            logits = logits / (0.5 + 0.8 * (1 - (at + 1) / steps))
        noise = [
            gumbel(torch.from_numpy(recorded[name][at]).to(dtype)) for name in ("u_token", "u_confidence")
        ]
        codes = (logits + step.draw.to(dtype)[:, None, None] * noise[0]).argmax(-1)
        scores = confidence(logits.flatten(0, 1), codes.flatten(), own.score).view(2, n)
        chosen, _ = masked_after(
            tokens == k, scores + step.noise.to(dtype)[:, None] * noise[1], step.drawn, drawn
        )
        tokens, drawn = torch.where(chosen, codes, tokens), step.drawn
    assert torch.equal(tokens, torch.from_numpy(recorded["ids_final"]))


def test_the_halton_run_is_repeated() -> None:
    recorded = {name.split("/")[-1]: value for name, value in HALTON.items() if name.startswith("run/")}
    c, u = (torch.from_numpy(recorded[f"logits_{part}"]) for part in ("cond", "uncond"))
    power, steps, mask = (
        float(recorded["temp_pow"]), len(recorded["masks"]), int(recorded["mask_value"]),
    )  # fmt: skip
    own = sampling(
        steps=steps, order="halton", guidance=1 + float(recorded["w"]), temperature_last=1.3**-power,
        temperature_power=power, num_warm=int(recorded["temp_warmup"]),
    )  # fmt: skip
    order = torch.tensor(halton_order((8, 8)))
    scores = torch.zeros(1, 64).index_put((torch.zeros_like(order), order), -torch.arange(64.0))
    tokens, unknown, drawn = torch.full((1, 64), mask), torch.tensor([64]), torch.tensor([0])
    masked = tokens == mask  # which the reference's logits have a class for, so that it can also be drawn
    for at in range(steps):
        assert torch.equal(tokens, torch.from_numpy(recorded["codes_seen_by_model"][at]).view(1, 64))
        step = step_of(at, unknown, drawn, own)
        logits = guide(c, u, step.guidance[:, None, None]) / step.temperature[:, None, None]
        probs = logits.softmax(-1)
        # The reference's temperatures are float32 numbers.
        torch.testing.assert_close(
            probs[0], torch.from_numpy(recorded["probs_per_step"][at]), rtol=1e-5, atol=1e-8
        )
        chosen, masked = masked_after(masked, scores, step.drawn, drawn)
        assert torch.equal(chosen, torch.from_numpy(recorded["masks"][at]).view(1, 64))
        codes = probs.argmax(-1)
        assert torch.equal(codes, torch.from_numpy(recorded["argmax_code_per_step"][at]).view(1, 64))
        tokens, drawn = torch.where(chosen, codes, tokens), step.drawn
    final = torch.from_numpy(recorded["final_code_clamped"]).view(1, 64)
    assert torch.equal(tokens.clamp_max(mask - 1), final)


def test_halton_maskgits_run_by_confidence_chooses_the_same_positions() -> None:
    """The reference draws set positions again; here they stay, so its codes are read from the record."""
    recorded = {name.split("/")[-1]: value for name, value in MASKGIT.items() if "/confidence_run/" in name}
    side, steps = int(recorded["grid"]), int(recorded["steps"])
    own = sampling(
        steps=steps, counts="ends", guidance=1 + float(recorded["w"]), guidance_ramp="linear",
        temperature=1 / float(recorded["sm_temp"]), noise=float(recorded["r_temp"]),
    )  # fmt: skip
    n = side * side
    masked, unknown = torch.ones(2, n, dtype=torch.bool), torch.tensor([n, n])
    drawn = torch.zeros(2, dtype=torch.int64)
    for at in range(steps):
        before = torch.from_numpy(recorded["codes_before_step"][at]).flatten(1)
        assert torch.equal(masked, before == int(recorded["mask_id"]))
        step = step_of(at, unknown, drawn, own)
        c, u = (torch.from_numpy(recorded[f"logits_{part}"][at]) for part in ("cond", "uncond"))
        logits = guide(c, u, step.guidance[:, None, None]) / step.temperature[:, None, None]
        torch.testing.assert_close(
            logits.softmax(-1), torch.from_numpy(recorded["probs"][at]), rtol=1e-6, atol=1e-12
        )
        codes = torch.from_numpy(recorded["drawn_token"][at])
        scores = confidence(logits.flatten(0, 1), codes.flatten(), own.score).view(2, n)
        noise = step.noise[:, None] * torch.from_numpy(recorded["gumbel"][at])
        _, masked = masked_after(masked, scores + noise, step.drawn, drawn)
        assert torch.equal(masked, torch.from_numpy(recorded["still_masked_after_step"][at]).flatten(1))
        drawn = step.drawn
    assert step.drawn.tolist() == [n, n]
