"""Params of LG-VQ's alignment losses, a block of any tokenizer variant.

The papers' terms: alpha, beta and gamma of equation 9 are the weights of `global`, `masked` and `relationship`. The
reference code's configs: .001 each for CUB-200; .001, .01, .0001 for CelebA-HQ and TextCaps.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from vqpipe.params.base import Params
from vqpipe.params.quantizers import QuantizerParams
from vqpipe.params.quantizers.lc import LcParams
from vqpipe.params.quantizers.residual import ResidualParams
from vqpipe.params.quantizers.vqct import NoTransferParams, VqctParams

Weight = Annotated[float, Field(ge=0)]

WITHOUT_GRADIENT = ("ema", "fsq", "lfq")
"""Methods that have no code vectors (`fsq`, `lfq`), or whose codes take no gradient (`ema`)."""


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

    weight: Weight
    """Alpha; 0 leaves the loss out."""
    directions: Literal["image_to_text", "both"]
    """`image_to_text`, the paper's form: each image among the captions of its batch. `both`: the mean of that and of
    each caption among the images."""
    temperature: TemperatureParams
    """Divides the cosines: `{kind: fixed, value: 1.0}` in the paper."""
    gather: bool
    """Whether the batch of all ranks stands against itself, or each rank's share against itself (the paper's form);
    the same with one rank. With `training.accumulate` it is a micro-batch that stands against itself, either way."""


class MaskedParams(Params):
    """Masked text prediction: the masked words of a caption from the others and the codes (equation 6).

    The part of the words that is masked is drawn for each batch from a normal distribution truncated to [low, high].
    """

    weight: Weight
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


class RelationshipParams(Params):
    """Relationship alignment: cosines between words, passed on to the code vectors that stand for them (equation 8).

    Which code stands for a word is found by a network that this loss does not train: its layers learn from the other
    two losses, its last step into the words' space from masked text prediction alone. Without that loss the words'
    places are arbitrary, if consistent, and without both nothing in it is trained.
    """

    weight: Weight
    """Gamma; 0 leaves the loss out."""
    projection: Literal["mlp", "none"]
    """What lies between a code vector and its cosine: a linear layer, GELU and layer norm to the words' width (`mlp`,
    the reference code's form), or nothing (`none`, equation 8 as it is written)."""


class AlignParams(Params):
    """Alignment of the codes with captions (LG-VQ). A loss that is null, or of weight 0, is not built."""

    width: Annotated[int, Field(ge=8)]
    """Channels of the transformer over the codes (256 in the reference code)."""
    num_layers: Annotated[int, Field(ge=1)]
    """Its layers (2)."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads, there and in masked text prediction (1); they divide both widths."""
    max_tokens: Annotated[int, Field(ge=3)]
    """Longest caption in byte-pair tokens, start and end included (30)."""
    global_: GlobalParams | None = Field(alias="global")
    """Global semantic alignment, or null."""
    masked: MaskedParams | None
    """Masked text prediction, or null."""
    relationship: RelationshipParams | None
    """Relationship alignment, or null."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`global` is a keyword of the language, so the field has another name; stored params have the written one."""
        return {name.removesuffix("_"): value for name, value in handler(self).items()}

    @model_validator(mode="after")
    def _fits(self) -> AlignParams:
        if not self.losses():
            raise ValueError("no loss has a weight above 0; set align to null to train without alignment")
        widths = {"width": self.width} | ({"masked.width": self.masked.width} if self.masked else {})
        for name, width in widths.items():
            if width % self.num_heads:
                raise ValueError(f"{name} {width} is not a multiple of num_heads {self.num_heads}")
        return self

    def losses(self) -> tuple[str, ...]:
        """The losses in use: those of `global`, `masked` and `relationship` with a weight above 0."""
        parts = {"global": self.global_, "masked": self.masked, "relationship": self.relationship}
        return tuple(name for name, part in parts.items() if part is not None and part.weight > 0)


def has_gradient_codes(quantizer: QuantizerParams) -> bool:
    """Whether a loss on the method's code vectors trains something: the codes, or what makes them.

    False for `fsq`, `lfq` (no vectors), `ema` (a buffer), a frozen `lc` without projector, and `vqct` with neither a
    transfer network nor trained words.
    """
    base = quantizer.base if isinstance(quantizer, ResidualParams) else quantizer
    if isinstance(base, LcParams):
        return base.projector or base.trainable
    if isinstance(base, VqctParams):
        return base.trainable_words or not isinstance(base.transfer, NoTransferParams)
    return base.kind not in WITHOUT_GRADIENT


def check_alignment(align: AlignParams, quantizer: QuantizerParams) -> None:
    """Raise `ValueError` where the relationship loss has no code vectors to train; for the tokenizer's validator."""
    if "relationship" in align.losses() and not has_gradient_codes(quantizer):
        base = quantizer.base if isinstance(quantizer, ResidualParams) else quantizer
        over = "residual over " if base is not quantizer else ""
        raise ValueError(
            f"align.relationship trains code vectors, and quantizer {over}{base.kind} has none that take a gradient; "
            f"set align.relationship to null, or its weight to 0{_OTHER_WAYS.get(base.kind, '')}"
        )


_OTHER_WAYS = {
    "lc": ", or the quantizer's projector or trainable to true",
    "vqct": ", or give the quantizer a transfer network or trainable_words",
}
