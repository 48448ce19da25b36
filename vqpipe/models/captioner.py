"""ClipCap's parts: mapping networks from an image to a prefix of a language model, and the loss of the caption.

Paper: Mokady et al., ClipCap, arXiv 2111.09734, section 3. The mapping network is an MLP, or a transformer over tokens
of the image and learned constants; what comes out is read by a causal language model as if it were embedded words.

Letters: b batch, d dimension of an image's vector, n tokens of the image, p vectors of the prefix, e width of the
language model, t words, v size of the vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

MLP_RATIO = 2
"""Hidden width of a mapper's MLP as a multiple of its width, in the reference code."""


class MlpMapper(nn.Module):
    """A prefix from one vector: linear to p e / 2, tanh, linear to p e (section 3.2).

    Args:
        dim: d.
        width: e.
        prefix: p.
    """

    def __init__(self, dim: int, width: int, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        hidden = width * prefix // 2
        self.model = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, width * prefix))

    def forward(self, vector: Float[Tensor, "b d"]) -> Float[Tensor, "b p e"]:
        flat: Tensor = self.model(vector)
        return flat.view(len(flat), self.prefix, -1)


class VectorTokens(nn.Module):
    """One vector as n tokens by a linear layer, as ClipCap feeds CLIP's feature to its transformer."""

    def __init__(self, dim: int, width: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.linear = nn.Linear(dim, num_tokens * width)

    def forward(self, vector: Float[Tensor, "b d"]) -> Float[Tensor, "b n e"]:
        flat: Tensor = self.linear(vector)
        return flat.view(len(flat), self.num_tokens, -1)


class MapperAttention(nn.Module):
    """Full multi-head self-attention; queries, keys and values have no biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys_values = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b s e"]) -> Float[Tensor, "b s e"]:
        parts = torch.cat([self.to_queries(x), self.to_keys_values(x)], dim=2)
        queries, keys, values = parts.view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


class MapperBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); the MLP has ReLU."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = (
            nn.LayerNorm(width),
            MapperAttention(width, num_heads),
            nn.LayerNorm(width),
        )
        hidden = MLP_RATIO * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Float[Tensor, "b s e"]) -> Float[Tensor, "b s e"]:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TransformerMapper(nn.Module):
    """A prefix from tokens of an image: learned constants follow them, and the prefix is what becomes of the constants.

    Pre-norm blocks with full attention, without a last norm, as in the reference code.

    Args:
        width: e.
        prefix: p.
        num_layers: blocks; 8 in the paper.
        num_heads: they divide the width; 8 in the paper.
    """

    def __init__(self, width: int, prefix: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.prefix_const = nn.Parameter(torch.randn(prefix, width))
        self.layers = nn.ModuleList(MapperBlock(width, num_heads) for _ in range(num_layers))

    def forward(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b p e"]:
        x = torch.cat([tokens, self.prefix_const.expand(len(tokens), -1, -1)], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x[:, -self.prefix :]


def word_losses(
    logits: Float[Tensor, "b t v"], tokens: Int64[Tensor, "b t"], pad: int
) -> Float[Tensor, "b t"]:
    """The negative log-likelihood of each word in nats; 0 at `pad`. The mean over words is ClipCap's loss (equation 2).

    Args:
        logits: of each word, from the language model at the last vector of the prefix, then at each word but the last.
        tokens: the words, with `pad` where there is none.
        pad: the number that is no word.
    """
    return F.cross_entropy(logits.transpose(1, 2), tokens, ignore_index=pad, reduction="none")
