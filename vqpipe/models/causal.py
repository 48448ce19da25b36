"""The causal transformer of the prior `gpt`: a prefix, then the codes of a grid; blocks as in GPT-2 or as in LlamaGen.

Position i of a sequence is input i: first the p vectors of the prefix, then the codes in raster order without the last
one. What comes out at the last vector of the prefix predicts the first code, and what comes out at a code the next one.

Two groups of codes are VQCT's two streams (its reference code): at each position a linear layer and GELU join the
embeddings of both codes, three quarters of the layers are shared, and each stream has a last quarter, a norm and a head
of its own.

Letters: b batch, p vectors of the prefix, g groups, h w the grid, n = h * w positions, t tokens of this call, s tokens
that a query can look at, c capacity of a cache, d width, a heads, e width of a head, k codes of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.models.transformer import StackedLinear
from vqpipe.params.base import Params, is_multiple

NORM_EPS = 1e-5


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


Caches = Sequence[Sequence[LayerCache]]
"""The caches of the shared stack, then those of each branch."""


class Gpt2Block(Params):
    """LayerNorm, GELU and an MLP 4x wide, all with biases (Radford et al., 2019; VQGAN, Esser et al., 2021)."""

    kind: Literal["gpt2"]
    """The kind of block."""


class LlamaBlock(Params):
    """RMSNorm and SwiGLU without biases, as in LlamaGen (Sun et al., arXiv 2406.06525)."""

    kind: Literal["llama"]
    """The kind of block."""
    multiple_of: Annotated[int, Field(ge=1)]
    """The MLP is 8 / 3 as wide as the network, rounded up to a multiple of this; 256 in LlamaGen."""


class DropoutParams(Params):
    """Dropout rates, by place. VQGAN has one rate for all; LlamaGen 0.1 and none on attention weights."""

    embedding: Annotated[float, Field(ge=0, lt=1)]
    """Of the inputs of the first block, prefix included (LlamaGen's token dropout)."""
    attention: Annotated[float, Field(ge=0, lt=1)]
    """Of attention weights."""
    residual: Annotated[float, Field(ge=0, lt=1)]
    """Of the output of attention."""
    mlp: Annotated[float, Field(ge=0, lt=1)]
    """Of the output of the MLP."""


class TransformerParams(Params):
    """The causal transformer. VQGAN-LC's: 24 layers, 16 heads, width 1024, `gpt2` and learned positions."""

    num_layers: Annotated[int, Field(ge=1)]
    """Blocks between a token and its prediction; with two groups the last quarter is a branch each."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    width: Annotated[int, Field(ge=8)]
    """Channels of the residual stream."""
    block: Annotated[Gpt2Block | LlamaBlock, Field(discriminator="kind")]
    """The kind of block and of the last norm."""
    learned_positions: bool
    """Whether a learned vector is added to each input, as in VQGAN and GPT-2."""
    rotary_base: Annotated[float, Field(gt=1)] | None
    """Whether queries and keys turn with row and column, and with which base, as in LlamaGen, whose base is 10,000;
    with a smaller one more planes turn within a small grid. Null for no rotary positions."""
    prefix_attention: Literal["causal", "full"]
    """Whether vectors of the prefix look at those after them, too (`full`, VQGAN's code: `n_unmasked`). Without effect
    on a prefix of one vector: `condition: none` and `class`."""
    head_bias: bool
    """Whether the heads have biases, as VQCT's do."""
    dropout: DropoutParams
    """Dropout rates."""

    _heads_divide_width = is_multiple("width", "num_heads")

    @model_validator(mode="after")
    def _has_positions(self) -> TransformerParams:
        if self.rotary_base is not None and self.width // self.num_heads % 4:
            raise ValueError(
                f"rotary positions need a multiple of 4 channels in a head, not {self.width // self.num_heads}"
            )
        if self.rotary_base is None and not self.learned_positions:
            raise ValueError("the network needs positions: learned_positions, rotary_base or both")
        return self

    @property
    def head_width(self) -> int:
        """e, channels of a head."""
        return self.width // self.num_heads


def grid_places(rows: int, columns: int, scale: int = 1) -> Float[Tensor, "n 2"]:
    """Row and column of the centre of each cell in raster order, where `scale` cells are as wide as one token."""
    down, right = ((torch.arange(side, dtype=torch.float64) + 0.5) / scale - 0.5 for side in (rows, columns))
    return torch.cartesian_prod(down, right)


def turns(places: Float[Tensor, "n 2"], dim: int, base: float) -> Float[Tensor, "2 n e"]:
    """Cosines and sines that turn queries and keys by their row and column, so that scores depend on offsets.

    2-D rotary positions as in LlamaGen's code (after Su et al., arXiv 2104.09864): of the e / 2 planes of a head one
    half turns with the row, the other with the column, by `base` ** (-4 i / e) radians a step for i = 0 .. e / 4 - 1.
    A plane has the coordinates i and i + e / 2; LlamaGen's has 2 i and 2 i + 1, which is an order of channels.

    Args:
        places: row and column of each position.
        dim: e, a multiple of 4.
        base: the slowest plane turns by nearly 1 / `base` a step.
    """
    speed = base ** (-torch.arange(0, dim, 4, dtype=torch.float64, device=places.device) / dim)
    planes = (places[:, :, None].double() * speed).flatten(1).repeat(1, 2)
    return torch.stack([planes.cos(), planes.sin()]).float()


def turned(x: Float[Tensor, "... t e"], rotation: Float[Tensor, "2 t e"]) -> Float[Tensor, "... t e"]:
    """`x` with each plane, of coordinates i and i + e / 2, turned as `turns` says."""
    cosine, sine = rotation.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def prefix_mask(prefix: int, length: int, device: torch.device) -> Bool[Tensor, "s s"]:
    """Which position (column) each position (row) looks at: all of the prefix, and those up to itself."""
    at = torch.arange(length, device=device)
    return (at <= at[:, None]) | (at < prefix)


class Attention(nn.Module):
    """Multi-head self-attention in which a token sees itself and the tokens before it."""

    def __init__(self, shape: TransformerParams) -> None:
        super().__init__()
        self.num_heads, self.dropout = shape.num_heads, shape.dropout
        bias = shape.block.kind == "gpt2"
        self.qkv = StackedLinear(shape.width, 3 * shape.width, 3, bias)
        self.out = nn.Linear(shape.width, shape.width, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        cache: LayerCache | None,
        rotation: Float[Tensor, "2 t e"] | None,
        mask: Bool[Tensor, "t t"] | None,
    ) -> Float[Tensor, "b t d"]:
        b, t, d = x.shape
        projected = self.qkv(x).view(b, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        queries, pairs, own = projected[0], projected[1:], mask
        if rotation is not None:  # keys are cached as they are turned
            queries, keys = turned(projected[:2], rotation)
            pairs = torch.stack([keys, pairs[1]])
        if cache is not None:
            pairs, filled = cache.add(pairs)
            own = mask if filled is None else filled
        if t == 1 and isinstance(cache, GrowingCache):
            # One token on a CPU: plain products take less time than the fused form.
            weights = (queries * queries.shape[-1] ** -0.5 @ pairs[0].transpose(2, 3)).softmax(-1)
            y = weights @ pairs[1]
        else:
            # Several tokens are the whole sequence or its start; a single new one sees all that is not masked.
            y = F.scaled_dot_product_attention(
                queries, pairs[0], pairs[1], attn_mask=own, is_causal=t > 1 and own is None,
                dropout_p=self.dropout.attention if self.training else 0.0,
            )  # fmt: skip
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, t, d))
        return F.dropout(out, self.dropout.residual, self.training)


class SwiGLU(nn.Module):
    """W2 (silu(W1 x) * W3 x) without biases (Shazeer, arXiv 2002.05202); `up` has W1, then W3."""

    def __init__(self, width: int, multiple_of: int) -> None:
        super().__init__()
        hidden = -(-(8 * width // 3) // multiple_of) * multiple_of
        self.up = StackedLinear(width, 2 * hidden, 2, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        gate, value = self.up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * value)
        return out


def _norm(shape: TransformerParams) -> nn.Module:
    kind = nn.RMSNorm if shape.block.kind == "llama" else nn.LayerNorm
    return kind(shape.width, eps=NORM_EPS)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, shape: TransformerParams) -> None:
        super().__init__()
        width, self.dropout = shape.width, shape.dropout.mlp
        self.norm1, self.attention, self.norm2 = _norm(shape), Attention(shape), _norm(shape)
        if isinstance(shape.block, LlamaBlock):
            self.mlp: nn.Module = SwiGLU(width, shape.block.multiple_of)
        else:
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        cache: LayerCache | None,
        rotation: Float[Tensor, "2 t e"] | None,
        mask: Bool[Tensor, "t t"] | None,
    ) -> Float[Tensor, "b t d"]:
        x = x + self.attention(self.norm1(x), cache, rotation, mask)
        return x + F.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


class Stack(nn.Module):
    """Blocks in a row; `caches` are theirs in order, `rotation` is that of their queries and keys, and `mask` states
    what several tokens look at, by default themselves and those before."""

    def __init__(self, num_layers: int, shape: TransformerParams) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(shape) for _ in range(num_layers))

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        caches: Sequence[LayerCache] | None = None,
        rotation: Float[Tensor, "2 t e"] | None = None,
        mask: Bool[Tensor, "t t"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        for at, block in enumerate(self.blocks):
            x = block(x, caches[at] if caches is not None else None, rotation, mask)
        return x


class CodeEmbedding(nn.Module):
    """A vector for the codes of all groups at a position: of one group its embedding, of several a linear layer and
    GELU over theirs, joined."""

    def __init__(self, num_codes: Sequence[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(k, width) for k in num_codes)
        joint = nn.Sequential(nn.Linear(len(num_codes) * width, width), nn.GELU())
        self.join = nn.Identity() if len(num_codes) == 1 else joint

    def forward(self, codes: Int64[Tensor, "b g t"]) -> Float[Tensor, "b t d"]:
        parts = [table(codes[:, group]) for group, table in enumerate(self.tables)]
        joined: Tensor = self.join(torch.cat(parts, dim=-1))
        return joined


class CausalTransformer(nn.Module):
    """Embeddings of codes, positions, blocks, and a norm and a head for each group of codes.

    Args:
        shape: the params.
        num_codes: k of each group.
        num_positions: n.
        prefix: p.
        rotation: turns of all p + n - 1 inputs; None without rotary positions.
    """

    rotation: Float[Tensor, "2 s e"] | None
    """Turns of queries and keys, by position."""
    positions: Float[nn.Parameter, "s d"] | None
    """Learned positions, which start at 0."""

    def __init__(
        self,
        shape: TransformerParams,
        num_codes: Sequence[int],
        num_positions: int,
        prefix: int,
        rotation: Float[Tensor, "2 s e"] | None,
    ) -> None:
        super().__init__()
        self.shape, self.prefix, self.length = shape, prefix, prefix + num_positions - 1
        branched = 0 if len(num_codes) == 1 else max(1, shape.num_layers // 4)
        self.codes = CodeEmbedding(num_codes, shape.width)
        learned = nn.Parameter(torch.zeros(self.length, shape.width)) if shape.learned_positions else None
        self.register_parameter("positions", learned)
        self.register_buffer("rotation", rotation, persistent=False)
        self.shared = Stack(shape.num_layers - branched, shape)
        self.branches = nn.ModuleList(Stack(branched, shape) for _ in num_codes)
        self.norms = nn.ModuleList(_norm(shape) for _ in num_codes)
        self.heads = nn.ModuleList(nn.Linear(shape.width, k, bias=shape.head_bias) for k in num_codes)

    def features(
        self,
        prefix: Float[Tensor, "b p d"],
        codes: Int64[Tensor, "b g t"],
        added: Float[Tensor, "b n d"] | None = None,
    ) -> list[Float[Tensor, "b t+1 d"]]:
        """What the head of each group gets at the last vector of the prefix and at each of the first t codes; `added`
        is as in `inputs`."""
        inputs = self.inputs(prefix, self.codes(codes), added)
        return [y[:, self.prefix - 1 :] for y in self.hidden(inputs, slice(inputs.shape[1]))]

    def inputs(
        self,
        prefix: Float[Tensor, "b p d"],
        codes: Float[Tensor, "b t d"],
        added: Float[Tensor, "b n d"] | None,
    ) -> Float[Tensor, "b p+t d"]:
        """The prefix and the embedded codes, with the first of `added` added to the inputs that predict a position."""
        inputs = torch.cat([prefix, codes], dim=1)
        if added is None:
            return inputs
        return inputs + F.pad(added[:, : codes.shape[1] + 1], (0, 0, self.prefix - 1, 0))

    def hidden(
        self,
        inputs: Float[Tensor, "b t d"],
        places: slice | Int64[Tensor, " t"],
        caches: Caches | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """What the heads of each group get, at all inputs.

        Args:
            places: positions of the inputs: the start of the sequence as a slice, or a single one in a tensor.
            caches: of what came before, to which this is added; without them the inputs are the whole sequence.
        """
        x = inputs if self.positions is None else inputs + self.positions[places]
        rotation = None if self.rotation is None else self.rotation[:, places]
        x = F.dropout(x, self.shape.dropout.embedding, self.training)
        mask = None
        if self.shape.prefix_attention == "full" and self.prefix > 1 and isinstance(places, slice):
            mask = prefix_mask(self.prefix, x.shape[1], x.device)
        x = self.shared(x, caches[0] if caches is not None else None, rotation, mask)
        out = []
        for group, (branch, norm) in enumerate(zip(self.branches, self.norms, strict=True)):
            out.append(norm(branch(x, caches[1 + group] if caches is not None else None, rotation, mask)))
        return out
