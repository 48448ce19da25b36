"""VQ-Diffusion: discrete diffusion over tokens, with a text, a class or nothing (Gu et al., 2022, arXiv 2111.14822).

The network predicts the image's codes from codes that are partly masked and partly wrong; `discrete` has the chain.
Full scale for text: 19 layers, 16 heads, width 1024, 100 times, AdamW with betas 0.9 and 0.96 and weight decay 0.045;
LG-VQ trains the same for 90 epochs with batches of 24 (appendix).

Letters: b n images, g groups of codes, p positions, m rows (positions of several images), k codes, l text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqpipe.models.denoiser import Denoiser, DenoiserParams
from vqpipe.priors.contract import NO_LABEL, Condition, ConditionKind, ImageSpace, Prior, PriorParams
from vqpipe.priors.discrete import LOWEST, DrawnTimes, Transitions
from vqpipe.priors.sampling import TokenSampling, draw, guide, image_generators, probabilities, uniform

LOGITS = 1 << 24
"""Logits that the loss and a step of sampling have in memory at once: 64 MB of float32, a few times over."""
CACHED = 1 << 18
"""The same for sampling on a CPU, where a block that fits in its cache takes a fifth of the time."""


class DiffusionSampling(TokenSampling):
    """How the image's codes are predicted at each time, how many times there are, and how many images at once.

    The paper's truncation rate r is `top_p` (0.86 there); its guidance for text is 5 in the later work
    (Tang et al., 2022, arXiv 2205.16007).
    """

    skip: Annotated[int, Field(ge=0)]
    """Times left out between two passes of the network; 0 uses all of them."""
    jump: Literal["whole", "last"]
    """The posterior over skipped times: that of the `whole` jump, as the paper has it (section 4.2), or that of the
    `last` time of it alone, as its code has it. With the latter most codes are drawn together at the end."""
    batch: Annotated[int, Field(ge=1)] | None
    """Images drawn at once, or null for all. Memory grows with it; each image's random numbers do not depend on it."""


class VQDiffusionParams(PriorParams):
    """Diffusion of codes by mask-and-uniform transitions."""

    kind: Literal["vq_diffusion"]
    """The kind of prior."""
    num_times: Annotated[int, Field(ge=2)]
    """T, times of the chain; 100 in the paper."""
    auxiliary_weight: Annotated[float, Field(ge=0)]
    """Weight of the cross-entropy of the image's codes; 5e-4 for text and 1e-3 for classes in the paper's code."""
    adaptive_auxiliary: bool
    """Whether that weight is multiplied by 2 - t / T, so that it is larger at early times."""
    mask_weight: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]
    """Weights of the loss at positions that are masked at time t > 0, and at the others; 1 and 1 in the paper."""
    importance: bool
    """Whether times are drawn by their losses, once each has been visited more than 10 times; else uniformly."""
    model: DenoiserParams
    """The network."""
    sampling: DiffusionSampling
    """How the samples of the metrics and of the grid are drawn."""


class VQDiffusion(Prior):
    """Diffusion of codes; groups of codes have chains of their own with a common time.

    It has no `log_likelihood`: the variational bound is a mean over all noised images, of which only an estimate from
    random ones is possible, and an estimate is no bound.
    """

    kind: ClassVar[str] = "vq_diffusion"
    Params: ClassVar[type[PriorParams]] = VQDiffusionParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class", "text")
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "any"
    config: VQDiffusionParams
    masks: Int64[Tensor, "g 1"]
    """The code of each group that is its mask."""

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Two layers of width 16 and ten times."""
        return {
            "num_times": 10, "auxiliary_weight": 5e-4, "adaptive_auxiliary": True, "mask_weight": [1.0, 1.0],
            "importance": True,
            "model": {"num_layers": 2, "num_heads": 2, "width": 16, "dropout": 0.1},
            "sampling": {
                "guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0, "skip": 0, "jump": "whole",
                "batch": None,
            },
        }  # fmt: skip

    def __init__(self, config: VQDiffusionParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        own = config.model
        self.groups, self.num_positions = space.groups, math.prod(space.grid)
        text = (space.text_dim, space.text_length) if config.condition == "text" else (0, 0)
        self.denoiser = Denoiser(
            space.num_codes, space.grid, own.width, own.num_layers, own.num_heads, own.dropout,
            config.num_times, self.num_classes, *text,
        )  # fmt: skip
        self.chains = nn.ModuleList(Transitions(k, config.num_times) for k in space.num_codes)
        self.times = DrawnTimes(config.num_times) if config.importance else None
        self.register_buffer("masks", torch.tensor(space.num_codes)[:, None], persistent=False)

    def networks(self) -> Sequence[nn.Module]:
        """The blocks; embeddings, heads and the loss are not compiled."""
        return [self.denoiser.blocks]

    def loss(self, batch: Int64[Tensor, "b g h w"], condition: Condition) -> Float[Tensor, ""]:
        """The variational bound at one drawn time per image and the auxiliary loss, in nats per position, summed over
        groups. In training the loss of each time is recorded.

        In training mode the values of the condition are not checked, which would wait for the device.

        Raises:
            MismatchError: a grid, group count or condition that this prior does not have.
        """
        codes, count = self.flat(batch), len(batch)
        if self.training:
            self.check_parts(condition, count)
        else:
            self.check_condition(condition, count)
        draws = torch.rand(count, device=codes.device)
        if self.times is not None:
            time, chance = self.times.draw(draws)
        else:
            time = (draws * self.config.num_times).long()
            chance = torch.full_like(draws, 1 / self.config.num_times)
        tokens = self._noised(codes, time)
        per_image, bound = self.losses(codes, tokens, time, chance, self._given(condition, count))
        if self.training and self.times is not None:
            self.times.record(time, bound)
        return per_image.mean() / self.num_positions

    def losses(
        self,
        codes: Int64[Tensor, "b g p"],
        tokens: Int64[Tensor, "b g p"],
        time: Int64[Tensor, " b"],
        chance: Float[Tensor, " b"],
        given: dict[str, Tensor],
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """The loss of each image, summed over positions and groups, and the part that the history of times records.

        Args:
            codes: of the images.
            tokens: codes and masks at the images' times.
            chance: probability with which each time was drawn.
            given: the network's inputs but the tokens and the time.
        """
        config = self.config
        features = self.denoiser.features(tokens, time, **given)
        both = torch.stack(
            [
                self._terms(features, codes[:, group], tokens[:, group], time, group)
                for group in range(self.groups)
            ]
        )  # (g, 2, b, p)
        weights = torch.where(tokens == self.masks, *config.mask_weight)
        weights = torch.where((time == 0)[:, None, None], 1.0, weights).transpose(0, 1)
        bound, auxiliary = (both * weights[:, None]).sum(dim=(0, 3))
        factor = config.auxiliary_weight * (
            2 - time / config.num_times if config.adaptive_auxiliary else torch.ones_like(bound)
        )
        return (bound + factor * auxiliary) / chance, bound

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: DiffusionSampling, generator: torch.Generator
    ) -> Int64[Tensor, "n g h w"]:
        """Draw `n` images' codes, from all masked ones, time by time; known ones stay as they are at all times.

        Image i gets the same random numbers in any call that draws at least i + 1 images, and for any `batch`.

        Raises:
            MismatchError: a condition that this prior does not take, or guidance or no condition where the null
                condition was never trained.
        """
        self.begin_sampling(condition, n, sampling.guidance)
        condition, own = condition.to(self.device), image_generators(n, generator)
        tokens = torch.empty(n, self.groups, self.num_positions, dtype=torch.int64, device=self.device)
        size = sampling.batch or max(1, n)
        for start in range(0, n, size):
            images = slice(start, start + size)
            tokens[images] = self._sample(condition.rows(images), sampling, own[images])
        return tokens.view(n, self.groups, *self.space.grid)

    def _sample(
        self, condition: Condition, sampling: DiffusionSampling, generators: Sequence[torch.Generator]
    ) -> Int64[Tensor, "n g p"]:
        """As `sample`, all images at once, each with its own generator."""
        n = len(generators)
        known = torch.full((n, self.groups, self.num_positions), -1, device=self.device)
        if condition.tokens is not None:
            known = condition.tokens.flatten(2)
        given, copies = self._given(condition, n), 1
        if sampling.guidance != 1:
            given, copies = self.denoiser.with_null(given), 2
        tokens = torch.where(known < 0, self.masks, known)
        for time, last, before in jumps(self.config.num_times, sampling.skip, sampling.jump):
            numbers = uniform(generators, self.groups, self.num_positions).to(self.device)
            times = torch.full((copies * n,), time, device=self.device)
            features = self.denoiser.features(tokens.repeat(copies, 1, 1), times, **given).chunk(copies)
            for group in range(self.groups):
                drawn = self._drawn(
                    features, tokens[:, group], known[:, group] < 0, numbers[:, group], (last, before), group,
                    sampling,
                )  # fmt: skip
                tokens[:, group] = drawn
        return tokens

    def _drawn(
        self,
        features: Sequence[Float[Tensor, "n p d"]],
        tokens: Int64[Tensor, "n p"],
        unknown: Bool[Tensor, "n p"],
        numbers: Float[Tensor, "n p"],
        times: tuple[int, int],
        group: int,
        sampling: DiffusionSampling,
    ) -> Int64[Tensor, "n p"]:
        """Draw one group's codes at the earlier of two times, some rows at once.

        The prediction is only needed where a code is not known and does not stay masked; the probability of that is the
        same for all images.

        Args:
            features: of the condition; with guidance also of the null condition.
            tokens: of this group.
            unknown: which may change.
            numbers: in [0, 1), one per draw; the largest ones draw the mask.
        """
        head, chain = self.denoiser.heads[group], self.chains[group]
        assert isinstance(chain, Transitions)
        flat, numbers, out = tokens.flatten(), numbers.flatten(), tokens.flatten().clone()
        stay = (flat == chain.num_codes) & (numbers.double() >= 1 - chain.stays_masked(*times))
        places = (unknown.flatten() & ~stay).nonzero()[:, 0]
        limit = min(LOGITS, CACHED) if tokens.device.type == "cpu" else LOGITS
        for rows in self._rows(len(places), group, limit):
            own = places[rows]
            logits = [head(part.flatten(0, 1)[own]) for part in features]
            guided = logits[0] if len(logits) == 1 else guided_logs(logits[0], logits[1], sampling.guidance)
            time, before = (torch.full_like(own, at) for at in times)
            codes, mask = chain.posterior(probabilities(guided, sampling), flat[own], time, before)
            out[own] = draw(torch.cat([codes, mask[:, None]], dim=1), numbers[own])
        return out.view(tokens.shape)

    def _noised(self, codes: Int64[Tensor, "b g p"], time: Int64[Tensor, " b"]) -> Int64[Tensor, "b g p"]:
        """Codes and masks at each image's time."""
        drawn = []
        for group, chain in enumerate(self.chains):
            assert isinstance(chain, Transitions)
            own = codes[:, group]
            numbers = torch.rand(own.shape, device=own.device)
            drawn.append(chain.noised(own, time, numbers, torch.randint_like(own, chain.num_codes)))
        return torch.stack(drawn, dim=1)

    def _terms(
        self,
        features: Float[Tensor, "b p d"],
        codes: Int64[Tensor, "b p"],
        tokens: Int64[Tensor, "b p"],
        time: Int64[Tensor, " b"],
        group: int,
    ) -> Float[Tensor, "2 b p"]:
        """The bound's and the auxiliary term of each position, in blocks of rows of which one has at most `LOGITS`
        logits. With a gradient, the logits of a block are computed again when it is asked for, and never kept."""
        times = time[:, None].expand_as(codes)
        flat = (features.flatten(0, 1), codes.flatten(), tokens.flatten(), times.flatten())
        blocks = list(self._rows(codes.numel(), group, LOGITS))
        if len(blocks) == 1:
            return self._block(group, *flat).view(2, *codes.shape)
        again = partial(checkpoint, self._block, group, use_reentrant=False, preserve_rng_state=False)
        parts = [again(*(own[rows] for own in flat)) for rows in blocks]
        return torch.cat(parts, dim=1).view(2, *codes.shape)

    def _block(
        self,
        group: int,
        features: Float[Tensor, "m d"],
        codes: Int64[Tensor, " m"],
        tokens: Int64[Tensor, " m"],
        time: Int64[Tensor, " m"],
    ) -> Float[Tensor, "2 m"]:
        chain, head = self.chains[group], self.denoiser.heads[group]
        assert isinstance(chain, Transitions)
        assert isinstance(head, nn.Linear)
        # A view of the weight: under autocast each block then has its own copy, and gradients add up in float32.
        logits = F.linear(features, head.weight[:], head.bias[:])
        bound, cross_entropy = chain.terms(logits, codes, tokens, time)
        return torch.stack([bound, torch.where(time == 0, bound, cross_entropy)])

    def _rows(self, count: int, group: int, limit: int) -> Iterator[slice]:
        """Blocks of rows with at most `limit` logits."""
        size = max(1, limit // self.space.num_codes[group])
        return (slice(start, start + size) for start in range(0, count, size))

    def _given(self, condition: Condition, count: int) -> dict[str, Tensor]:
        """The network's inputs but the tokens and the time."""
        if condition.labels is not None:
            rows = condition.labels.to(self.device)
            return {"rows": torch.where(rows == NO_LABEL, self.num_classes, rows)}
        if condition.text is not None and condition.text_ids is not None:
            mask = condition.text_ids.to(self.device) >= 0
            return {"text": condition.text.to(self.device), "text_mask": mask}
        return {}


def predicted_logs(logits: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """Log-probabilities of the image's codes, float32 or wider, not less than `LOWEST`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(-1).clamp_min(LOWEST)


def guided_logs(
    conditional: Float[Tensor, "m k"], null: Float[Tensor, "m k"], scale: float
) -> Float[Tensor, "m k"]:
    """Classifier-free guidance on log-probabilities, again a distribution."""
    return predicted_logs(guide(predicted_logs(conditional), predicted_logs(null), scale))


def jumps(num_times: int, skip: int, jump: Literal["whole", "last"]) -> list[tuple[int, int, int]]:
    """The passes of the network: its time, and the two times, the later one first, of the posterior of its prediction.

    Args:
        num_times: T; the first pass is at T - 1, the last at 0.
        skip: times left out between two passes.
        jump: see `DiffusionSampling`.
    """
    times = list(range(num_times - 1, -1, -1 - skip))
    times += [0] if times[-1] else []
    if jump == "last":
        last = [time - skip if time > skip else time for time in times]
        return [(time, own, own - 1) for time, own in zip(times, last, strict=True)]
    return list(zip(times, times, [*times[1:], -1], strict=True))
