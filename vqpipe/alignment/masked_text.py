"""Masked words of a caption, predicted from its other words and the codes of its image.

Paper: LG-VQ, section 3.2.1, equation 6; the ratio's distribution: MAGE, arXiv 2211.09117, section 3.1.

Whole words are masked, as a word's other byte-pair pieces would reveal it; start, end and padding never are. The
input is CLIP's frozen input embeddings, to which a self-attention is trained here, and not the features of CLIP's
encoder, which saw the whole caption: there every other position carries the masked words. What is left of a
masked word is its place and its number of pieces.

The embeddings come with a mean squared length of 1 (`CorpusVocabulary`). On the way in they are multiplied by sqrt(w),
so that their components have variance 1; positions start with a deviation of .5, about that of the projected words
which they are added to (at CLIP's .01 a head hardly sees the order of the words at its start). On the way out the
head ends in a layer norm, so that a logit starts with variance 1 and reaches sqrt(w) where head and embedding agree:
8 for a width of 64, 23 for one of 512. Against embeddings of CLIP's own length it would be 1.8 and 9.

Letters: b batch, t tokens, n positions of codes, v tokens of the corpus, w width of the embeddings, m masked tokens.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from vqpipe.alignment.text import mean_of
from vqpipe.params.base import Params


class MaskedParams(Params):
    """Masked text prediction: the masked words of a caption from the others and the codes (equation 6).

    The part of the words that is masked is drawn for each batch from a normal distribution truncated to [low, high].
    """

    weight: Annotated[float, Field(ge=0)]
    """Beta; 0 leaves the loss out."""
    mean: float
    """Mean of the distribution before it is truncated (0.5 in the reference code)."""
    std: Annotated[float, Field(gt=0)]
    """Its standard deviation before it is truncated (0.1)."""
    low: Annotated[float, Field(ge=0, le=1)]
    """Smallest ratio (0.1)."""
    high: Annotated[float, Field(ge=0, le=1)]
    """Largest ratio (0.3; the mean is then about 0.263)."""
    num_layers: Annotated[int, Field(ge=1)]
    """Layers, each with self-attention and with cross-attention to the codes (2)."""
    width: Annotated[int, Field(ge=8)]
    """Channels of the layers and of their feed-forward part (512)."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Rate of dropout in the layers (0.1)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Part of the target that is spread evenly over the vocabulary (0.1)."""

    @model_validator(mode="after")
    def _fits(self) -> MaskedParams:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.high < self.mean - 5 * self.std or self.low > self.mean + 5 * self.std:
            raise ValueError(
                f"[{self.low}, {self.high}] is more than 5 standard deviations from the mean {self.mean}; what is left "
                "of the distribution there is one point"
            )
        return self


def truncated_normal(config: MaskedParams, shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Mask ratios, float64: N(mean, std^2) truncated to [low, high], by inversion of its distribution function.

    Drawn on the CPU from torch's global generator.
    """
    bounds = torch.tensor([config.low, config.high], dtype=torch.float64)
    lowest, highest = torch.special.ndtr((bounds - config.mean) / config.std)
    part = torch.rand(shape, dtype=torch.float64) * (highest - lowest) + lowest
    return (config.mean + config.std * torch.special.ndtri(part)).clamp(config.low, config.high)


def mask_by_ratio(config: MaskedParams, words: Int64[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """The tokens to mask: one ratio for the batch, by which each word is masked or not; at least one word of each
    caption that has any. `words` as in `TextBatch`; drawn on the CPU from torch's global generator."""
    ratio = float(truncated_normal(config))
    draws = torch.rand(words.shape).to(words.device).gather(1, words.clamp_min(0))
    draws = draws.masked_fill(words < 0, 2.0)
    return (words >= 0) & ((draws < ratio) | (draws == draws.amin(dim=1, keepdim=True)))


def mask_by_count(words: Int64[Tensor, "b t"], count: int) -> Bool[Tensor, "b t"]:
    """The tokens to mask: `count` words of each caption, or all where it has fewer, drawn like `mask_by_ratio`'s."""
    draws = torch.rand(words.shape).to(words.device)
    numbers = torch.arange(words.shape[1], device=words.device)
    present = (words[:, :, None] == numbers).any(dim=1)
    order = draws.masked_fill(~present, 2.0).argsort(dim=1).argsort(dim=1)
    return (words >= 0) & (order.gather(1, words.clamp_min(0)) < count)


class MaskedText(nn.Module):
    """Pre-LN layers with GELU and without biases, each with self-attention, cross-attention to the codes and a
    feed-forward part of the same width; a head of layer norm, Linear, GELU, layer norm; logits against the frozen
    embeddings, each with a trained bias.

    Args:
        config: the params.
        num_heads: of both attentions.
        max_tokens: the longest caption.
        num_tokens: v.
        word_dim: w.
    """

    def __init__(
        self, config: MaskedParams, *, num_heads: int, max_tokens: int, num_tokens: int, word_dim: int
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.into = nn.Linear(word_dim, width)
        self.memory = nn.Linear(word_dim, width) if word_dim != width else nn.Identity()
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(max_tokens, width) * 0.5)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                num_heads,
                width,
                config.dropout,
                "gelu",
                batch_first=True,
                norm_first=True,
                bias=False,
            )
            for _ in range(config.num_layers)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, word_dim), nn.GELU(), nn.LayerNorm(word_dim)
        )
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def logits(
        self,
        rows: Int64[Tensor, "b t"],
        real: Bool[Tensor, "b t"],
        masked: Bool[Tensor, "b t"],
        codes: Float[Tensor, "b n w"],
        embeddings: Float[Tensor, "v w"],
    ) -> Float[Tensor, "m v"]:
        """Logits over the corpus's tokens at the masked tokens, in the order of `rows[masked]`, float32.

        Args:
            rows: each token's row of the embeddings; those of masked tokens and of padding have no influence.
            real: which tokens are no padding.
            masked: which tokens are masked, all of them real.
            codes: the tokens of the transformer over the codes.
            embeddings: CLIP's frozen input embeddings of the corpus's tokens, of mean squared length 1.
        """
        words = embedding(rows, embeddings) * math.sqrt(embeddings.shape[1])
        x = torch.where(masked[..., None], self.mask_token, self.into(words))
        x = x + self.positions[: x.shape[1]]
        hidden = ~real
        hidden[:, 0] = False  # a caption without a token must attend to something; its output is not used
        memory = self.memory(codes)
        for layer in self.layers:
            x = layer(x, memory, tgt_key_padding_mask=hidden)
        found = self.head(x[masked])
        with torch.autocast(found.device.type, enabled=False):
            return found.float() @ embeddings.T + self.bias

    def forward(
        self,
        rows: Int64[Tensor, "b t"],
        real: Bool[Tensor, "b t"],
        masked: Bool[Tensor, "b t"],
        codes: Float[Tensor, "b n w"],
        embeddings: Float[Tensor, "v w"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The cross-entropy, a mean over masked tokens, and the part of them that is predicted; 0 where none is masked.

        In training with several ranks all must call it; the mean over ranks is then that over all masked tokens.
        """
        logits, targets = self.logits(rows, real, masked, codes, embeddings), rows[masked]
        total = cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing, reduction="sum")
        right = (logits.detach().argmax(dim=1) == targets).sum()
        count = masked.sum()
        return mean_of(total, count, self.training), mean_of(right.float(), count, self.training)
