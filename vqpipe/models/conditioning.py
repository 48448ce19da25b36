"""How the networks of diffusion and flow matching get time, class and text; shared by `dit` and `unet`, and the
attention by `denoiser`.

Letters: b images, n positions, l text tokens, d width, k channels of the text's features.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.models.transformer import StackedLinear

ABSENT = -1
"""The label of an image without a class, and the id of a place without a text token."""


def sinusoid(times: Float[Tensor, " b"], dim: int, period: float = 10000.0) -> Float[Tensor, "b d"]:
    """Cosines, then sines of the times at frequencies period ** (-i / (dim // 2)); an odd `dim` ends with a zero.

    Always float32, as in the reference code of DiT and latent diffusion (Vaswani et al., 2017, section 3.5).
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=times.device)
    angles = times.float()[:, None] * torch.exp(-math.log(period) * steps / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """A sinusoid of the time, then linear, SiLU, linear.

    Args:
        frequencies: channels of the sinusoid.
        width: channels of the result.
    """

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        first = nn.Linear(frequencies, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width))

    def forward(self, times: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        wave = sinusoid(times, self.frequencies).to(next(self.parameters()).dtype)
        out: Tensor = self.mlp(wave)
        return out


class LabelEmbedding(nn.Module):
    """One vector per class; the last row is the null class, for images without a label."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Int64[Tensor, " b"]) -> Float[Tensor, "b d"]:
        out: Tensor = self.table(torch.where(labels == ABSENT, self.num_classes, labels))
        return out


class TextContext(nn.Module):
    """A text's features at the network's width; one learned vector in place of a text without tokens.

    Args:
        dim: k.
        width: d.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, width)
        self.null = nn.Parameter(0.02 * torch.randn(width))

    def forward(
        self, text: Float[Tensor, "b l k"], ids: Int64[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b 1 1 l"]]:
        """What is attended to, and where it is: `ids` are -1 after a text's end, and -1 alone for the null text."""
        empty = (ids == ABSENT).all(dim=1, keepdim=True)
        states = torch.where(empty[..., None], self.null, self.linear(text.to(self.linear.weight.dtype)))
        first = torch.arange(ids.shape[1], device=ids.device) == 0
        return states, ((ids != ABSENT) | (empty & first))[:, None, None]


class Attention(nn.Module):
    """Multi-head attention over positions, or from positions to a context.

    Args:
        width: of positions and result.
        num_heads: they divide the width.
        context: width of the context, which can be the positions themselves; 0 for self-attention with queries, keys
            and values in one matrix.
        bias: whether queries, keys and values have one.
        dropout: rate of weights and result.
    """

    def __init__(
        self, width: int, num_heads: int, context: int = 0, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        if context:
            self.query = nn.Linear(width, width, bias=bias)
            self.pairs = StackedLinear(context, 2 * width, 2, bias)
        else:
            self.qkv = StackedLinear(width, 3 * width, 3, bias)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Float[Tensor, "b l k"] | None = None,
        mask: Bool[Tensor, "b 1 1 l"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`mask` is False where the context is not to be seen."""
        if context is None:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        else:
            query, (key, value) = self.query(x), self.pairs(context).chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), rate, self.training)
