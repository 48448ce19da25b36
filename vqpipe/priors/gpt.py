"""GPT over image tokens, of one group of codes or of several that are predicted jointly.

One group is the prior of VQGAN (Esser et al., 2021, section 3.2) and of VQGAN-LC (section A), or with other blocks and
positions that of LlamaGen (Sun et al., arXiv 2406.06525). Two groups are VQCT's adjective and noun streams. Within a
position the groups are predicted independently of each other given all earlier positions; the loss is the sum of their
cross-entropies.

The sequence is a prefix, which is the condition (`vqpipe.priors.prefix`), and the first n - 1 positions; it predicts
all n.

Departures from VQGAN: a condition has embeddings of its own, and positions start at zero. From LlamaGen: heads start as
all other layers do and not at zero, and a text's rotary positions are none instead of zeros.

Letters: b images, g groups, h w the grid, n = h * w positions in raster order, p vectors of the prefix, k codes of a
group, d width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqpipe.models.causal import CausalTransformer, TransformerParams, grid_places, turns
from vqpipe.models.transformer import init_gpt
from vqpipe.priors.contract import Condition, ConditionKind, ImageSpace, Prior, PriorParams, num_known
from vqpipe.priors.cross_entropy import cross_entropy
from vqpipe.priors.decoding import Decoder
from vqpipe.priors.prefix import AddedMap, ClassPrefix, MapPrefix, Prefix, TextPrefix
from vqpipe.priors.sampling import TokenSampling


class GPTSampling(TokenSampling):
    """How codes are drawn, and how many images at once in which precision."""

    guided_positions: Annotated[int, Field(ge=1)] | None
    """Positions on which guidance acts, from the first of the image on; null for all. LlamaGen's `cfg_interval` of i is
    i + 2."""
    precision: Literal["fp32", "bf16"]
    """Of weights, activations and cache; filters and draws are float64. bf16 is for GPUs: it reads half as much."""
    batch: Annotated[int, Field(ge=1)] | None
    """Images drawn at once, or null for all. Memory grows with it; each image's random numbers do not depend on it."""

    @property
    def copies(self) -> int:
        """Rows of the network for each image: with guidance also one without its condition."""
        return 1 if self.guidance == 1 else 2

    @model_validator(mode="after")
    def _guides_where_there_is_guidance(self) -> GPTSampling:
        if self.guided_positions is not None and self.guidance == 1:
            raise ValueError("guided_positions needs guidance other than 1")
        return self


class GPTParams(PriorParams):
    """An autoregressive transformer over the indices in raster order; two streams for two groups of codes."""

    kind: Literal["gpt"]
    """The kind of prior."""
    token_noise: Annotated[float, Field(ge=0, lt=1)]
    """Part of the input codes that training replaces with random ones (1 - pkeep of the reference code)."""
    map_scale: Annotated[int, Field(ge=1)]
    """Of `condition: label_map`: cells per side of a token, each with the class of most of its pixels. 1 is the tokens'
    grid, 2 has four times as many."""
    condition_as: Literal["prefix", "added"]
    """How the condition is given: `prefix`, vectors before the codes; or `added` to the input that predicts each
    position, which is learned in fewer steps: of a class its vector, of a label map those of the position's cells, with
    which the sequence is at most half as long. A text is a prefix."""
    model: TransformerParams
    """The network."""
    sampling: GPTSampling
    """How the samples of the metrics and of the grid are drawn."""

    @model_validator(mode="after")
    def _class_or_map_is_added(self) -> GPTParams:
        if self.condition in ("none", "text") and self.condition_as == "added":
            raise ValueError("condition_as: added is for a class or a label_map; a text is given as prefix")
        return self


class GPT(Prior):
    """Autoregressive prior; weights N(0, 0.02), learned positions that start at zero."""

    kind: ClassVar[str] = "gpt"
    Params: ClassVar[type[PriorParams]] = GPTParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class", "text", "label_map")
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "prefix"
    config: GPTParams

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Two layers of width 16."""
        return {
            "token_noise": 0.0,
            "map_scale": 1,
            "condition_as": "prefix",
            "model": {
                "num_layers": 2, "num_heads": 2, "width": 16, "block": {"kind": "gpt2"},
                "learned_positions": True, "rotary_base": 100.0, "prefix_attention": "causal", "head_bias": False,
                "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1, "mlp": 0.1},
            },
            "sampling": {
                "guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0, "guided_positions": None,
                "precision": "fp32", "batch": None,
            },
        }  # fmt: skip

    def __init__(self, config: GPTParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        shape = config.model
        self.num_codes, self.grid, self.groups = space.num_codes, space.grid, space.groups
        self.num_positions = math.prod(space.grid)
        self.prefix = self._prefix()
        rotation = None
        if shape.rotary_base is not None:
            places = grid_places(*space.grid)[:-1]
            own = (
                self.prefix.turns(shape.head_width, shape.rotary_base),
                turns(places, shape.head_width, shape.rotary_base),
            )
            rotation = torch.cat(own, dim=1)
        self.network = CausalTransformer(
            shape, space.num_codes, self.num_positions, self.prefix.length, rotation
        )
        self.apply(init_gpt)
        self._last: tuple[Any, Decoder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the decoder of the last call, of which a captured step can be neither copied nor pickled."""
        return {**vars(self), "_last": None}

    def forward(self, tokens: Int64[Tensor, "b g n"], condition: Condition) -> list[Float[Tensor, "b n k"]]:
        """Logits of each position, per group; they depend on the condition and earlier positions alone."""
        features = self._features(tokens, condition)
        return [head(y) for head, y in zip(self.network.heads, features, strict=True)]

    def networks(self) -> Sequence[nn.Module]:
        """The stacks of blocks; embeddings, heads and the loss are not compiled."""
        return [self.network.shared, *self.network.branches]

    def network_evaluations(self, sampling: GPTSampling, known: int = 0) -> int:
        """See `Prior.network_evaluations`: one for each position that is drawn, on CUDA mostly in a captured graph."""
        return (self.num_positions - known) * sampling.copies

    def curve_terms(self, loss: Float[Tensor, ""]) -> Mapping[str, Tensor]:
        """Bits per token."""
        return {"bits_per_token": loss / (self.groups * torch.log(torch.tensor(2.0)))}

    def log_likelihood(
        self, batch: Int64[Tensor, "b g h w"], condition: Condition
    ) -> Float[Tensor, "b g h w"]:
        """Natural log-probability of each code given the condition and the positions before it.

        Raises:
            MismatchError: a grid, group count or condition that this model does not have.
        """
        tokens = self.flat(batch)
        self.check_condition(condition, len(batch))
        return -self._nll(self._features(tokens, condition), tokens).view(batch.shape)

    def loss(self, batch: Int64[Tensor, "b g h w"], condition: Condition) -> Float[Tensor, ""]:
        """Cross-entropy in nats per position, summed over groups; training adds noise.

        In training mode the values of conditions are not checked, which would wait for the device.

        Raises:
            MismatchError: as `log_likelihood`.
        """
        tokens = self.flat(batch)
        if not self.training:
            return -self.log_likelihood(batch, condition).flatten(2).mean(dim=(0, 2)).sum()
        self.check_parts(condition, len(batch))
        inputs = self._noisy(tokens) if self.config.token_noise else tokens
        return self._nll(self._features(inputs, condition), tokens).mean(dim=(0, 2)).sum()

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: GPTSampling, generator: torch.Generator
    ) -> Int64[Tensor, "n g h w"]:
        """Draw `n` images' codes in raster order.

        All random numbers are taken from `generator` at once, so image i gets the same ones in any call that
        draws at least i + 1 images with as many positions, and for any `batch`.

        Args:
            condition: what `config.condition` names, n images' first tokens, both or neither.
            sampling: guidance, temperature, top-k, top-p, precision and images at once.
            generator: a CPU generator.

        Raises:
            MismatchError: a condition that this model does not have, or guidance or no condition where the null
                condition was never trained.
        """
        self.begin_sampling(condition, n, sampling.guidance)
        known = 0 if condition.tokens is None else num_known(condition.tokens)
        uniform = torch.rand(n, self.groups, self.num_positions, generator=generator, dtype=torch.float32)
        tokens = torch.zeros(n, self.groups, self.num_positions, dtype=torch.int64, device=self.device)
        if condition.tokens is not None:
            tokens[..., :known] = condition.tokens.to(self.device).flatten(2)[..., :known]
        if n and known < self.num_positions:
            passes = math.ceil(n / (sampling.batch or n))
            size = math.ceil(n / passes)
            decoder = self._decoder(size, known, sampling)
            for start in range(0, n, size):
                part = slice(start, start + size)
                tokens[part] = decoder.draw(condition.rows(part), tokens[part], uniform[part])
        return tokens.view(n, self.groups, *self.grid)

    def _features(self, tokens: Int64[Tensor, "b g n"], condition: Condition) -> list[Float[Tensor, "b n d"]]:
        """What the heads get at all positions of whole images."""
        prefix, added = self.prefix(condition, len(tokens)), self.prefix.added(condition, len(tokens))
        return self.network.features(prefix, tokens[..., :-1], added)

    def _prefix(self) -> Prefix:
        config, space, width = self.config, self.space, self.config.model.width
        match config.condition:
            case "text":
                return TextPrefix(space.text_length, space.text_dim, width)
            case "label_map":
                kind = AddedMap if config.condition_as == "added" else MapPrefix
                return kind(space, config.map_scale, width)
        everywhere = self.num_positions if config.condition_as == "added" and self.num_classes else 0
        return ClassPrefix(self.num_classes, width, everywhere)

    def _nll(
        self, features: Sequence[Float[Tensor, "b n d"]], targets: Int64[Tensor, "b g n"]
    ) -> Float[Tensor, "b g n"]:
        """Cross-entropy of each code."""
        heads: Iterable[Any] = self.network.heads
        losses = [
            cross_entropy(y.flatten(0, 1), head, targets[:, group].flatten()).view(len(y), -1)
            for group, (y, head) in enumerate(zip(features, heads, strict=True))
        ]
        return torch.stack(losses, dim=1)

    def _decoder(self, size: int, known: int, sampling: GPTSampling) -> Decoder:
        """The decoder of the last call, whose captured step fits while shapes, filters and weights are the same.

        On CUDA its caches stay in memory until another one is needed.
        """
        weights = [(p.data_ptr(), p._version) for p in self.parameters()]
        made_for = (size, known, sampling, weights)
        if self._last is not None and self._last[0] == made_for:
            return self._last[1]
        self._last = None  # its caches are free before others are made
        decoder = Decoder(self._in_precision(sampling.precision), size, known, sampling)
        if decoder.fixed:
            self._last = (made_for, decoder)
        return decoder

    def _in_precision(self, precision: Literal["fp32", "bf16"]) -> GPT:
        """Itself, or a copy with weights and turns in half precision."""
        if precision == "fp32":
            return self
        copies: dict[int, Tensor] = {id(b): b.to(torch.bfloat16) for b in self.buffers()}
        for own in self.parameters():
            copies[id(own)] = nn.Parameter(own.to(torch.bfloat16), requires_grad=False)
        return deepcopy(self, copies)

    def _noisy(self, tokens: Int64[Tensor, "b g n"]) -> Int64[Tensor, "b g n"]:
        """Replace a part of the positions, in all their groups, by random codes."""
        replaced = (
            torch.rand(tokens.shape[0], tokens.shape[2], device=tokens.device) < self.config.token_noise
        )
        groups = [
            torch.where(replaced, torch.randint_like(tokens[:, group], codes), tokens[:, group])
            for group, codes in enumerate(self.num_codes)
        ]
        return torch.stack(groups, dim=1)
