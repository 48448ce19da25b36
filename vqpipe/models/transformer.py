"""Causal transformer blocks with a key-value cache: the trunk of the autoregressive priors.

Pre-LN blocks with GELU and a 4x MLP, as in GPT-2 (Radford et al., 2019) and the prior of VQGAN (Esser et al.,
2021).

Letters: b batch, t tokens of this call, s tokens seen so far (t included), d width, a heads, e width of a
head.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class LayerCache:
    """Keys and values of one attention layer, in buffers of a fixed length that fill up from the left."""

    def __init__(self, batch: int, num_heads: int, capacity: int, head_width: int, like: Tensor) -> None:
        shape = (batch, num_heads, capacity, head_width)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.length = 0

    def append(
        self, keys: Float[Tensor, "b a t e"], values: Float[Tensor, "b a t e"]
    ) -> tuple[Float[Tensor, "b a s e"], Float[Tensor, "b a s e"]]:
        """Store the new keys and values and return all of them; more than the capacity is our own bug."""
        end = self.length + keys.shape[2]
        assert end <= self.keys.shape[2], "the cache is full"
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t d"], cache: LayerCache | None = None) -> Float[Tensor, "b t d"]:
        b, t, d = x.shape
        queries, keys, values = (
            self.qkv(x).view(b, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        before = 0
        if cache is not None:
            before = cache.length
            keys, values = cache.append(keys, values)
        # One new token sees everything; several after a prefix need the lower triangle shifted by the prefix.
        mask = None
        if before and t > 1:
            mask = torch.ones(t, before + t, dtype=torch.bool, device=x.device).tril(before)
        y = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=before == 0 and t > 1,
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))
        return F.dropout(out, self.dropout, self.training)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); the MLP is 4x wide with GELU."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, num_heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Float[Tensor, "b t d"], cache: LayerCache | None = None) -> Float[Tensor, "b t d"]:
        x = x + self.attention(self.norm1(x), cache)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Stack(nn.Module):
    """Blocks in a row; `caches` are theirs in order."""

    def __init__(self, num_layers: int, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_layers))

    def forward(
        self, x: Float[Tensor, "b t d"], caches: list[LayerCache] | None = None
    ) -> Float[Tensor, "b t d"]:
        for at, block in enumerate(self.blocks):
            x = block(x, caches[at] if caches is not None else None)
        return x

    def new_caches(self, batch: int, capacity: int, like: Tensor) -> list[LayerCache]:
        """Empty caches for `batch` sequences of up to `capacity` tokens, in the dtype of `like`."""
        made = []
        for block in self.blocks:
            attention = block.attention
            assert isinstance(attention, CausalAttention)
            heads = attention.num_heads
            made.append(LayerCache(batch, heads, capacity, attention.out.in_features // heads, like))
        return made


def init_gpt(module: nn.Module) -> None:
    """GPT-2's initialisation, for `nn.Module.apply`: weights N(0, 0.02), biases 0, norms 1 and 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        nn.init.zeros_(module.bias)


WITH_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Linear, nn.modules.conv._ConvNd)
"""Layers whose weights decay in a network with convolutions."""


def decay_groups(
    module: nn.Module, layers: tuple[type[nn.Module], ...] = (nn.Linear,)
) -> list[dict[str, object]]:
    """Parameter groups for AdamW: decay on the matrices of layers and of attention, none on biases, norms, codes,
    embeddings and other vectors. A weight under spectral norm, whose length has no effect, does not decay.

    Args:
        module: its trained parameters are grouped; both groups keep their order.
        layers: classes of the layers whose `weight` decays, by default linear ones.
    """
    decaying = {
        id(parameter)
        for part in module.modules()
        for name, parameter in part.named_parameters(recurse=False)
        if (name == "weight" and isinstance(part, layers)) or name == "in_proj_weight"
    }
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying]},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
