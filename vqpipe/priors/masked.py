"""A bidirectional prior over masked tokens with parallel decoding: MaskGIT (Chang et al., 2022).

Training masks a random part of the positions, in all groups at once, and predicts their codes from the others and the
condition. Sampling starts from the known tokens, or from none, and draws some of the masked positions at every step
(`vqpipe.priors.orders`), so any subset of tokens can be known: inpainting, outpainting, completion of any mask.

Within a step positions are drawn independently of each other. Given a perfect network, samples have the distribution of
the data with as many steps as positions in an order that does not depend on what is drawn, such as `halton`.

Letters: b n images, g groups, h w the grid, p = h * w positions in raster order, k codes of a group, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.models.denoiser import Denoiser, DenoiserParams
from vqpipe.priors import cross_entropy
from vqpipe.priors.contract import (
    NO_LABEL,
    Condition,
    ConditionKind,
    ImageSpace,
    Prior,
    PriorParams,
)
from vqpipe.priors.orders import (
    ParallelSampling,
    Schedule,
    Step,
    choose,
    confidence,
    gumbel,
    halton_order,
    num_masked,
    step_of,
)
from vqpipe.priors.prefix import majority
from vqpipe.priors.sampling import (
    COLDEST,
    TokenSampling,
    draw,
    guide,
    image_generators,
    probabilities,
    uniform,
)

CACHED = 1 << 18
"""Logits that sampling on a CPU has in memory at once: a block that fits in its cache takes a fifth of the time."""


class MaskedParams(PriorParams):
    """A masked-token prior."""

    kind: Literal["masked"]
    """The kind of prior."""
    mask_schedule: Schedule
    """The share of positions that training masks, as a function of a uniform number; MaskGIT's is `cosine`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Part of the targets that is spread evenly over all codes; 0.1 in MaskGIT."""
    model: DenoiserParams
    """The network. MaskGIT's: 24 layers, 8 heads, width 768, dropout 0.1."""
    sampling: ParallelSampling
    """How the samples of the metrics and of the grid are drawn."""


class Masked(Prior):
    """Masked-token prior; any subset of the tokens can be known.

    A position where some groups are known is drawn like the others, with these codes as input. Training does not have
    such inputs: it masks all groups of a position.

    A label map is one more code of each position, the class that most of its pixels have, which is always known.
    """

    kind: ClassVar[str] = "masked"
    Params: ClassVar[type[PriorParams]] = MaskedParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class", "text", "label_map")
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "any"
    config: MaskedParams
    masks: Int64[Tensor, "g 1"]
    """The code of each group that stands for a masked one."""
    halton_scores: Float[Tensor, " p"]
    """0 for the first position of the Halton sequence, -1 for the next one, and so on."""

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Two layers of width 32."""
        return {
            "mask_schedule": "cosine",
            "label_smoothing": 0.0,
            "model": {"num_layers": 2, "num_heads": 2, "width": 32, "dropout": 0.0},
            "sampling": {
                "guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0, "steps": 4,
                "order": "halton", "schedule": "cosine",
            },
        }  # fmt: skip

    def __init__(self, config: MaskedParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        shape, text = config.model, config.condition == "text"
        self.grid, self.groups, self.num_positions = space.grid, space.groups, math.prod(space.grid)
        self.num_maps = len(space.map_classes) if config.condition == "label_map" else 0
        if self.num_maps and any(space.resolution % side for side in space.grid):
            raise MismatchError(
                "a label map does not divide into the tokens' cells",
                found=f"{space.resolution} pixels", expected=f"a multiple of {space.grid[0]} and {space.grid[1]}",
            )  # fmt: skip
        self.denoiser = Denoiser(
            (*space.num_codes, self.num_maps) if self.num_maps else space.num_codes,
            space.grid, shape.width, shape.num_layers, shape.num_heads, shape.dropout,
            num_classes=self.num_classes, text_dim=space.text_dim if text else 0,
            text_length=space.text_length if text else 0,
        )  # fmt: skip
        self.denoiser.heads = self.denoiser.heads[: self.groups]  # maps are not predicted
        places = torch.arange(self.num_positions)
        scores = torch.zeros(self.num_positions).index_put(
            (torch.tensor(halton_order(space.grid)),), -places.float()
        )
        self.register_buffer("halton_scores", scores, persistent=False)
        self.register_buffer("masks", torch.tensor(space.num_codes)[:, None], persistent=False)
        even = (torch.arange(10_000).double() + 0.5) / 10_000
        expected = num_masked(config.mask_schedule, even, self.num_positions).double().mean()
        self.expected_masked = float(expected)

    def networks(self) -> Sequence[nn.Module]:
        """The blocks; embeddings, heads and the loss are not compiled."""
        return [self.denoiser.blocks]

    def curve_terms(self, loss: Float[Tensor, ""]) -> Mapping[str, Tensor]:
        """Bits per masked token; none with label smoothing, whose loss is not in bits of the tokens."""
        if self.config.label_smoothing:
            return {}
        return {"bits_per_masked_token": loss / (self.groups * math.log(2))}

    def loss(self, batch: Int64[Tensor, "b g h w"], condition: Condition) -> Float[Tensor, ""]:
        """Cross-entropy in nats per masked position, summed over groups.

        It is the sum over masked positions divided by the number that is masked on average, so that it is a mean over
        images, of any batch. The images of a batch have evenly spaced progresses, from one random number. In training
        mode the values of the condition are not checked, which would wait for the device.

        Raises:
            MismatchError: a grid, group count or condition that this model does not have.
        """
        tokens = self.flat(batch)
        if self.training:
            self.check_parts(condition, len(batch))
        else:
            self.check_condition(condition, len(batch))
        masked = self._training_masks(len(tokens))
        inputs = torch.where(masked[:, None], self.masks, tokens)
        y = self._features(inputs, self._given(condition, len(tokens))).flatten(0, 1)
        terms = [
            cross_entropy.cross_entropy(y, head, tokens[:, group].flatten(), self.config.label_smoothing)
            for group, head in enumerate(self._heads())
        ]
        weight = 1 / (self.expected_masked * len(tokens))
        return (torch.stack(terms) * masked.flatten()).sum() * weight

    def log_likelihood(
        self, batch: Int64[Tensor, "b g h w"], condition: Condition
    ) -> Float[Tensor, "b p"] | None:
        """Natural log-probability of the codes of each position, given those of the steps before it, with which
        `sampling.order: halton` draws an image at temperature 1 without guidance and filters; it takes
        `sampling.steps` network evaluations.

        None in the order of confidence: there the probability of an image is a sum over all orders, which depend on
        what is drawn. The loss is not a bound of it: the predictions for different masks need not belong to one joint
        distribution.

        Raises:
            MismatchError: as `loss`.
        """
        tokens, sampling = self.flat(batch), self.config.sampling
        self.check_condition(condition, len(batch))
        if sampling.order != "halton":
            return None
        given = self._given(condition, len(batch))
        terms = torch.zeros(tokens[:, 0].shape, device=self.device)
        total, drawn = torch.tensor([self.num_positions]), torch.tensor([0])
        places = (-self.halton_scores).argsort()
        for at in range(min(sampling.steps, self.num_positions)):
            until = step_of(at, total, drawn, sampling).drawn
            inputs = tokens.clone()
            inputs[..., places[int(drawn) :]] = self.masks
            own = places[int(drawn) : int(until)]
            y = self._features(inputs, given)[:, own].flatten(0, 1)
            for group, head in enumerate(self._heads()):
                codes = tokens[:, group, own].flatten()
                terms[:, own] -= cross_entropy.cross_entropy(y, head, codes).view(len(tokens), -1)
            drawn = until
        return terms

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: ParallelSampling, generator: torch.Generator
    ) -> Int64[Tensor, "n g h w"]:
        """Draw `n` images' codes, the unknown positions of each in at most `sampling.steps` steps.

        Args:
            condition: known tokens and what `config.condition` names.
            sampling: steps, order, guidance, temperature, filters and images at once.
            generator: a CPU generator; image i gets the same numbers in any call, and for any `batch`.

        Raises:
            MismatchError: a condition that this model does not have, or guidance where the null condition was never
                trained.
        """
        self.begin_sampling(condition, n, sampling.guidance)
        generators = image_generators(n, generator)
        tokens = self.masks.expand(n, -1, self.num_positions).clone()
        if condition.tokens is not None:
            known = condition.tokens.to(self.device).flatten(2)
            tokens = torch.where(known < 0, tokens, known)
        size = max(1, sampling.batch or n)
        for part in (slice(start, start + size) for start in range(0, n, size)):
            tokens[part] = self._fill(tokens[part], condition.rows(part), sampling, generators[part])
        return tokens.view(n, self.groups, *self.grid)

    def _fill(
        self,
        tokens: Int64[Tensor, "b g p"],
        condition: Condition,
        sampling: ParallelSampling,
        generators: Sequence[torch.Generator],
    ) -> Int64[Tensor, "b g p"]:
        """The tokens with all masked ones drawn."""
        given = self._given(condition, len(tokens))
        if sampling.guidance != 1:
            given = self.denoiser.with_null(given, cells=self.num_maps)
        unknown = (tokens == self.masks).any(dim=1).sum(dim=1).cpu()
        drawn = torch.zeros_like(unknown)
        for at in range(min(sampling.steps, int(unknown.max()))):
            step = step_of(at, unknown, drawn, sampling)
            numbers = uniform(generators, self.groups + 1, self.num_positions).to(self.device)
            hidden = tokens == self.masks
            asked, count = hidden, step.drawn - drawn
            if sampling.order == "halton":  # the others need not be drawn
                scores = self.halton_scores.expand(len(tokens), -1)
                asked = hidden & choose(scores, hidden.any(dim=1), count)[:, None]
            codes, confidences = self._proposed(tokens, asked, given, step, sampling, numbers)
            if sampling.order == "confidence":
                scores = confidences + step.noise.to(self.device)[:, None] * gumbel(numbers[:, -1].double())
                asked = hidden & choose(scores, hidden.any(dim=1), count)[:, None]
            tokens, drawn = torch.where(asked, codes, tokens), step.drawn
        return tokens

    def _proposed(
        self,
        tokens: Int64[Tensor, "b g p"],
        asked: Bool[Tensor, "b g p"],
        given: Mapping[str, Tensor],
        step: Step,
        sampling: ParallelSampling,
        numbers: Float[Tensor, "b e p"],
    ) -> tuple[Int64[Tensor, "b g p"], Float[Tensor, "b p"]]:
        """Codes where they are asked for, and the scores of these positions, summed over groups; 0 elsewhere.

        Args:
            given: of the images, with guidance of twice as many (`Denoiser.with_null`).
        """
        filters = TokenSampling(guidance=1.0, temperature=1.0, top_k=sampling.top_k, top_p=sampling.top_p)
        codes = torch.zeros_like(tokens)
        scores = torch.zeros(tokens[:, 0].shape, dtype=torch.float64, device=self.device)
        copies = 1 if sampling.guidance == 1 else 2
        whole = self._features(tokens.repeat(copies, 1, 1), given).chunk(copies)
        limit = min(cross_entropy.LOGITS, CACHED) if tokens.device.type == "cpu" else cross_entropy.LOGITS
        for group, head in enumerate(self._heads()):
            rows = asked[:, group].nonzero()
            for part in torch.split(rows, max(1, limit // head.out_features)):
                i, at = part.unbind(1)
                own = i.cpu()
                scale, heat, less = (
                    t[own].to(self.device)[:, None] for t in (step.guidance, step.temperature, step.draw)
                )
                logits = [head(y[i, at]).double() for y in whole]
                scaled = (logits[0] if len(logits) == 1 else guide(logits[0], logits[1], scale)) / heat
                probs = probabilities(scaled / less.clamp_min(COLDEST), filters)
                codes[i, group, at] = drawn = draw(probs, numbers[i, group, at])
                scores[i, at] += confidence(scaled, drawn, sampling.score)
        return codes, scores

    def _training_masks(self, count: int) -> Bool[Tensor, "b p"]:
        """Which positions of each image are masked, at least one, from the global generator."""
        even = torch.arange(count, device=self.device) / max(1, count)
        progress = (even + torch.rand(1, device=self.device)) % 1
        masked = num_masked(self.config.mask_schedule, progress, self.num_positions)
        return choose(
            torch.rand(count, self.num_positions, device=self.device),
            torch.ones(count, self.num_positions, dtype=torch.bool, device=self.device),
            masked,
        )

    def _given(self, condition: Condition, count: int) -> dict[str, Tensor]:
        """The arguments of `Denoiser.features` for a condition, and `cells`, those of a label map; the null ones where
        it is not given."""
        condition = condition.to(self.device)
        given: dict[str, Tensor] = {}
        if condition.labels is not None:
            given["rows"] = torch.where(condition.labels == NO_LABEL, self.num_classes, condition.labels)
        if condition.text is not None and condition.text_ids is not None:
            given["text"], given["text_mask"] = condition.text, condition.text_ids >= 0
        if self.num_maps:
            cells = torch.full((count, self.num_positions), self.num_maps, device=self.device)
            if condition.label_map is not None:
                cells = majority(condition.label_map, self.grid, self.num_maps).flatten(1)
            given["cells"] = cells
        return given

    def _features(
        self, tokens: Int64[Tensor, "b g p"], given: Mapping[str, Tensor]
    ) -> Float[Tensor, "b p d"]:
        rest = dict(given)
        if self.num_maps:
            tokens = torch.cat([tokens, rest.pop("cells")[:, None]], dim=1)
        return self.denoiser.features(tokens, **rest)

    def _heads(self) -> list[nn.Linear]:
        return [head for head in self.denoiser.heads if isinstance(head, nn.Linear)]
