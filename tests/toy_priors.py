"""Toy priors: one over tokens, one over latents, and one that takes every condition and any known tokens."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.priors.contract import Condition, ConditionKind, ImageSpace, Prior, PriorParams
from vqpipe.priors.sampling import (
    TokenSampling,
    draw,
    guide,
    image_generators,
    normal,
    probabilities,
    uniform,
)


class UnigramParams(PriorParams):
    """One distribution over codes per class, the same at every position."""

    kind: Literal["unigram"]
    """The kind of prior."""
    sampling: TokenSampling
    """How codes are drawn."""


class Unigram(Prior):
    """Draws each code independently of all others, given the image's class."""

    kind: ClassVar[str] = "unigram"
    Params: ClassVar[type[PriorParams]] = UnigramParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class")

    @classmethod
    def example(cls) -> dict[str, Any]:
        """The fields that tests of every prior need."""
        return {"sampling": {"guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0}}

    def __init__(self, config: UnigramParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        # One row per class; the last one is for images without a class.
        rows = self.num_classes + 1
        self.logits = nn.ModuleList(nn.Embedding(rows, codes) for codes in space.num_codes)

    def _scores(self, condition: Condition, n: int) -> list[Tensor]:
        """Logits (n, k) of each group."""
        labels = condition.labels if condition.labels is not None else torch.full((n,), -1)
        rows = labels.to(self.device)
        return [logits(torch.where(rows < 0, self.num_classes, rows)) for logits in self.logits]

    def log_likelihood(self, batch: Tensor, condition: Condition) -> Tensor:
        """Natural log-probability of each code, (b, g, h, w)."""
        terms = []
        for group, scores in enumerate(self._scores(condition, len(batch))):
            codes = batch[:, group].flatten(1)  # (b, h * w)
            terms.append(scores.log_softmax(-1).gather(1, codes).view(batch[:, group].shape))
        return torch.stack(terms, dim=1)

    def loss(self, batch: Tensor, condition: Condition) -> Tensor:
        """Cross-entropy in nats per code."""
        return -self.log_likelihood(batch, condition).mean()

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: TokenSampling, generator: torch.Generator
    ) -> Tensor:
        """Codes (n, g, h, w)."""
        self.begin_sampling(condition, n, sampling.guidance)
        positions = math.prod(self.space.grid)
        numbers = uniform(image_generators(n, generator), self.space.groups, positions)
        drawn = []
        both = zip(self._scores(condition, n), self._scores(Condition(), n), strict=True)
        for group, (own, null) in enumerate(both):
            scores = own if sampling.guidance == 1 else guide(own, null, sampling.guidance)
            rows = probabilities(scores, sampling).repeat_interleave(positions, dim=0)
            drawn.append(draw(rows, numbers[:, group].flatten()).view(n, *self.space.grid))
        return torch.stack(drawn, dim=1)


class NormalParams(PriorParams):
    """One normal distribution per position of the latent."""

    kind: Literal["normal"]


class Normal(Prior):
    """Draws each latent vector independently; it has no likelihood of codes, and takes no condition."""

    kind: ClassVar[str] = "normal"
    Params: ClassVar[type[PriorParams]] = NormalParams
    models: ClassVar[Literal["tokens", "latents"]] = "latents"

    def __init__(self, config: NormalParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        self.mean = nn.Parameter(torch.zeros(space.latent_channels, *space.grid))

    def loss(self, batch: Tensor, condition: Condition) -> Tensor:
        return F.mse_loss(self.mean.expand_as(batch), batch)

    @torch.no_grad()
    def sample(self, condition: Condition, n: int, sampling: Any, generator: torch.Generator) -> Tensor:
        self.begin_sampling(condition, n, sampling.guidance)
        noise = normal(image_generators(n, generator), *self.mean.shape)
        return self.mean + noise.to(self.device)


class PaletteParams(PriorParams):
    """One distribution over codes for each condition, at each position for a label map."""

    kind: Literal["palette"]
    """The kind of prior."""
    sampling: TokenSampling
    """How codes are drawn."""


class Palette(Prior):
    """Draws each code independently of the others, from a vector of the condition; the null condition has its own."""

    kind: ClassVar[str] = "palette"
    Params: ClassVar[type[PriorParams]] = PaletteParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class", "text", "label_map")
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "any"

    @classmethod
    def example(cls) -> dict[str, Any]:
        """As `Unigram`."""
        return Unigram.example()

    def __init__(self, config: PaletteParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        width = 8
        sources = {"class": self.num_classes, "text": space.text_dim, "label_map": len(space.map_classes)}
        self.null = nn.Parameter(torch.zeros(width))
        count = sources.get(config.condition)
        self.source = nn.Linear(count, width, bias=False) if count is not None else None
        self.heads = nn.ModuleList(nn.Linear(width, codes) for codes in space.num_codes)

    def _facts(self, condition: Condition) -> Tensor | None:
        """What is known about each image at each position, (n, 1 or h w, c)."""
        if condition.labels is not None:
            return F.one_hot(condition.labels.clamp_min(0), self.num_classes)[:, None].float()
        if condition.text is not None and condition.text_ids is not None:
            inside = (condition.text_ids >= 0)[..., None]
            return (condition.text * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp_min(1)
        if condition.label_map is not None:
            planes = F.one_hot(condition.label_map + 1, len(self.space.map_classes) + 1)[..., 1:]
            cells = F.adaptive_avg_pool2d(planes.permute(0, 3, 1, 2).float(), self.space.grid)
            return cells.flatten(2).transpose(1, 2)
        return None

    def _scores(self, condition: Condition, n: int) -> list[Tensor]:
        """Logits (n, h w, k) of each group."""
        facts, given = self._facts(condition), self.given(condition, n).to(self.device)
        if self.training:
            given = given & (torch.rand(n) >= self.config.condition_drop)
        vectors = self.null.expand(n, math.prod(self.space.grid), -1)
        if facts is not None and self.source is not None:
            vectors = torch.where(given[:, None, None], self.source(facts), vectors)
        return [head(vectors) for head in self.heads]

    def loss(self, batch: Tensor, condition: Condition) -> Tensor:
        """Cross-entropy in nats per code."""
        self.check_parts(condition, len(batch))
        scores = self._scores(condition, len(batch))
        terms = [F.cross_entropy(own.mT, batch[:, group].flatten(1)) for group, own in enumerate(scores)]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: TokenSampling, generator: torch.Generator
    ) -> Tensor:
        """Codes (n, g, h, w)."""
        self.begin_sampling(condition, n, sampling.guidance)
        grid = self.space.grid
        numbers = uniform(image_generators(n, generator), self.space.groups, math.prod(grid))
        drawn = []
        scores, nulls = self._scores(condition, n), self._scores(Condition(), n)
        for group, (own, null) in enumerate(zip(scores, nulls, strict=True)):
            wanted = (own if sampling.guidance == 1 else guide(own, null, sampling.guidance)).flatten(0, 1)
            drawn.append(draw(probabilities(wanted, sampling), numbers[:, group].flatten()).view(n, *grid))
        tokens = torch.stack(drawn, dim=1)
        if condition.tokens is None:
            return tokens
        return torch.where(condition.tokens < 0, tokens, condition.tokens)


PLACES = {
    "unigram": "tests.toy_priors:Unigram", "normal": "tests.toy_priors:Normal",
    "palette": "tests.toy_priors:Palette",
}  # fmt: skip
"""Their lines of `vqpipe.priors.PRIORS`."""
