"""The UNet of latent diffusion (Rombach et al., arXiv 2112.10752, section 3.3 and appendix E.2).

Residual blocks with the time added in the middle, self-attention at chosen levels, and class or text by
cross-attention there. The structure, and so the number of parameters, is that of the paper's models with spatial
transformers of depth 1.

Published sizes: LDM-4 on ImageNet has channels 192, multipliers [1, 2, 3, 5], 2 blocks, attention at levels 1 to 3
and a context of 512: 400.92 million parameters. The text model of the same code, with channels 320, multipliers
[1, 2, 4, 4], attention at levels 0 to 2 and a text of width 768, has 859.52 million. VQGAN-LC's LDM rows (Tables 4
and 5, appendix A) have four levels and guidance 1.4.

Letters: b images, c o channels of the latent and of the output, h w its sides, d channels of a level, e of the time's
embedding, n positions, l context tokens, k channels of the context.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.models.conditioning import Attention, LabelEmbedding, TextContext, TimeEmbedding
from vqpipe.models.transformer import StackedLinear
from vqpipe.params.base import Params


class UNetParams(Params):
    """The UNet of latent diffusion."""

    kind: Literal["unet"]
    """The kind of network."""
    channels: Annotated[int, Field(ge=8, multiple_of=8)]
    """Channels of the first level."""
    channel_multipliers: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Channels of each level as a multiple of `channels`; each level but the last halves the sides, rounded up."""
    num_blocks: Annotated[int, Field(ge=1)]
    """Residual blocks per level on the way down; one more on the way up."""
    attention_levels: tuple[Annotated[int, Field(ge=0)], ...]
    """Levels (0 is the largest grid) with attention after every block. The middle, at the last level, always has it."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the channels of every level with attention."""
    context_width: Annotated[int, Field(ge=8)]
    """Channels of the class's or the text's vectors that cross-attention looks at; no part of an unconditional net."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Rate inside residual blocks."""

    @model_validator(mode="after")
    def _levels_exist(self) -> UNetParams:
        last = len(self.channel_multipliers) - 1
        beyond = [level for level in self.attention_levels if level > last]
        if beyond:
            raise ValueError(f"attention_levels {beyond} do not exist; levels are 0 to {last}")
        for level in {*self.attention_levels, last}:
            width = self.channels * self.channel_multipliers[level]
            if width % self.num_heads:
                raise ValueError(
                    f"the {width} channels of level {level} are not a multiple of num_heads {self.num_heads}"
                )
        return self


def _norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels, eps=eps)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class TimedBlock(nn.Module):
    """Norm, SiLU, 3x3, plus the time, norm, SiLU, dropout, 3x3 that starts at zero, plus the input."""

    def __init__(self, inputs: int, outputs: int, time: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.dropout = _norm(outputs), nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b e"]) -> Float[Tensor, "b d h w"]:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return torch.as_tensor(self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(h)))))


class SpatialTransformer(nn.Module):
    """Self-attention, cross-attention and a gated MLP over positions, plus the input; the last layer starts at zero."""

    def __init__(self, channels: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.norm, self.into = _norm(channels, 1e-6), nn.Conv2d(channels, channels, 1)
        self.norm1, self.attention = nn.LayerNorm(channels), Attention(channels, num_heads, bias=False)
        self.norm2 = nn.LayerNorm(channels) if context else None
        self.cross = Attention(channels, num_heads, context, bias=False) if context else None
        self.norm3, self.gated = nn.LayerNorm(channels), StackedLinear(channels, 8 * channels, 2)
        self.back = nn.Linear(4 * channels, channels)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(
        self,
        x: Float[Tensor, "b d h w"],
        context: Float[Tensor, "b l k"] | None,
        mask: Bool[Tensor, "b 1 1 l"] | None,
    ) -> Float[Tensor, "b d h w"]:
        tokens = self.into(self.norm(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm1(tokens))
        if self.cross is not None and self.norm2 is not None:
            tokens = tokens + self.cross(self.norm2(tokens), context, mask)
        value, gate = self.gated(self.norm3(tokens)).chunk(2, dim=-1)
        tokens = tokens + self.back(value * F.gelu(gate))
        return torch.as_tensor(x + self.out(tokens.transpose(1, 2).unflatten(2, x.shape[2:])))


class Stage(nn.Module):
    """A residual block and, at levels with attention, a transformer."""

    def __init__(
        self, inputs: int, outputs: int, time: int, config: UNetParams, attends: bool, context: int
    ) -> None:
        super().__init__()
        self.block = TimedBlock(inputs, outputs, time, config.dropout)
        self.attention = SpatialTransformer(outputs, config.num_heads, context) if attends else None

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b e"], context: Any, mask: Any
    ) -> Float[Tensor, "b d h w"]:
        x = self.block(x, time)
        return x if self.attention is None else torch.as_tensor(self.attention(x, context, mask))


class UNet(nn.Module):
    """The network; arguments as those of `DiT`, and any grid."""

    def __init__(
        self,
        config: UNetParams,
        grid: tuple[int, int],
        channels: int,
        outputs: int,
        num_classes: int,
        text_dim: int,
    ) -> None:
        super().__init__()
        first, time = config.channels, 4 * config.channels
        widths = [first * multiplier for multiplier in config.channel_multipliers]
        context = config.context_width if num_classes or text_dim else 0
        self.time = TimeEmbedding(first, time)
        self.labels = LabelEmbedding(num_classes, context) if num_classes else None
        self.text = TextContext(text_dim, context) if text_dim else None
        self.into = nn.Conv2d(channels, first, 3, padding=1)

        skips, width = [first], first
        self.down, self.smaller = nn.ModuleList(), nn.ModuleList()
        for level, own in enumerate(widths):
            attends = level in config.attention_levels
            stages = nn.ModuleList()
            for _ in range(config.num_blocks):
                stages.append(Stage(width, own, time, config, attends, context))
                width = own
                skips.append(width)
            self.down.append(stages)
            if level < len(widths) - 1:
                self.smaller.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList(
            Stage(width, width, time, config, attends, context) for attends in (True, False)
        )
        self.up, self.larger = nn.ModuleList(), nn.ModuleList()
        for level, own in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(config.num_blocks + 1):
                attends = level in config.attention_levels
                stages.append(Stage(width + skips.pop(), own, time, config, attends, context))
                width = own
            self.up.append(stages)
            if level:
                self.larger.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm, self.head = _norm(width), _zeroed(nn.Conv2d(width, outputs, 3, padding=1))

    def inside(self) -> list[nn.Module]:
        """Its parts between embeddings and head."""
        return [self.down, self.smaller, self.middle, self.up, self.larger]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"],
        text: Float[Tensor, "b l k"] | None = None,
        text_ids: Int64[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The prediction; a label of -1, or a text with no id but -1, is the null condition."""
        time, context, mask = self.time(times), None, None
        if self.labels is not None:
            context = self.labels(labels)[:, None]
        elif self.text is not None and text is not None and text_ids is not None:
            context, mask = self.text(text, text_ids)
        h = self.into(x)
        skips = [h]
        for level, stages in enumerate(self.down):
            for stage in stages.children():
                h = stage(h, time, context, mask)
                skips.append(h)
            if level < len(self.smaller):
                h = self.smaller[level](h)
                skips.append(h)
        for stage in self.middle:
            h = stage(h, time, context, mask)
        for level, stages in enumerate(self.up):
            for stage in stages.children():
                h = stage(torch.cat([h, skips.pop()], dim=1), time, context, mask)
            if level < len(self.larger):
                h = self.larger[level](F.interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
        return torch.as_tensor(self.head(F.silu(self.norm(h))))
