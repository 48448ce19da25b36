"""A bidirectional transformer over tokens, some of which are masked: the network of discrete diffusion and of masked
priors.

Every position sees every other. The time and the class modulate the norms (AdaLN), a text is read by cross-attention,
as in VQ-Diffusion (Gu et al., 2022, section 4). Where a part is not asked for, its weights are not there.

Letters: b batch, g groups of codes, n positions of the grid, k codes of a group, d width, l text tokens, f channels of
a text token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.models.conditioning import Attention
from vqpipe.models.transformer import StackedLinear, init_gpt
from vqpipe.params.base import Params, is_multiple

TIME_SCALE = 4000
"""Times are spread over this range before their sines, as in VQ-Diffusion, however many there are."""


class DenoiserParams(Params):
    """The bidirectional transformer."""

    num_layers: Annotated[int, Field(ge=1)]
    """Blocks of self-attention, cross-attention to a text, and MLP."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    width: Annotated[int, Field(ge=8)]
    """Channels of the residual stream."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Rate after embeddings, attention weights, attention output and MLP."""

    _heads_divide_width = is_multiple("width", "num_heads")


class AdaNorm(nn.Module):
    """A layer norm whose scale and shift follow the time and the class; a plain one without them."""

    def __init__(self, width: int, adaptive: bool) -> None:
        super().__init__()
        self.plain = nn.Identity() if adaptive else nn.LayerNorm(width)
        self.modulation = StackedLinear(width, 2 * width, 2) if adaptive else None

    def forward(
        self, x: Float[Tensor, "b n d"], state: Float[Tensor, "b d"] | None
    ) -> Float[Tensor, "b n d"]:
        if self.modulation is None or state is None:
            out: Tensor = self.plain(x)
            return out
        scale, shift = self.modulation(F.silu(state))[:, None].chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class Block(nn.Module):
    """Self-attention, cross-attention to a text if there is one, and an MLP, each after its norm; residuals."""

    def __init__(self, width: int, num_heads: int, dropout: float, adaptive: bool, text_dim: int) -> None:
        super().__init__()
        self.norm1 = AdaNorm(width, adaptive)
        self.attention = Attention(width, num_heads, width, dropout=dropout)
        self.text_norm = AdaNorm(width, adaptive) if text_dim else None
        self.text_attention = Attention(width, num_heads, text_dim, dropout=dropout) if text_dim else None
        self.norm2 = AdaNorm(width, adaptive)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        state: Float[Tensor, "b d"] | None,
        text: Float[Tensor, "b l f"] | None,
        mask: Bool[Tensor, "b 1 1 l"] | None,
    ) -> Float[Tensor, "b n d"]:
        y = self.norm1(x, state)
        x = x + self.attention(y, y)
        if self.text_norm is not None and self.text_attention is not None:
            x = x + self.text_attention(self.text_norm(x, state), text, mask)
        out: Tensor = x + self.mlp(self.norm2(x, state))
        return out


class Blocks(nn.Module):
    """Blocks in a row."""

    def __init__(
        self, num_layers: int, width: int, num_heads: int, dropout: float, adaptive: bool, text_dim: int
    ) -> None:
        super().__init__()
        own = (width, num_heads, dropout, adaptive, text_dim)
        self.blocks = nn.ModuleList(Block(*own) for _ in range(num_layers))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        state: Float[Tensor, "b d"] | None,
        text: Float[Tensor, "b l f"] | None,
        mask: Bool[Tensor, "b 1 1 l"] | None,
    ) -> Float[Tensor, "b n d"]:
        for block in self.blocks:
            x = block(x, state, text, mask)
        return x


class Denoiser(nn.Module):
    """From tokens of which some are masked or wrong to logits of all codes; weights N(0, 0.02).

    Args:
        num_codes: k of each group; code k itself is the group's mask.
        grid: rows and columns of positions, n in raster order.
        width: d, a multiple of `num_heads`.
        dropout: rate after embeddings, attention weights, attention output and MLP.
        num_times: times that `forward` is given, 0 to one less; None for a network without time.
        num_classes: classes; row `num_classes` of the embedding is the null class. 0 for a network without.
        text_dim: f, channels of a text's tokens; 0 for a network without text.
        text_length: l.
    """

    def __init__(
        self,
        num_codes: tuple[int, ...],
        grid: tuple[int, int],
        width: int,
        num_layers: int,
        num_heads: int,
        dropout: float,
        num_times: int | None = None,
        num_classes: int = 0,
        text_dim: int = 0,
        text_length: int = 0,
    ) -> None:
        super().__init__()
        self.num_codes, self.grid, self.dropout, self.num_times = num_codes, grid, dropout, num_times
        self.num_classes = num_classes
        self.code_embeddings = nn.ModuleList(nn.Embedding(k + 1, width) for k in num_codes)
        joint = nn.Sequential(nn.Linear(len(num_codes) * width, width), nn.GELU())
        self.join = nn.Identity() if len(num_codes) == 1 else joint
        self.rows, self.columns = (nn.Embedding(side, width) for side in grid)
        self.class_embedding = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.null_text = nn.Parameter(0.02 * torch.randn(text_length, text_dim)) if text_dim else None
        adaptive = num_times is not None or num_classes > 0
        self.blocks = Blocks(num_layers, width, num_heads, dropout, adaptive, text_dim)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, k) for k in num_codes)
        self.apply(init_gpt)

    def forward(
        self,
        tokens: Int64[Tensor, "b g n"],
        time: Int64[Tensor, " b"] | None = None,
        rows: Int64[Tensor, " b"] | None = None,
        text: Float[Tensor, "b l f"] | None = None,
        text_mask: Bool[Tensor, "b l"] | None = None,
    ) -> list[Float[Tensor, "b n k"]]:
        """Logits of the codes of each group; the mask has none.

        Args:
            tokens: codes, and k of a group where its code is not known.
            time: None only for a network without time.
            rows: classes, `num_classes` for the null class; None is the null class for all.
            text: features of a text's tokens; None is the null text for all.
            text_mask: true where a text has a token, None for everywhere; a text without any is the null text.
        """
        features = self.features(tokens, time, rows, text, text_mask)
        return [head(features) for head in self.heads]

    def features(
        self,
        tokens: Int64[Tensor, "b g n"],
        time: Int64[Tensor, " b"] | None = None,
        rows: Int64[Tensor, " b"] | None = None,
        text: Float[Tensor, "b l f"] | None = None,
        text_mask: Bool[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What the heads get: as `forward`, of which it is all but the last layer."""
        parts = [embedding(tokens[:, group]) for group, embedding in enumerate(self.code_embeddings)]
        places = (self.rows.weight[:, None] + self.columns.weight).flatten(0, 1)
        x = F.dropout(self.join(torch.cat(parts, dim=-1)) + places, self.dropout, self.training)
        text, mask = self._texts(len(x), text, text_mask)
        x = self.blocks(x, self._state(len(x), time, rows), text, mask)
        out: Tensor = self.norm(x)
        return out

    def with_null(self, given: Mapping[str, Tensor], **null: int) -> dict[str, Tensor]:
        """The arguments `rows`, `text` and `text_mask` of `features` for twice as many images: each with its condition,
        then each with the null condition, so that guidance takes one pass.

        Args:
            given: those for the images.
            null: what stands for nothing in further arguments of `given`.
        """
        null = {"rows": self.num_classes, "text": 0, "text_mask": False, **null}
        return {name: torch.cat([own, torch.full_like(own, null[name])]) for name, own in given.items()}

    def _state(
        self, count: int, time: Int64[Tensor, " b"] | None, rows: Int64[Tensor, " b"] | None
    ) -> Float[Tensor, "b d"] | None:
        """What modulates the norms: the sum of time and class; None in a network without both."""
        own = self.rows.weight
        state = None
        if self.num_times is not None:
            assert time is not None, "this network needs the time"
            state = sinusoid(time * (TIME_SCALE / self.num_times), own.shape[1]).to(own.dtype)
        if self.class_embedding is not None:
            null = self.class_embedding.num_embeddings - 1
            rows = torch.full((count,), null, device=own.device) if rows is None else rows
            embedded: Tensor = self.class_embedding(rows)
            state = embedded if state is None else state + embedded
        return state

    def _texts(
        self, count: int, text: Float[Tensor, "b l f"] | None, mask: Bool[Tensor, "b l"] | None
    ) -> tuple[Float[Tensor, "b l f"] | None, Bool[Tensor, "b 1 1 l"] | None]:
        """The texts, the null text in place of those without a token, and which tokens are there."""
        if self.null_text is None:
            return None, None
        null = self.null_text.expand(count, -1, -1)
        if text is None:
            return null, None
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        empty = ~mask.any(dim=1, keepdim=True)
        texts = torch.where(empty[..., None], null, text.to(null.dtype))
        return texts, (mask | empty)[:, None, None]


def sinusoid(time: Float[Tensor, " b"], width: int) -> Float[Tensor, "b d"]:
    """Sines, then cosines, of a time at d / 2 speeds from 1 to 1/10,000 (Vaswani et al., 2017, section 3.5)."""
    half = width // 2
    speeds = torch.exp(torch.arange(half, device=time.device) * (-math.log(10_000) / max(1, half - 1)))
    angles = time.float()[:, None] * speeds
    both = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.pad(both, (0, width - 2 * half))
