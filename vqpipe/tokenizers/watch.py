"""Code use during training: the share of codes in use, dead codes, perplexity, and an early warning of collapse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int, Int64
from torch import Tensor, nn

from vqpipe.runtime.distributed import all_reduce_sum, is_main
from vqpipe.runtime.terminal import say

GRACE = 0.1
"""Part of the training in which nothing is judged: the codes find their places."""
PATIENCE = 3
"""Windows in a row that must look collapsed."""
FALL = 0.25
"""Collapsed: a perplexity below this share of the highest since the grace ended …"""
FLOOR = 0.01
"""… or below this share of what the window could show, the smaller of K and its tokens …"""
FEWEST = 2.0
"""… or below this many codes. Codebooks of fewer than `SMALL` codes are not judged."""
SMALL = 8
REMEDY = (
    "codes collapse where few win early and the others get no gradient: start the codes from data (init: data), "
    "restart dead codes (kind ema with restart, or cvq), raise beta or lower the learning rate, or take a "
    "method that trains all codes at once (lc, sim_vq)"
)


class CodeWatch(nn.Module):
    """Counts codes step by step and speaks once per window of the training curves.

    It is fed every step's indices. Counts are summed over ranks each step, so that every rank holds the same
    state, and all state lies in buffers, so that a checkpoint of the module it is part of holds it: a run that
    was resumed or rolled back goes on as if it had not stopped. It is no part of a tokenizer's weights. Within a window
    nothing is read back from the device, so that counting does not make the host wait.

    A code is dead when no step of the last n used it; n is the number of steps in which a code of a uniformly
    used codebook is missed with probability e^-4, ceil(4 K / tokens of a step), but at least one window.

    Args:
        num_codes: K per group.
        num_steps: of the training.
        log_every: steps of a window.
        calls_per_step: calls of `update` that make one step (micro-batches of gradient accumulation).
        title: names the run in the warning.
    """

    calls: Tensor
    tokens: Tensor
    collapse_step: Tensor

    def __init__(
        self,
        num_codes: Sequence[int],
        num_steps: int,
        log_every: int,
        calls_per_step: int = 1,
        title: str = "training",
    ) -> None:
        super().__init__()
        self.num_codes = tuple(num_codes)
        self.num_steps, self.log_every, self.calls_per_step = num_steps, log_every, calls_per_step
        self.title = title
        self._called: int | None = None
        """`calls` as the host knows it; None where the buffer has to be read."""
        groups = len(self.num_codes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.zeros(groups, dtype=torch.float64))
        self.register_buffer("poor", torch.zeros(groups, dtype=torch.int64))
        self.register_buffer("collapse_step", torch.full((groups,), -1, dtype=torch.int64))
        for group, count in enumerate(self.num_codes):
            self.register_buffer(f"window_{group}", torch.zeros(count, dtype=torch.int64))
            self.register_buffer(f"last_used_{group}", torch.zeros(count, dtype=torch.int64))

    @torch.no_grad()
    def update(self, indices: Int[Tensor, "b g h w"]) -> dict[str, float]:
        """Count one batch of this rank.

        Returns:
            Nothing within a window; at its end, per group i, `window_used_share_i` (codes used in the window /
            K), `window_perplexity_i`, and `dead_share_i` (dead codes / K) once n steps have passed.
        """
        called = int(self.calls) if self._called is None else self._called
        step = called // self.calls_per_step + 1
        for group, count in enumerate(self.num_codes):
            counts = all_reduce_sum(count_codes(indices[:, group].reshape(-1), count))
            self.get_buffer(f"window_{group}").add_(counts)
            self.get_buffer(f"last_used_{group}").masked_fill_(counts > 0, step)
        self.tokens += all_reduce_sum(torch.full_like(self.tokens, indices[:, 0].numel()))
        self.calls += 1
        self._called = called + 1
        if self._called % self.calls_per_step or not (step % self.log_every == 0 or step == self.num_steps):
            return {}
        return self._close(step)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Loading, resumed or rolled back, may change the number of calls."""
        self._called = None
        super()._load_from_state_dict(*args)

    def dead_after(self, group: int) -> int:
        """n of a group: the steps without use after which a code is dead. Needs one step to have been seen."""
        per_step = int(self.tokens) / max(1, math.ceil(int(self.calls) / self.calls_per_step))
        return max(self.log_every, math.ceil(4 * self.num_codes[group] / max(1.0, per_step)))

    def metrics(self) -> dict[str, Any]:
        """For the tokenizer's metrics: per group `collapse_steps`, the end of the window in which it was called
        collapsed, or None, and `dead_after_steps`; `collapse_step` is that of the first group that was."""
        found = [int(step) if int(step) >= 0 else None for step in self.collapse_step]
        return {
            "collapse_step": min((step for step in found if step is not None), default=None),
            "collapse_steps": found,
            "dead_after_steps": [self.dead_after(group) for group in range(len(self.num_codes))],
        }

    def _close(self, step: int) -> dict[str, float]:
        terms: dict[str, float] = {}
        for group, count in enumerate(self.num_codes):
            window, last_used = self.get_buffer(f"window_{group}"), self.get_buffer(f"last_used_{group}")
            perplexity, seen = _perplexity(window), int(window.sum())
            terms[f"window_used_share_{group}"] = int((window > 0).sum()) / count
            terms[f"window_perplexity_{group}"] = perplexity
            if step >= (after := self.dead_after(group)):
                terms[f"dead_share_{group}"] = int((last_used <= step - after).sum()) / count
            self._judge(group, step, perplexity, min(count, seen))
            window.zero_()
        return terms

    def _judge(self, group: int, step: int, perplexity: float, reach: int) -> None:
        """Warn once where a group looks collapsed for `PATIENCE` windows; see the constants for the rule."""
        if step <= GRACE * self.num_steps or min(self.num_codes[group], reach) < SMALL:
            return
        best = self.get_buffer("best")
        fell = perplexity < FALL * float(best[group])
        best[group] = max(float(best[group]), perplexity)
        poor = self.get_buffer("poor")
        bad = fell or perplexity < max(FEWEST, FLOOR * reach)
        poor[group] = int(poor[group]) + 1 if bad else 0
        if int(poor[group]) < PATIENCE or int(self.collapse_step[group]) >= 0:
            return
        self.collapse_step[group] = step
        if is_main():
            which = f"group {group}: " if len(self.num_codes) > 1 else ""
            say(
                f"{self.title}: {which}the codebook seems to collapse at step {step}: perplexity "
                f"{perplexity:.1f} of {self.num_codes[group]:,} codes, {float(best[group]):.1f} at its best; "
                f"{REMEDY}",
                err=True,
            )


def count_codes(codes: Int[Tensor, " n"], num_codes: int) -> Int64[Tensor, " k"]:
    """Uses of each code. `torch.bincount` would wait for the device, to learn how many bins there are."""
    ones = torch.ones_like(codes, dtype=torch.int64)
    return torch.zeros(num_codes, dtype=torch.int64, device=codes.device).index_add_(0, codes, ones)


def _perplexity(counts: Int64[Tensor, " k"]) -> float:
    total = int(counts.sum())
    if total == 0:
        return 1.0
    p = counts[counts > 0].double() / total
    return float(torch.exp(-(p * p.log()).sum()))
