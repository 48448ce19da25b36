"""Causal transformer blocks with a key-value cache: the trunk of the autoregressive priors.

Pre-LN blocks with GELU and a 4x MLP, as in GPT-2 (Radford et al., 2019) and the prior of VQGAN (Esser et al.,
2021).

Letters: b batch, t tokens of this call, s tokens that a query can look at, c capacity of a cache, d width, a heads,
e width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class LayerCache(Protocol):
    """Keys and values of one attention layer. The first call brings the tokens of a prefix, each later one a token."""

    def add(
        self, pairs: Float[Tensor, "2 b a t e"]
    ) -> tuple[Float[Tensor, "2 b a s e"], Float[Tensor, "1 1 1 s"] | None]:
        """Store new keys and values; all of them that the new tokens can look at, and a mask to add to the scores."""


class GrowingCache:
    """A cache from which a step reads what is filled and nothing more, so each step has other shapes: for CPUs."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        self.pairs = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.length = 0

    def clear(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def add(self, pairs: Float[Tensor, "2 b a t e"]) -> tuple[Float[Tensor, "2 b a s e"], None]:
        """Store new keys and values; all of them up to now. More than the capacity is our own bug."""
        end = self.length + pairs.shape[3]
        assert end <= self.pairs.shape[3], "the cache is full"
        assert self.length == 0 or pairs.shape[3] == 1, "after its prefix a sequence grows by one token"
        self.pairs[:, :, :, self.length : end] = pairs
        self.length = end
        return self.pairs[:, :, :, :end], None


class Place:
    """The position of a step in tensors, which all fixed caches share: a captured step reads it where it is.

    Args:
        capacity: positions.
        like: gives dtype and device of the mask.
    """

    def __init__(self, capacity: int, like: Tensor) -> None:
        self.index: Int64[Tensor, " 1"] = torch.zeros(1, dtype=torch.int64, device=like.device)
        """The position of the newest token."""
        self.mask: Float[Tensor, "1 1 1 c"] = torch.empty(
            1, 1, 1, capacity, dtype=like.dtype, device=like.device
        )
        """0 up to that position and -inf after it."""
        self.begin(1)

    def begin(self, length: int) -> None:
        """Go to the last token of a prefix."""
        self.index.fill_(length - 1)
        self.mask.fill_(-torch.inf)
        self.mask[..., :length] = 0

    def advance(self) -> None:
        """Go to the next position, without a look at which one it is."""
        self.index.add_(1)
        self.mask.index_fill_(3, self.index, 0)


class FixedCache:
    """A cache whose steps all have equal shapes: a query looks at all places, and `Place` masks those after its own."""

    def __init__(self, shape: tuple[int, ...], like: Tensor, place: Place) -> None:
        # Zeros: a weight of 0 does not hide what is not a number.
        self.pairs = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.place = place

    def add(
        self, pairs: Float[Tensor, "2 b a t e"]
    ) -> tuple[Float[Tensor, "2 b a s e"], Float[Tensor, "1 1 1 s"] | None]:
        """Store new keys and values; those of a prefix alone, or all places and the mask."""
        length = pairs.shape[3]
        if length > 1:
            self.pairs[:, :, :, :length] = pairs
            return pairs, None
        self.pairs.index_copy_(3, self.place.index, pairs)
        return self.pairs, self.place.mask


def grid_rotation(grid: tuple[int, int], dim: int, base: float = 100.0) -> Float[Tensor, "2 n e"]:
    """Cosines and sines that turn queries and keys by their row and column, so that scores depend on offsets.

    Axial rotary positions (Su et al., arXiv 2104.09864; for images Heo et al., arXiv 2403.13298): of the
    e / 2 planes of a head one half turns with the row, the other with the column, by `base` ** (-4 i / e) radians a
    step for i = 0 .. e / 4 - 1.

    Args:
        grid: rows and columns; n is their product, in raster order.
        dim: e, a multiple of 4.
        base: the slowest plane turns by nearly 1 / `base` a step.
    """
    speed = base ** (-torch.arange(0, dim, 4, dtype=torch.float64) / dim)
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    planes = torch.cat([rows.reshape(-1, 1) * speed, columns.reshape(-1, 1) * speed], dim=1).repeat(1, 2)
    return torch.stack([planes.cos(), planes.sin()]).float()


def turned(x: Float[Tensor, "... t e"], rotation: Float[Tensor, "2 t e"]) -> Float[Tensor, "... t e"]:
    """`x` with each plane, of coordinates i and i + e / 2, turned as `grid_rotation` says."""
    cosine, sine = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        cache: LayerCache | None = None,
        rotation: Float[Tensor, "2 t e"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        b, t, d = x.shape
        projected = self.qkv(x).view(b, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        queries, pairs, mask = projected[0], projected[1:], None
        if rotation is not None:  # keys are cached as they are turned
            queries, keys = turned(projected[:2], rotation)
            pairs = torch.stack([keys, pairs[1]])
        if cache is not None:
            pairs, mask = cache.add(pairs)
        if t == 1 and isinstance(cache, GrowingCache):
            y = _one_query(queries, *pairs)
        else:
            # Several tokens are the whole sequence or its prefix; a single new one sees all that is not masked.
            y = F.scaled_dot_product_attention(
                queries, pairs[0], pairs[1], attn_mask=mask, is_causal=t > 1,
                dropout_p=self.dropout if self.training else 0.0,
            )  # fmt: skip
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))
        return F.dropout(out, self.dropout, self.training)


def _one_query(
    query: Float[Tensor, "b a 1 e"], keys: Float[Tensor, "b a s e"], values: Float[Tensor, "b a s e"]
) -> Float[Tensor, "b a 1 e"]:
    """Attention of one token in sampling on a CPU, where plain products take less time than the fused form."""
    weights = (query * query.shape[-1] ** -0.5 @ keys.transpose(2, 3)).softmax(-1)
    return weights @ values


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

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        cache: LayerCache | None = None,
        rotation: Float[Tensor, "2 t e"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        x = x + self.attention(self.norm1(x), cache, rotation)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Stack(nn.Module):
    """Blocks in a row; `caches` are theirs in order, `rotation` is that of their queries and keys."""

    def __init__(self, num_layers: int, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_layers))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        caches: Sequence[LayerCache] | None = None,
        rotation: Float[Tensor, "2 t e"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        for at, block in enumerate(self.blocks):
            x = block(x, caches[at] if caches is not None else None, rotation)
        return x


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
