"""Diffusion of codes by mask-and-uniform transitions, and how its times are drawn (VQ-Diffusion; Gu et al., 2022,
arXiv 2111.14822, sections 4.1 and 4.2).

A code stays, becomes a code drawn uniformly, or becomes the mask, which it then stays. Time 0 is the first noising step
and time T - 1 the last; time -1 is the image itself. Everything is computed in closed form: given a prediction of the
image, the posterior of all codes but that of the position itself follows from the prediction by one scale and one
offset, so that no matrix of transitions is needed and nothing is larger than the prediction.

Letters: b images, n positions, m rows (positions of several images), k codes, T times.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vqpipe.runtime.distributed import gather

KEEP, MASK = (0.99999, 0.000009), (0.000009, 0.99999)
"""Probability to be kept, and to be masked, from the image to the first and to the last time; linear between."""
LOWEST = -70.0
"""Log-probabilities are not less than this."""
NEEDED_VISITS = 10
"""Each time must have more visits than this before times are drawn by their losses."""


class Step(NamedTuple):
    """Probabilities of a code from one time to a later one, float64."""

    keep: Float[Tensor, " m"]
    """To be kept."""
    uniform: Float[Tensor, " m"]
    """To become any one code, itself among them."""
    mask: Float[Tensor, " m"]
    """To become the mask."""


class Transitions(nn.Module):
    """The chain of one group of codes; code `num_codes` is the mask.

    Args:
        num_codes: k.
        num_times: T, 2 or more.
        keep: probability to be kept, from the image to time 0 and to time T - 1.
        mask: probability to be masked.
    """

    keep: Float[Tensor, " times"]
    mask: Float[Tensor, " times"]

    def __init__(
        self,
        num_codes: int,
        num_times: int,
        keep: tuple[float, float] = KEEP,
        mask: tuple[float, float] = MASK,
    ) -> None:
        super().__init__()
        self.num_codes = num_codes
        for name, image, ends in (("keep", 1.0, keep), ("mask", 0.0, mask)):
            later = torch.linspace(*ends, num_times, dtype=torch.float64)
            whole = torch.cat([torch.tensor([image], dtype=torch.float64), later])  # entry t + 1 is of time t
            self.register_buffer(name, whole, persistent=False)

    def between(self, before: Int64[Tensor, " m"], time: Int64[Tensor, " m"]) -> Step:
        """From one time, -1 for the image, to a later one."""
        keep = self.keep[time + 1] / self.keep[before + 1]
        mask = 1 - (1 - self.mask[time + 1]) / (1 - self.mask[before + 1])
        return Step(keep, (1 - keep - mask).clamp_min(0) / self.num_codes, mask)

    def noised(
        self,
        codes: Int64[Tensor, "b n"],
        time: Int64[Tensor, " b"],
        uniform: Float[Tensor, "b n"],
        other: Int64[Tensor, "b n"],
    ) -> Int64[Tensor, "b n"]:
        """Codes at a time, drawn given the image.

        Args:
            codes: of the image.
            uniform: numbers in [0, 1) that decide what becomes of each code.
            other: uniformly drawn codes.
        """
        step = self.between(torch.full_like(time, -1), time)
        kept = uniform < step.keep[:, None]
        changed = uniform < (step.keep + self.num_codes * step.uniform)[:, None]
        return torch.where(kept, codes, torch.where(changed, other, self.num_codes))

    def stays_masked(self, time: int, before: int) -> float:
        """Probability that a code that is masked at a time was masked at an earlier one, for any image."""
        return float(self.mask[before + 1] / self.mask[time + 1])

    def posterior(
        self,
        predicted: Float[Tensor, "m k"],
        tokens: Int64[Tensor, " m"],
        time: Int64[Tensor, " m"],
        before: Int64[Tensor, " m"],
    ) -> tuple[Float[Tensor, "m k"], Float[Tensor, " m"]]:
        """Probabilities of codes, and of the mask, at an earlier time, given those at a time and a prediction of the
        image: the posteriors given each image, weighted by the prediction.

        Args:
            predicted: probability of each code in the image; a factor on a row passes to the result.
            tokens: the code or the mask at `time`.
            before: the earlier time, -1 for the image.
        """
        own = tokens.clamp_max(self.num_codes - 1)[:, None]
        chance = predicted.gather(1, own)[:, 0]
        # Summed without the position's own code: 1 minus its chance would have no digits where that is nearly 1.
        rest = predicted.scatter(1, own, 0.0).sum(1)
        f = self._factors(tokens, time, before, predicted.dtype)
        total = rest * f.inverse + chance * f.inverse_own
        out = torch.addcmul((f.reach * f.uniform * total)[:, None], predicted, f.slope[:, None])
        of_own = f.slope_own * chance + f.reach_own * f.uniform * total
        return out.scatter(1, own, of_own[:, None]), f.masked * total

    def divergence(
        self,
        log_predicted: Float[Tensor, "m k"],
        codes: Int64[Tensor, " m"],
        tokens: Int64[Tensor, " m"],
        time: Int64[Tensor, " m"],
    ) -> Float[Tensor, " m"]:
        """The term of the variational bound, in nats: the divergence of the model's posterior from the
        true one, one time earlier; at time 0 minus the log-probability of the image's code.

        All codes but the image's and the position's own have the same true probability, so that only the sum of their
        log-probabilities is needed.

        Args:
            log_predicted: log-probability of each code in the image.
            codes: of the image.
            tokens: the code or the mask at `time`.
        """
        predicted, before = log_predicted.exp(), time - 1
        model, model_mask = (logs(part) for part in self.posterior(predicted, tokens, time, before))
        own = tokens.clamp_max(self.num_codes - 1)
        of_code, of_own = (model.gather(1, at[:, None])[:, 0] for at in (codes, own))
        true = self._true(codes, tokens, self._factors(tokens, time, before, predicted.dtype))
        return self._bound(true, model.sum(1), of_code, of_own, model_mask, time)

    def terms(
        self,
        logits: Float[Tensor, "m k"],
        codes: Int64[Tensor, " m"],
        tokens: Int64[Tensor, " m"],
        time: Int64[Tensor, " m"],
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
        """`divergence` of the logits' softmax, and the cross-entropy of the image's code; arguments as there. With a
        gradient that is written out, which takes half of the time and of the memory of autograd's."""
        found: tuple[Tensor, Tensor] = Terms.apply(logits, self, codes, tokens, time)
        return found

    def _true(self, codes: Int64[Tensor, " m"], tokens: Int64[Tensor, " m"], f: Factors) -> TrueStep:
        same, apart = tokens == codes, (tokens != codes) & (tokens < self.num_codes)
        total = torch.where(same, f.inverse_own, f.inverse)
        spread, spread_own = f.reach * f.uniform * total, f.reach_own * f.uniform * total
        at_code = torch.where(same, f.slope_own + spread_own, f.slope + spread)
        return TrueStep(spread, at_code, torch.where(apart, spread_own, spread), f.masked * total)

    def _bound(
        self,
        true: TrueStep,
        log_sum: Float[Tensor, " m"],
        of_code: Float[Tensor, " m"],
        of_own: Float[Tensor, " m"],
        of_mask: Float[Tensor, " m"],
        time: Int64[Tensor, " m"],
    ) -> Float[Tensor, " m"]:
        """The divergence, from the model's log-probabilities: their sum over codes, and those of three outcomes."""
        usual = true.spread * (self.num_codes * logs(true.spread) - log_sum)
        unusual = part(true.code, of_code) - part(true.spread, of_code)
        unusual_own = part(true.own, of_own) - part(true.spread, of_own)
        return torch.where(time == 0, -of_code, usual + unusual + unusual_own + part(true.mask, of_mask))

    def _factors(
        self,
        tokens: Int64[Tensor, " m"],
        time: Int64[Tensor, " m"],
        before: Int64[Tensor, " m"],
        dtype: torch.dtype,
    ) -> Factors:
        masked = tokens == self.num_codes
        first, last = self.between(torch.full_like(before, -1), before), self.between(before, time)
        whole = self.between(torch.full_like(time, -1), time)
        inverse = 1 / torch.where(masked, whole.mask, whole.uniform)
        inverse_own = 1 / torch.where(masked, whole.mask, whole.keep + whole.uniform)
        reach = torch.where(masked, last.mask, last.uniform)
        reach_own = torch.where(masked, last.mask, last.keep + last.uniform)
        found = Factors(
            inverse, inverse_own, reach, reach_own, reach * first.keep * inverse,
            reach_own * first.keep * inverse_own, first.uniform, first.mask * masked,
        )  # fmt: skip
        return Factors(*(factor.to(dtype) for factor in found))


class Factors(NamedTuple):
    """What the posterior of a row is made of; `own` is of the code that the row has at the later time.

    Of a masked row both kinds are equal.
    """

    inverse: Float[Tensor, " m"]
    """1 / probability of the row's token at the later time, given another code in the image."""
    inverse_own: Float[Tensor, " m"]
    reach: Float[Tensor, " m"]
    """Probability of the row's token at the later time, given another code at the earlier one."""
    reach_own: Float[Tensor, " m"]
    slope: Float[Tensor, " m"]
    """Posterior of a code per predicted probability of it."""
    slope_own: Float[Tensor, " m"]
    uniform: Float[Tensor, " m"]
    """Of the step from the image to the earlier time."""
    masked: Float[Tensor, " m"]
    """Probability of the mask at the earlier time where the row is masked later, else 0."""


class TrueStep(NamedTuple):
    """The true posterior of a row."""

    spread: Float[Tensor, " m"]
    """Probability of any code but the image's and the row's own."""
    code: Float[Tensor, " m"]
    """Of the image's code."""
    own: Float[Tensor, " m"]
    """Of the row's own code at the later time, where that is another than the image's; else `spread`."""
    mask: Float[Tensor, " m"]
    """Of the mask."""


class Terms(torch.autograd.Function):
    """`Transitions.terms`.

    With q = B + a p the model's posterior, w the true one and t the model's chance of the row's token, of which B is a
    multiple, the gradient by p is -w a / q less what t passes on; that by the logits follows from the softmax.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, chain: Transitions, codes: Tensor, tokens: Tensor, time: Tensor
    ) -> Any:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        predicted = wide.log_softmax(-1).clamp_min_(LOWEST)
        cross_entropy = -predicted.gather(1, codes[:, None])[:, 0]
        predicted.exp_()
        at, own = codes[:, None], tokens.clamp_max(chain.num_codes - 1)[:, None]
        f = chain._factors(tokens, time, time - 1, wide.dtype)
        true = chain._true(codes, tokens, f)
        chance = predicted.gather(1, own)
        # Summed without the position's own code, as in `posterior`.
        rest = predicted.scatter_(1, own, 0.0).sum(1)
        predicted.scatter_(1, own, chance)
        total = rest * f.inverse + chance[:, 0] * f.inverse_own
        model = torch.addcmul((f.reach * f.uniform * total)[:, None], predicted, f.slope[:, None])
        model.scatter_(1, own, (f.slope_own * chance[:, 0] + f.reach_own * f.uniform * total)[:, None])
        of_code, of_own = (logs(model.gather(1, place)[:, 0]) for place in (at, own))
        ctx.dtype, ctx.counts = logits.dtype, len(f)
        ctx.save_for_backward(predicted, model, total, at, own, time, *f, *true)
        log_sum = model.clamp(min=math.exp(LOWEST), max=1.0).log_().sum(1)
        return chain._bound(true, log_sum, of_code, of_own, logs(f.masked * total), time), cross_entropy

    @staticmethod
    def backward(ctx: Any, bound: Tensor, cross_entropy: Tensor) -> Any:
        predicted, model, total, at, own, time, *rest = ctx.saved_tensors
        f, true = Factors(*rest[: ctx.counts]), TrueStep(*rest[ctx.counts :])
        image = time == 0
        none = torch.zeros_like(total)
        # The weights of -log q: of all codes, of the row's own, of the image's, each over the one before it.
        found = torch.where(image, none, true.spread)[:, None] / model
        of_own = torch.where(image, none, true.own)[:, None] / model.gather(1, own)
        found.scatter_(1, own, of_own)
        weight = torch.where(image, 1.0, true.code)[:, None]
        found.scatter_(1, at, weight / model.gather(1, at))
        of_own = found.gather(1, own)
        others = found.scatter_(1, own, 0.0).sum(1)
        passed = f.uniform * (f.reach * others + f.reach_own * of_own[:, 0])
        passed = passed + torch.where(image, none, true.mask) / total
        found.mul_(-f.slope[:, None]).sub_((passed * f.inverse)[:, None])
        found.scatter_(1, own, -f.slope_own[:, None] * of_own - (passed * f.inverse_own)[:, None])
        found.mul_(predicted)
        mean = found.sum(1)
        found.mul_(bound[:, None]).addcmul_(predicted, (cross_entropy - bound * mean)[:, None])
        found.scatter_add_(1, at, -cross_entropy[:, None])
        return found.to(ctx.dtype), None, None, None, None


def logs(probs: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
    """Log-probabilities, not less than `LOWEST`."""
    return probs.clamp(min=math.exp(LOWEST), max=1.0).log()


def part(true: Float[Tensor, " m"], log_model: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """One outcome's part of a divergence from the true probability."""
    return true * (logs(true) - log_model)


class DrawnTimes(nn.Module):
    """Draws the times of training by the root of the mean square of their losses, once all have been visited, as
    Nichol & Dhariwal (2021, section 3.3) do; until then uniformly.

    The history is equal on all ranks: each records the images of all.
    """

    frozen_buffers = ("history", "visits")
    history: Float[Tensor, " times"]
    """Moving average of each time's squared loss."""
    visits: Int64[Tensor, " times"]
    """Images that have had it."""

    def __init__(self, num_times: int) -> None:
        super().__init__()
        self.register_buffer("history", torch.zeros(num_times))
        self.register_buffer("visits", torch.zeros(num_times, dtype=torch.int64))

    def probabilities(self) -> Float[Tensor, " times"]:
        """Of each time to be drawn; time 0, whose loss is another one, has that of time 1."""
        weights = (self.history + 1e-10).sqrt() + 1e-4
        weights = torch.cat([weights[1:2], weights[1:]])
        ready = (self.visits > NEEDED_VISITS).all()
        return torch.where(ready, weights / weights.sum(), 1 / len(weights))

    def draw(self, uniform: Float[Tensor, " b"]) -> tuple[Int64[Tensor, " b"], Float[Tensor, " b"]]:
        """Times from numbers in [0, 1), and the probability of each."""
        probs = self.probabilities()
        reached = probs.double().cumsum(0)
        time = torch.searchsorted(reached, uniform.double() * reached[-1], right=True)
        return time, probs[time]

    @torch.no_grad()
    def record(self, time: Int64[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Add the losses of images. Of several with the same time the last one counts: a tenth of its square."""
        time, loss = gather(time), gather(loss.detach().to(self.history.dtype))
        hit: Bool[Tensor, "b times"] = time[:, None] == torch.arange(len(self.history), device=time.device)
        last = hit & (hit.flip(0).cumsum(0).flip(0) == 1)
        square = torch.where(last, loss.square()[:, None], 0.0).sum(0)
        self.history.copy_(torch.where(hit.any(0), 0.1 * square + 0.9 * self.history, self.history))
        self.visits.add_(hit.sum(0))
