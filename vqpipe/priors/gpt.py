"""GPT over image tokens, of one group of codes or of several that are predicted jointly.

One group is the prior of VQGAN (Esser et al., 2021, section 3.2) and of VQGAN-LC (section A). Two groups are
VQCT's adjective and noun streams: at each position the embeddings of both codes are joined by a linear layer
and GELU, three quarters of the layers are shared, then each stream has its own last quarter, norm and head.
Within a position the groups are predicted independently of each other given all earlier positions; the loss
is the sum of their cross-entropies.

The sequence is one class token (its last row is the null class) and the first n - 1 positions; it predicts
all n.

Letters: b images, g groups, h w the grid, n = h * w positions in raster order, k codes of a group, d width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqpipe.errors import MismatchError
from vqpipe.models.transformer import LayerCache, Stack, grid_rotation, init_gpt
from vqpipe.params.base import Params
from vqpipe.priors.contract import (
    NO_LABEL,
    Condition,
    ConditionKind,
    ImageSpace,
    Prior,
    PriorParams,
    num_known,
)
from vqpipe.priors.decoding import Decoder
from vqpipe.priors.sampling import TokenSampling

Caches = Sequence[Sequence[LayerCache]]
"""The caches of the shared stack, then those of each branch."""
LOGITS = 1 << 26
"""Logits that the loss has in memory at once: 256 MB of float32."""


class TransformerParams(Params):
    """The causal transformer. VQGAN-LC's and taming's full scale: 24 layers, 16 heads, width 1024."""

    num_layers: Annotated[int, Field(ge=1)]
    """Blocks between a token and its prediction; with two groups the last quarter is a branch each."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    width: Annotated[int, Field(ge=8)]
    """Channels of the residual stream."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Rate after embeddings, attention weights, attention output and MLP."""
    rotary: bool
    """Whether queries and keys also turn with row and column, as in LlamaGen (Sun et al., arXiv 2406.06525); learned
    positions alone are those of VQGAN and GPT-2."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerParams:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.rotary and self.width // self.num_heads % 4:
            raise ValueError(
                f"rotary positions need a multiple of 4 channels in a head, not {self.width // self.num_heads}"
            )
        return self


class GPTSampling(TokenSampling):
    """How codes are drawn, and how many images at once in which precision."""

    precision: Literal["fp32", "bf16"]
    """Of weights, activations and cache; filters and draws are float64. bf16 is for GPUs: it reads half as much."""
    batch: Annotated[int, Field(ge=1)] | None
    """Images drawn at once, or null for all. Memory grows with it; each image's random numbers do not depend on it."""


class GPTParams(PriorParams):
    """An autoregressive transformer over the indices in raster order; two streams for two groups of codes."""

    kind: Literal["gpt"]
    """The kind of prior."""
    token_noise: Annotated[float, Field(ge=0, lt=1)]
    """Part of the input codes that training replaces with random ones (1 - pkeep of the reference code)."""
    model: TransformerParams
    """The network."""
    sampling: GPTSampling
    """How the samples of the metrics and of the grid are drawn."""


class GPT(Prior):
    """Autoregressive prior; weights N(0, 0.02), learned positions that start at zero, heads without bias.

    An input has the position of the code that it predicts, in the learned and in the rotary form.
    """

    kind: ClassVar[str] = "gpt"
    Params: ClassVar[type[PriorParams]] = GPTParams
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class")
    known_tokens: ClassVar[Literal["none", "prefix", "any"]] = "prefix"
    config: GPTParams
    rotation: Float[Tensor, "2 n e"] | None
    """Turns of queries and keys by the position that is predicted; None without rotary positions."""

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Two layers of width 16."""
        return {
            "token_noise": 0.0,
            "model": {"num_layers": 2, "num_heads": 2, "width": 16, "dropout": 0.1, "rotary": True},
            "sampling": {
                "guidance": 1.0, "temperature": 1.0, "top_k": None, "top_p": 1.0,
                "precision": "fp32", "batch": None,
            },
        }  # fmt: skip

    def __init__(self, config: GPTParams, space: ImageSpace) -> None:
        super().__init__(config, space)
        shape = config.model
        self.num_codes, self.grid, self.groups = space.num_codes, space.grid, space.groups
        self.num_positions = math.prod(space.grid)
        branched = 0 if self.groups == 1 else max(1, shape.num_layers // 4)
        stack = (shape.width, shape.num_heads, shape.dropout)

        self.class_embedding = nn.Embedding(self.num_classes + 1, shape.width)
        self.code_embeddings = nn.ModuleList(nn.Embedding(k, shape.width) for k in self.num_codes)
        joint = nn.Sequential(nn.Linear(self.groups * shape.width, shape.width), nn.GELU())
        self.join = nn.Identity() if self.groups == 1 else joint
        self.positions = nn.Parameter(torch.zeros(self.num_positions, shape.width))
        rotation = grid_rotation(space.grid, shape.width // shape.num_heads) if shape.rotary else None
        self.register_buffer("rotation", rotation, persistent=False)
        self.shared = Stack(shape.num_layers - branched, *stack)
        self.branches = nn.ModuleList(Stack(branched, *stack) for _ in self.num_codes)
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in self.num_codes)
        self.heads = nn.ModuleList(nn.Linear(shape.width, k, bias=False) for k in self.num_codes)
        self.apply(init_gpt)
        self._last: tuple[Any, Decoder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the decoder of the last call, of which a captured step can be neither copied nor pickled."""
        return {**vars(self), "_last": None}

    def forward(
        self, tokens: Int64[Tensor, "b g n"], rows: Int64[Tensor, " b"]
    ) -> list[Float[Tensor, "b n k"]]:
        """Logits of each position, per group; they depend on the class row and earlier positions alone."""
        return [self.heads[group](y) for group, y in enumerate(self._features(tokens, rows))]

    def networks(self) -> Sequence[nn.Module]:
        """The stacks of blocks; embeddings, heads and the loss are not compiled."""
        return [self.shared, *self.branches]

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
        tokens = self._flat(batch)
        self.check_condition(condition, len(batch))
        return -self._nll(tokens, tokens, self._class_rows(condition.labels, len(batch))).view(batch.shape)

    def loss(self, batch: Int64[Tensor, "b g h w"], condition: Condition) -> Float[Tensor, ""]:
        """Cross-entropy in nats per position, summed over groups; training adds noise.

        In training mode the values of labels are not checked, which would wait for the device.

        Raises:
            MismatchError: as `log_likelihood`.
        """
        inputs = targets = self._flat(batch)
        if not self.training:
            return -self.log_likelihood(batch, condition).flatten(2).mean(dim=(0, 2)).sum()
        self.check_parts(condition, len(batch))
        rows = self._class_rows(condition.labels, len(batch))
        if self.config.token_noise:
            inputs = self._noisy(targets)
        return self._nll(inputs, targets, rows).mean(dim=(0, 2)).sum()

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: GPTSampling, generator: torch.Generator
    ) -> Int64[Tensor, "n g h w"]:
        """Draw `n` images' codes in raster order.

        All random numbers are taken from `generator` at once, so image i gets the same ones in any call that
        draws at least i + 1 images with as many positions, and for any `batch`.

        Args:
            condition: n labels, n images' first tokens, both or neither.
            sampling: guidance, temperature, top-k, top-p, precision and images at once.
            generator: a CPU generator.

        Raises:
            MismatchError: a condition that this model does not have, or guidance or no class where the null class was
                never trained.
        """
        self.begin_sampling(condition, n)
        rows = self._class_rows(condition.labels, n)
        if sampling.guidance != 1:
            self.need_null(f"guidance {sampling.guidance}")
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
                tokens[part] = decoder.draw(rows[part], tokens[part], uniform[part])
        return tokens.view(n, self.groups, *self.grid)

    def embed(self, codes: Int64[Tensor, "b g t"]) -> Float[Tensor, "b t d"]:
        """What each position's codes are to the network, without their place."""
        parts = [embedding(codes[:, group]) for group, embedding in enumerate(self.code_embeddings)]
        joined: Tensor = self.join(torch.cat(parts, dim=-1))
        return joined

    def hidden(
        self,
        inputs: Float[Tensor, "b t d"],
        rotation: Float[Tensor, "2 t e"] | None,
        caches: Caches | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """What the heads of each group get, for inputs with their positions added.

        Args:
            rotation: of the same positions.
            caches: of what came before, to which this is added; without them the inputs are the whole sequence.
        """
        x = F.dropout(inputs, self.config.model.dropout, self.training)
        x = self.shared(x, caches[0] if caches is not None else None, rotation)
        out = []
        for group in range(self.groups):
            y = self.branches[group](x, caches[1 + group] if caches is not None else None, rotation)
            out.append(self.norms[group](y))
        return out

    def _features(
        self, tokens: Int64[Tensor, "b g n"], rows: Int64[Tensor, " b"]
    ) -> list[Float[Tensor, "b n d"]]:
        """As `hidden`, at all positions of whole images."""
        first = self.class_embedding(rows)[:, None]
        inputs = torch.cat([first, self.embed(tokens[..., :-1])], dim=1) + self.positions
        return self.hidden(inputs, self.rotation)

    def _nll(
        self, inputs: Int64[Tensor, "b g n"], targets: Int64[Tensor, "b g n"], rows: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b g n"]:
        """Cross-entropy of each code, in blocks of positions of which one has at most `LOGITS` logits.

        With a gradient, the logits of a block are computed again when it is asked for, and never kept.
        """
        losses, again = [], partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        for group, y in enumerate(self._features(inputs, rows)):
            flat, codes = y.flatten(0, 1), targets[:, group].flatten()
            block = max(1, LOGITS // self.num_codes[group])
            if len(flat) <= block:
                own = self._cross_entropy(flat, codes, group)
            else:
                parts = zip(torch.split(flat, block), torch.split(codes, block), strict=True)
                own = torch.cat([again(self._cross_entropy, *part, group) for part in parts])
            losses.append(own.view(len(y), -1))
        return torch.stack(losses, dim=1)

    def _cross_entropy(
        self, y: Float[Tensor, "m d"], codes: Int64[Tensor, " m"], group: int
    ) -> Float[Tensor, " m"]:
        # Autocast keeps the half-precision copy of a parameter, but not of a view, for the next block; with a copy of
        # its own each block's gradient is float32 before they are added up.
        scores = F.linear(y, self.heads[group].weight[:])  # type: ignore[index]
        return F.cross_entropy(scores.float(), codes, reduction="none")

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

    def _flat(self, batch: Int64[Tensor, "b g h w"]) -> Int64[Tensor, "b g n"]:
        if batch.ndim != 4 or tuple(batch.shape[1:]) != (self.groups, *self.grid):
            raise MismatchError(
                "tokens of another shape than this prior models",
                found=f"{tuple(batch.shape)}",
                expected=f"(b, {self.groups}, {self.grid[0]}, {self.grid[1]})",
            )
        return batch.flatten(2)

    def _class_rows(self, labels: Int64[Tensor, " b"] | None, count: int) -> Int64[Tensor, " b"]:
        """Rows of the class embedding; its last one is the null class."""
        if labels is None:
            return torch.full((count,), self.num_classes, dtype=torch.int64, device=self.device)
        labels = labels.to(self.device)
        return torch.where(labels == NO_LABEL, self.num_classes, labels)
