"""The diffusion transformer DiT with adaLN-Zero (Peebles & Xie, arXiv 2212.09748, section 3.2), which SiT uses as well.

Patches of the latent are tokens with fixed 2-D sine positions. Time and class give each block its shifts, scales and
gates, which start at zero. A text is attended to between self-attention and MLP, as in PixArt-alpha (Chen et al., arXiv
2310.00426, section 2.3).

Published sizes: S 12 layers / 384 / 6 heads, B 12 / 768 / 12, L 24 / 1024 / 16, XL 28 / 1152 / 16, each with patches of
2, 4 or 8 on a latent of 32 x 32 x 4. DiT-XL/2 and SiT-XL/2 with 1,000 classes have 675 million parameters.

Letters: b images, c o channels of the latent and of the output, h w its sides, p patch, n tokens, l text tokens, k
channels of the text, d width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.models.conditioning import Attention, LabelEmbedding, TextContext, TimeEmbedding
from vqpipe.models.transformer import StackedLinear
from vqpipe.params.base import Params, is_multiple

FREQUENCIES = 256
"""Channels of the sinusoid of the time."""


class DiTParams(Params):
    """The diffusion transformer. DiT-XL/2 of VQGAN-LC's Table 4: 28 layers, 16 heads, width 1152, patch 2."""

    kind: Literal["dit"]
    """The kind of network."""
    patch: Annotated[int, Field(ge=1)]
    """Side of the squares of latent vectors that are a token; it divides the grid."""
    width: Annotated[int, Field(ge=8, multiple_of=4)]
    """Channels of a token."""
    num_layers: Annotated[int, Field(ge=1)]
    """Blocks."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    mlp_ratio: Annotated[float, Field(gt=0)]
    """Width of the MLP's middle as a multiple of `width`; 4 in the paper."""

    _heads_divide_width = is_multiple("width", "num_heads")


def grid_positions(grid: tuple[int, int], width: int) -> Float[Tensor, "n d"]:
    """Fixed 2-D positions in raster order, float64: the first half of the channels is the column's, the second the
    row's; each is sines, then cosines, of frequencies 10000 ** (-4 i / width)."""
    speed = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * speed for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)


def modulated(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b n d"]:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


class Modulation(nn.Module):
    """SiLU, then a linear layer that starts at zero, to `parts` vectors of the condition."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = StackedLinear(width, parts * width, parts)

    def forward(self, condition: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b 1 d"], ...]:
        return self.linear(nn.functional.silu(condition))[:, None].chunk(self.parts, dim=-1)


class DiTBlock(nn.Module):
    """Self-attention and MLP, each with shift, scale and gate of the condition; between them attention to a text."""

    def __init__(self, config: DiTParams, text: bool) -> None:
        super().__init__()
        width, middle = config.width, int(config.width * config.mlp_ratio)
        self.modulation = Modulation(width, 6)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, config.num_heads)
        self.cross = Attention(width, config.num_heads, context=width) if text else None
        self.mlp = nn.Sequential(
            nn.Linear(width, middle), nn.GELU(approximate="tanh"), nn.Linear(middle, width)
        )

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        condition: Float[Tensor, "b d"],
        context: Float[Tensor, "b l d"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)
        x = x + gate1 * self.attention(modulated(self.norm(x), shift1, scale1))
        if self.cross is not None:
            x = x + self.cross(x, context, mask)
        return torch.as_tensor(x + gate2 * self.mlp(modulated(self.norm(x), shift2, scale2)))


class DiT(nn.Module):
    """The network.

    Args:
        config: its shape.
        grid: h and w.
        channels: c.
        outputs: o, channels that it predicts.
        num_classes: classes of the condition; 0 leaves the null class alone.
        text_dim: channels of a text token's features; 0 for no text.

    Raises:
        MismatchError: a patch that does not divide the grid.
    """

    def __init__(
        self,
        config: DiTParams,
        grid: tuple[int, int],
        channels: int,
        outputs: int,
        num_classes: int,
        text_dim: int,
    ) -> None:
        super().__init__()
        if any(side % config.patch for side in grid):
            raise MismatchError(
                "network.patch does not divide the latent's grid", found=f"patch {config.patch}, grid {grid}",
                expected="a divisor of both sides",
            )  # fmt: skip
        self.patch, self.outputs = config.patch, outputs
        self.tokens = (grid[0] // config.patch, grid[1] // config.patch)
        self.embed = nn.Conv2d(channels, config.width, config.patch, stride=config.patch)
        positions = grid_positions(self.tokens, config.width).float()
        self.register_buffer("positions", positions, persistent=False)
        self.time = TimeEmbedding(FREQUENCIES, config.width)
        self.labels = LabelEmbedding(num_classes, config.width)
        self.text = TextContext(text_dim, config.width) if text_dim else None
        self.blocks = nn.ModuleList(DiTBlock(config, bool(text_dim)) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.modulation = Modulation(config.width, 2)
        self.head = nn.Linear(config.width, config.patch**2 * outputs)
        self._initialise()

    def inside(self) -> list[nn.Module]:
        """Its parts between embeddings and head."""
        return [self.blocks]

    def _initialise(self) -> None:
        """Xavier-uniform matrices; gates, shifts, scales, attention to a text and the head start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.embed.weight.view(len(self.embed.weight), -1))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        for layer in self.time.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        blocks = [block for block in self.blocks if isinstance(block, DiTBlock)]
        zero = [self.head, self.modulation.linear, *(block.modulation.linear for block in blocks)]
        for last in [*zero, *(block.cross.out for block in blocks if block.cross is not None)]:
            nn.init.zeros_(last.weight)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        times: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"],
        text: Float[Tensor, "b l k"] | None = None,
        text_ids: Int64[Tensor, "b l"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The prediction; a label of -1, or a text with no id but -1, is the null condition."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        condition = self.time(times) + self.labels(labels)
        context = mask = None
        if self.text is not None and text is not None and text_ids is not None:
            context, mask = self.text(text, text_ids)
        for block in self.blocks:
            tokens = block(tokens, condition, context, mask)
        out = self.head(modulated(self.norm(tokens), *self.modulation(condition)))
        squares = out.view(len(x), *self.tokens, self.patch, self.patch, self.outputs)
        return torch.as_tensor(squares.permute(0, 5, 1, 3, 2, 4).reshape(len(x), self.outputs, *x.shape[2:]))
