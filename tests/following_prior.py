"""A toy prior that takes every condition and any known tokens: codes depend on a summary of the condition alone."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vqpipe.priors.contract import Condition, ConditionKind, ImageSpace, Prior, PriorParams
from vqpipe.priors.sampling import TokenSampling, draw, guide, image_generators, probabilities, uniform


class FollowsParams(PriorParams):
    """One linear layer per group."""

    kind: Literal["follows"]
    """The kind of prior."""
    sampling: TokenSampling
    """How codes are drawn."""


class Follows(Prior):
    """Draws codes independently of each other, given a vector that sums up the condition; zero without one."""

    kind: ClassVar[str] = "follows"
    Params: ClassVar[type[PriorParams]] = FollowsParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class", "text", "label_map")
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "any"

    @classmethod
    def example(cls) -> dict[str, Any]:
        """The fields that tests of every prior need."""
        return {"sampling": {"guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0}}

    def __init__(self, config: FollowsParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        width = {
            "none": 1, "class": len(space.classes), "text": space.text_dim, "label_map": len(space.map_classes),
        }[config.condition]  # fmt: skip
        self.body = nn.Linear(width, 8)
        self.heads = nn.ModuleList(nn.Linear(8, codes) for codes in space.num_codes)

    def networks(self) -> list[nn.Module]:
        return [self.body]

    def _summary(self, condition: Condition, n: int) -> Tensor:
        out = torch.zeros(n, self.body.in_features, device=self.device)
        if condition.text is not None:
            return condition.text.to(self.device).mean(1)
        ids = condition.labels[:, None] if condition.labels is not None else condition.label_map
        if ids is not None:
            flat = ids.to(self.device).flatten(1)
            out.scatter_add_(1, flat.clamp_min(0), (flat >= 0).float() / flat.shape[1])
        return out

    def _scores(self, condition: Condition, n: int) -> list[Tensor]:
        hidden = self.body(self._summary(condition, n)).tanh()
        return [head(hidden) for head in self.heads]

    def loss(self, batch: Tensor, condition: Condition) -> Tensor:
        return -self.log_likelihood(batch, condition).mean()

    def log_likelihood(self, batch: Tensor, condition: Condition) -> Tensor:
        terms = []
        for group, scores in enumerate(self._scores(condition, len(batch))):
            codes = batch[:, group].flatten(1)
            terms.append(scores.log_softmax(-1).gather(1, codes).view(batch[:, group].shape))
        return torch.stack(terms, dim=1)

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: TokenSampling, generator: torch.Generator
    ) -> Tensor:
        self.begin_sampling(condition, n, sampling.guidance)
        positions = math.prod(self.space.grid)
        numbers, drawn = uniform(image_generators(n, generator), self.space.groups, positions), []
        null = self._scores(Condition(), n)
        for group, own in enumerate(self._scores(condition, n)):
            scores = own if sampling.guidance == 1 else guide(own, null[group], sampling.guidance)
            rows = probabilities(scores, sampling).repeat_interleave(positions, dim=0)
            drawn.append(draw(rows, numbers[:, group].flatten()).view(n, *self.space.grid))
        tokens = torch.stack(drawn, dim=1)
        return (
            tokens
            if condition.tokens is None
            else torch.where(condition.tokens < 0, tokens, condition.tokens)
        )


PLACE = "tests.following_prior:Follows"
"""Its line of `vqpipe.priors.PRIORS`."""
