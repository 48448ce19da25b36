"""The cosines between a caption's words, passed on to the codes assigned to them.

Paper: LG-VQ, section 3.2.2, equations 7 and 8.

    T_i = a word's frozen input embedding, of length 1
    V_j = a position's token of the transformer over the codes, of length 1
    j_i = argmax_j <T_i, V_j>
    C_i = the code vector at position j_i, of length 1
    loss = mean over pairs of words i < i' of (<C_i, C_i'> - <T_i, T_i'>)^2

A word of several byte-pair pieces is one word: its embedding is the mean of theirs. The mean is over the pairs of a
caption and then over the captions that have a pair; padding, start and end are no words.

C is gathered from the quantizer's live code vectors, so that the gradient goes to what makes them: the codes of
`vq`, the projector of `lc`, the transfer network of `vqct`. Through z_q it would only reach the encoder. With several
groups a position's vector is that of all its codes, one after the other. The assignment has no gradient: the
transformer over the codes learns from the other two losses, and its step to V only from masked text prediction, so
that without it V and the words share no space (the paper has one projection, which equation 5 trains too).

Letters: b batch, t tokens, n positions, v tokens of the corpus, w width of the embeddings, s words of the longest
caption, g groups, c dimensions of all groups' codes together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from vqpipe.alignment.text import mean_of, unit
from vqpipe.errors import MismatchError
from vqpipe.params.base import Params

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Quantized


class RelationshipParams(Params):
    """Relationship alignment: cosines between words, passed on to the code vectors assigned to them (equation 8).

    The assignment comes from a network that this loss does not train: its layers learn from the other two losses, its
    last step into the words' space only from masked text prediction. Without that loss the
    assignment is arbitrary but consistent, and without both the network is not trained.
    """

    weight: Annotated[float, Field(ge=0)]
    """Gamma; 0 leaves the loss out."""
    projection: Literal["mlp", "none"]
    """The step from a code vector to its cosine: a linear layer, GELU and layer norm to the words' width (`mlp`,
    the reference code's form), or nothing (`none`, equation 8 as it is written)."""


@dataclass(frozen=True)
class Relations:
    """Words of captions and the codes assigned to them."""

    words: Float[Tensor, "b s s"]
    """Cosines between the words, without gradient."""
    codes: Float[Tensor, "b s s"]
    """Cosines between their codes."""
    present: Bool[Tensor, "b s"]
    """Which words the caption has."""
    positions: Int64[Tensor, "b s"]
    """The position assigned to each word, in raster order."""


class RelationshipAlignment(nn.Module):
    """The loss, and the projection of the code vectors where the params ask for one.

    Args:
        config: the params.
        code_dim: c.
        word_dim: w.
    """

    def __init__(self, config: RelationshipParams, *, code_dim: int, word_dim: int) -> None:
        super().__init__()
        self.projection: nn.Module = nn.Identity()
        if config.projection == "mlp":
            self.projection = nn.Sequential(nn.Linear(code_dim, word_dim), nn.GELU(), nn.LayerNorm(word_dim))

    def relations(
        self,
        quantized: Quantized,
        tokens: Float[Tensor, "b n w"],
        words: Int64[Tensor, "b t"],
        rows: Int64[Tensor, "b t"],
        embeddings: Float[Tensor, "v w"],
    ) -> Relations:
        """The cosines that the loss compares.

        Args:
            quantized: the quantizer's pass.
            tokens: V before it is normalised.
            words: as in `TextBatch`.
            rows: each token's row of the embeddings.
            embeddings: CLIP's frozen input embeddings of the corpus's tokens.

        Raises:
            MismatchError: a quantizer without code vectors.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            found, present = word_vectors(words, rows, embeddings)
            positions = assign(found, tokens.float())
            codes = unit(self.projection(code_vectors(quantized, positions)))
            found = unit(found)
            return Relations(found @ found.mT, codes @ codes.mT, present, positions)

    def forward(
        self,
        quantized: Quantized,
        tokens: Float[Tensor, "b n w"],
        words: Int64[Tensor, "b t"],
        rows: Int64[Tensor, "b t"],
        embeddings: Float[Tensor, "v w"],
    ) -> Float[Tensor, ""]:
        """The loss; 0 where no caption has two words. Arguments and errors as `relations`.

        In training with several ranks all must call it; the mean over ranks is then that over all captions.
        """
        found = self.relations(quantized, tokens, words, rows, embeddings)
        pairs = (found.present[:, :, None] & found.present[:, None, :]).triu(1)
        errors = (found.codes - found.words).square().masked_fill(~pairs, 0.0)
        counts = pairs.sum(dim=(1, 2))
        total = (errors.sum(dim=(1, 2)) / counts.clamp_min(1)).sum()
        return mean_of(total, (counts > 0).sum(), self.training)


def word_vectors(
    words: Int64[Tensor, "b t"], rows: Int64[Tensor, "b t"], embeddings: Float[Tensor, "v w"]
) -> tuple[Float[Tensor, "b s w"], Bool[Tensor, "b s"]]:
    """The mean of each word's embeddings, and which words there are; 0 where a caption has fewer than s."""
    longest = int(words.max()) + 1 if words.numel() else 0
    numbers = torch.arange(longest, device=words.device)
    member = (words[:, None, :] == numbers[:, None]).float()  # b s t
    counts = member.sum(dim=2, keepdim=True)
    return member @ embedding(rows, embeddings) / counts.clamp_min(1), counts[..., 0] > 0


@torch.no_grad()
def assign(words: Float[Tensor, "b s w"], tokens: Float[Tensor, "b n w"]) -> Int64[Tensor, "b s"]:
    """The position whose token has the largest cosine with each word; the first of equal ones (equation 7)."""
    return (words @ unit(tokens).mT).argmax(dim=2)


def code_vectors(quantized: Quantized, positions: Int64[Tensor, "b s"]) -> Float[Tensor, "b s c"]:
    """The live code vectors at positions in raster order, the groups' one after the other, with their gradient.

    Raises:
        MismatchError: a quantizer without code vectors.
    """
    if not quantized.vectors:
        raise MismatchError(
            "the relationship loss needs code vectors, and the quantizer has none",
            expected="a method whose codes take a gradient, or align.relationship: null",
        )
    indices = quantized.indices.flatten(2)
    parts = [
        embedding(indices[:, group].gather(1, positions), vectors.float())
        for group, vectors in enumerate(quantized.vectors)
    ]
    return torch.cat(parts, dim=2)
