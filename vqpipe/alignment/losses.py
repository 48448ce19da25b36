"""LG-VQ's three losses between the codes of an image and its caption (arXiv 2405.14206, section 3.2).

Global semantic alignment, equation 5: InfoNCE (van den Oord et al., arXiv 1807.03748) between the codes' global token
and the frozen text feature. With B pairs, s the cosine and tau the temperature,

    image to text = - mean_i log( exp(s(v_i, t_i) / tau) / sum_j exp(s(v_i, t_j) / tau) )

The paper uses only this direction, with tau = 1 and the batch of one device. `both` takes the mean with the
direction from text to image. The text has no gradient.

Masked text prediction, equation 6: masked words of a caption from its other words and the codes of its image; the
ratio's distribution: MAGE, arXiv 2211.09117, section 3.1. Whole words are masked, as a word's other pieces would
reveal it; start, end and padding never are. The input is the text encoder's frozen input embeddings, to which a
self-attention is trained here, and not the encoder's features, which saw the whole caption: there every other position
carries the masked words. What is left of a masked word is its place and its number of pieces.

The embeddings come with a mean squared length of 1 (`CorpusVocabulary`). On the way in they are multiplied by sqrt(w),
so that their components have variance 1; positions start with a deviation of .5, about that of the projected words
which they are added to (at CLIP's .01 a head hardly sees the order of the words at its start). On the way out the
head ends in a layer norm, so that a logit starts with variance 1 and reaches sqrt(w) where head and embedding agree:
8 for a width of 64, 23 for one of 512. Against embeddings of CLIP's own length it would be 1.8 and 9.

Relationship alignment, equations 7 and 8: the cosines between a caption's words, passed on to the codes assigned to
them.

    T_i = a word's frozen input embedding, of length 1
    V_j = a position's token of the transformer over the codes, of length 1
    j_i = argmax_j <T_i, V_j>
    C_i = the code vector at position j_i, of length 1
    loss = mean over pairs of words i < i' of (<C_i, C_i'> - <T_i, T_i'>)^2

A word of several pieces is one word: its embedding is the mean of theirs. The mean is over the pairs of a
caption and then over the captions that have a pair; padding, start and end are not words.

C is gathered from the quantizer's live code vectors, so that the gradient goes to what makes them: the codes of
`vq`, the projector of `lc`, the transfer network of `vqct`. Through z_q it would only reach the encoder. With several
groups a position's vector is that of all its codes, one after the other. The assignment has no gradient: the
transformer over the codes learns from the other two losses, and its step to V only from masked text prediction, so
that without it V and the words share no space (the paper has one projection, which equation 5 trains too).

Letters: b batch, t tokens, n positions of codes, v tokens of the corpus, e width of the text features, w width of the
embeddings, m masked tokens, s words of the longest caption, c dimensions of all groups' codes together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from vqpipe.errors import MismatchError
from vqpipe.params.base import Params
from vqpipe.runtime.distributed import average, gather, own_share, world_size
from vqpipe.runtime.host import send

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Quantized


class FixedTemperature(Params):
    """A temperature that stays."""

    kind: Literal["fixed"]
    value: Annotated[float, Field(gt=0)]
    """1 in the paper."""


class LearnedTemperature(Params):
    """A temperature that is trained with the rest, as in CLIP."""

    kind: Literal["learned"]
    initial: Annotated[float, Field(gt=0)]
    """Where it starts (0.07 in CLIP)."""
    lowest: Annotated[float, Field(gt=0)]
    """It never falls below (0.01 in CLIP)."""

    @model_validator(mode="after")
    def _fits(self) -> LearnedTemperature:
        if self.initial < self.lowest:
            raise ValueError(f"initial {self.initial} is below lowest {self.lowest}")
        return self


TemperatureParams = Annotated[FixedTemperature | LearnedTemperature, Field(discriminator="kind")]


class GlobalParams(Params):
    """Global semantic alignment: InfoNCE of the codes' global token and the caption's feature (equation 5)."""

    weight: Annotated[float, Field(ge=0)]
    """Alpha; 0 leaves the loss out."""
    directions: Literal["image_to_text", "both"]
    """`image_to_text`, the paper's form: each image among the captions of its batch. `both`: the mean of that and of
    each caption among the images."""
    temperature: TemperatureParams
    """Divides the cosines: `{kind: fixed, value: 1.0}` in the paper."""
    gather: bool
    """Whether images are compared with the captions of all ranks, or with those of their own rank (the paper's form);
    the same with one rank. With `training.accumulate` the batch is a micro-batch in both cases."""


class GlobalAlignment(nn.Module):
    """The loss; a learned temperature is its only parameter, stored as a logarithm."""

    def __init__(self, config: GlobalParams) -> None:
        super().__init__()
        self.config = config
        learned = isinstance(config.temperature, LearnedTemperature)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(_start(config)))) if learned else None

    def temperature(self) -> Float[Tensor, ""]:
        """The temperature, with gradient where it is learned. One that a step brought below the lowest is set to the
        lowest first, as in CLIP's code: with a gradient, it can rise again."""
        if self.log_temperature is None or not isinstance(self.config.temperature, LearnedTemperature):
            return torch.tensor(_start(self.config))
        with torch.no_grad():
            self.log_temperature.clamp_(min=math.log(self.config.temperature.lowest))
        return self.log_temperature.exp()

    def forward(
        self, image: Float[Tensor, "b e"], text: Float[Tensor, "b e"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss, and the part of the images whose own text is the nearest.

        Args:
            image: global tokens, not normalised; row i belongs to row i of `text`.
            text: text features, not normalised.

        With `gather`, in training, all ranks must call it with as many rows; each then gets the loss of the batch of
        all ranks. Its own rows have a gradient, the others' not: the mean over ranks of the gradients is that of the
        whole batch.
        """
        with torch.autocast(image.device.type, enabled=False):
            image, text = unit(image.float()), unit(text.detach().float())
            if self.config.gather and self.training and world_size() > 1:
                image, text = _of_all_ranks(image), gather(text)
            return info_nce(image, text, self.temperature(), self.config.directions == "both")


def info_nce(
    image: Float[Tensor, "b e"], text: Float[Tensor, "b e"], temperature: Float[Tensor, ""], both: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss of unit vectors (module's text), and the accuracy from image to text."""
    logits = image @ text.T / temperature
    target = torch.arange(len(image), device=image.device)
    loss = cross_entropy(logits, target)
    if both:
        loss = (loss + cross_entropy(logits.T, target)) / 2
    return loss, (logits.detach().argmax(dim=1) == target).float().mean()


def _of_all_ranks(rows: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; this rank's have a gradient, times the number of ranks.

    Every rank computes the whole loss, and the gradients of parameters are averaged over ranks: a rank's own rows
    count once among R such losses, so their gradient is R times as large. What takes part in all R losses with its
    gradient (the temperature) is averaged as it is.
    """
    whole, own = gather(rows), rows.detach() + world_size() * (rows - rows.detach())
    share = own_share(len(whole))
    return torch.cat([whole[: share.start], own, whole[share.stop :]])


def _start(config: GlobalParams) -> float:
    temperature = config.temperature
    return temperature.initial if isinstance(temperature, LearnedTemperature) else temperature.value


class MaskedParams(Params):
    """Masked text prediction: the masked words of a caption from the others and the codes (equation 6).

    The part of the words that is masked is drawn from a normal distribution truncated to [low, high], once for each
    batch; with several ranks, or with `accumulate`, once for each rank and micro-batch.
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
    """The tokens to mask: one ratio for all rows, by which each word is masked or not; at least one word of each
    caption that has any. In training the rows are one rank's share of a micro-batch, and each share has a ratio of its
    own. `words` as in `TextBatch`; drawn on the CPU from torch's global generator."""
    ratio = float(truncated_normal(config))
    draws = send(torch.rand(words.shape), words.device)
    draws = draws.gather(1, words.clamp_min(0))
    draws = draws.masked_fill(words < 0, 2.0)
    return (words >= 0) & ((draws < ratio) | (draws == draws.amin(dim=1, keepdim=True)))


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
            real: which tokens are not padding.
            masked: which tokens are masked, all of them real.
            codes: the tokens of the transformer over the codes.
            embeddings: the text encoder's frozen input embeddings of the corpus's tokens, of mean squared length 1.
        """
        return self._logits_at(masked.nonzero(as_tuple=True), rows, real, masked, codes, embeddings)

    def _logits_at(
        self,
        places: tuple[Tensor, ...],
        rows: Int64[Tensor, "b t"],
        real: Bool[Tensor, "b t"],
        masked: Bool[Tensor, "b t"],
        codes: Float[Tensor, "b n w"],
        embeddings: Float[Tensor, "v w"],
    ) -> Float[Tensor, "m v"]:
        words = embedding(rows, embeddings) * math.sqrt(embeddings.shape[1])
        x = torch.where(masked[..., None], self.mask_token, self.into(words))
        x = x + self.positions[: x.shape[1]]
        hidden = ~real
        hidden[:, 0] = False  # a caption without a token must attend to something; its output is not used
        memory = self.memory(codes)
        for layer in self.layers:
            x = layer(x, memory, tgt_key_padding_mask=hidden)
        found = self.head(x[places])
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
        places = masked.nonzero(as_tuple=True)  # once, as the host waits for their number
        logits, targets = self._logits_at(places, rows, real, masked, codes, embeddings), rows[places]
        total = cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing, reduction="sum")
        right = (logits.detach().argmax(dim=1) == targets).sum()
        count = masked.sum()
        return mean_of(total, count, self.training), mean_of(right.float(), count, self.training)


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
        num_words: int | None = None,
    ) -> Relations:
        """The cosines that the loss compares.

        Args:
            quantized: the quantizer's pass.
            tokens: V before it is normalised.
            words: as in `TextBatch`.
            rows: each token's row of the embeddings.
            embeddings: the text encoder's frozen input embeddings of the corpus's tokens.
            num_words: as for `word_vectors`.

        Raises:
            MismatchError: a quantizer without code vectors.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            found, present = word_vectors(words, rows, embeddings, num_words)
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
        num_words: int | None = None,
    ) -> Float[Tensor, ""]:
        """The loss; 0 where no caption has two words. Arguments and errors as `relations`.

        In training with several ranks all must call it; the mean over ranks is then that over all captions.
        """
        found = self.relations(quantized, tokens, words, rows, embeddings, num_words)
        pairs = (found.present[:, :, None] & found.present[:, None, :]).triu(1)
        errors = (found.codes - found.words).square().masked_fill(~pairs, 0.0)
        counts = pairs.sum(dim=(1, 2))
        total = (errors.sum(dim=(1, 2)) / counts.clamp_min(1)).sum()
        return mean_of(total, (counts > 0).sum(), self.training)


def word_vectors(
    words: Int64[Tensor, "b t"],
    rows: Int64[Tensor, "b t"],
    embeddings: Float[Tensor, "v w"],
    num_words: int | None = None,
) -> tuple[Float[Tensor, "b s w"], Bool[Tensor, "b s"]]:
    """The mean of each word's embeddings, and which words there are; 0 where a caption has fewer than s.

    Args:
        num_words: s where the host knows it, or more; None waits for the device.
    """
    if num_words is None:
        num_words = int(words.max()) + 1 if words.numel() else 0
    numbers = torch.arange(num_words, device=words.device)
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


def unit(rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Rows of length 1; those shorter than 1e-6 are divided by 1e-6."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(1e-6)


def mean_of(total: Float[Tensor, ""], count: Tensor, over_ranks: bool) -> Float[Tensor, ""]:
    """`total / count`, and 0 where the count is 0.

    Args:
        total: a sum over this rank's items, 0 where it has none.
        count: how many they are, a scalar.
        over_ranks: divide by the ranks' mean count, so that the mean over ranks of the results (and of their
            gradients) is the mean over all items. All ranks must then call it.
    """
    count = count.float()
    if over_ranks:
        count = average(count)
    return total / count.clamp_min(1 / world_size())
