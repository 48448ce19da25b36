"""The networks that tasks train over an image's codes: codes as tokens, alone or next to words.

Letters: b batch, d dimension of the latent, h w its grid, n tokens of an image, t words, e width.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.params.base import Params, is_multiple
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.words import PAD


class HeadParams(Params):
    """A transformer over an image's codes."""

    width: Annotated[int, Field(ge=8)]
    """e, channels."""
    num_layers: Annotated[int, Field(ge=1)]
    """Layers."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of attention weights, MLPs and residuals."""
    side: Annotated[int, Field(ge=1)] | None
    """Most tokens along a side of the image: of a finer grid, squares of positions make a token each. With half as many
    attention is 16 times cheaper. Grids of 16 x 16 and of 8 x 8 both have 64 tokens at 8. Null: a token for each
    position."""

    _heads_divide_width = is_multiple("width", "num_heads")


class Standardise(nn.Module):
    """Each channel of a latent less its mean, over its standard deviation; both are constants of the training images.

    A norm of each position would drop a vector's mean and length, by which codes of few dimensions and raw patches
    differ. Before `standardise` it changes nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim, 1, 1))
        self.register_buffer("std", torch.ones(dim, 1, 1))

    def forward(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        return (z_q - self.mean) / self.std


@torch.no_grad()
def standardise(head: nn.Module, inputs: FrozenInputs) -> None:
    """Set the constants of every `Standardise` in a head from its training inputs, `MOMENTS` of them evenly spaced; a
    channel that does not vary keeps its scale."""
    parts = [part for part in head.modules() if isinstance(part, Standardise)]
    if not parts:
        return
    rows = np.unique(np.linspace(0, len(inputs) - 1, MOMENTS).astype(np.int64))
    batches = [inputs.batch(rows[at : at + 64]).z_q.double().cpu() for at in range(0, len(rows), 64)]
    mean = torch.stack([len(z_q) * z_q.mean(dim=(0, 2, 3)) for z_q in batches]).sum(dim=0) / len(rows)
    from_mean = [(z_q - mean[:, None, None]) ** 2 for z_q in batches]
    std = (
        torch.stack([len(one) * one.mean(dim=(0, 2, 3)) for one in from_mean]).sum(dim=0) / len(rows)
    ).sqrt()
    for part in parts:
        part.mean.copy_(mean[:, None, None])
        part.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std))[:, None, None])


MOMENTS = 1024
"""Examples that the constants of a head are computed from."""


def square_of(space: CodeSpace, side: int | None) -> int:
    """The side of the squares of positions that make a token.

    Raises:
        MismatchError: no square of positions makes few enough tokens.
    """
    square = 1 if side is None else math.ceil(max(space.grid) / side)
    if any(length % square for length in space.grid):
        raise MismatchError(
            "head.side does not divide the grid of the input",
            found=f"side {side}, a grid of {' x '.join(map(str, space.grid))}",
            expected="a divisor of both sides, or null",
        )
    return square


class CodeTokens(nn.Module):
    """A latent as tokens: channels are standardised, squares of positions are joined (`HeadParams.side`), and a learned
    vector of its place is added.

    Raises:
        MismatchError: as `square_of`.
    """

    def __init__(self, space: CodeSpace, width: int, side: int | None) -> None:
        super().__init__()
        square = square_of(space, side)
        self.num_tokens = space.num_positions // square**2
        self.standardise = Standardise(space.dim)
        self.project = nn.Conv2d(space.dim, width, square, stride=square)
        self.places = nn.Parameter(torch.empty(self.num_tokens, width).normal_(std=0.02))

    def forward(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n e"]:
        return self.joined(z_q) + self.places

    def joined(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n e"]:
        """The tokens without their places."""
        return self.project(self.standardise(z_q)).flatten(2).transpose(1, 2)


class JointTransformer(nn.Module):
    """Image tokens and words in one bidirectional transformer (pre-norm, GELU), and a learned query before both.

    The state of the query after the last norm is what heads predict from: the regression token of TransVG
    (arXiv 2104.08541), or the last hidden state that LG-VQ's question answering uses (its appendix A.1).

    Args:
        space: of the input.
        num_words: size of the vocabulary; row `PAD` is not attended.
        max_words: most words of a text.
        image: makes tokens (b, n, e) of a latent; `CodeTokens` without it.
    """

    def __init__(
        self,
        space: CodeSpace,
        params: HeadParams,
        num_words: int,
        max_words: int,
        image: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width = params.width
        self.image: nn.Module = CodeTokens(space, width, params.side) if image is None else image
        self.words = nn.Embedding(num_words, width, padding_idx=PAD)
        self.word_places = nn.Parameter(torch.empty(max_words, width).normal_(std=0.02))
        self.query = nn.Parameter(torch.empty(1, width).normal_(std=0.02))
        layer = nn.TransformerEncoderLayer(
            width, params.num_heads, 4 * width, params.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, params.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():
            self.words.weight.normal_(std=0.02)[PAD] = 0
        for block in self.layers.layers:  # the layers are copies of one: each gets a start of its own
            for part in block.modules():
                if isinstance(part, nn.Linear):
                    nn.init.xavier_uniform_(part.weight)
            nn.init.xavier_uniform_(block.self_attn.in_proj_weight)

    def forward(self, z_q: Float[Tensor, "b d h w"], words: Int64[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        """The query's state; t may be any number of words up to `max_words`."""
        return self.states(z_q, words)[:, 0]

    def states(self, z_q: Float[Tensor, "b d h w"], words: Int64[Tensor, "b t"]) -> Float[Tensor, "b n e"]:
        """The states of the query, of the image's tokens and of the words, in this order."""
        image = self.image(z_q)
        text = self.words(words) + self.word_places[: words.shape[1]]
        tokens = torch.cat([self.query.expand(len(image), 1, -1), image, text], dim=1)
        seen = words.new_zeros(len(words), 1 + image.shape[1], dtype=torch.bool)
        found: Tensor = self.norm(
            self.layers(tokens, src_key_padding_mask=torch.cat([seen, words == PAD], dim=1))
        )
        return found
