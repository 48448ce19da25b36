"""Params of the `read` stage: what can be read from a tokenizer's frozen codes, and how it is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from vqpipe.params.align import AlignParams
from vqpipe.params.base import Params
from vqpipe.params.names import Name
from vqpipe.params.training import TrainingParams


class ReadingExampleParams(Params):
    """What is kept as pictures for the report."""

    num_images: Annotated[int, Field(ge=0)]
    """Test images of each kind of picture, drawn by the seed: the same for every tokenizer."""
    num_candidates: Annotated[int, Field(ge=1)]
    """Best captions of an image, and best images of a caption, that are kept."""
    num_predictions: Annotated[int, Field(ge=1, le=10)]
    """Best predictions of a masked word that are kept."""


class ReadingParams(Params):
    """One reading: `read.common` with `read.variants.NAME` merged over it."""

    tokenizer: Name
    """The variant that is read: `artifacts/tokenizer/NAME`, and `artifacts/aligner/NAME` beside it."""
    align: AlignParams
    """The heads that are trained on the frozen codes, the same for plain and aligned tokenizers. Where the tokenizer
    has no code vectors that take a gradient, the relationship head is left out."""
    training: TrainingParams | None = None
    """How they are trained; null for as the tokenizer was: as many steps and images, at its learning rate."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the heads' weights, the test images, their captions, the masked words and the bootstrap."""
    num_images: Annotated[int, Field(ge=2)] | None = None
    """Test images that are read, drawn at random; null reads the whole test split. Retrieval is among these."""
    masked_counts: tuple[Annotated[int, Field(ge=1)], ...]
    """Numbers of words that are masked in a caption, each measured for itself: 1 and 3 in LG-VQ."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per pass in encoding and measuring; results agree to rounding for any value."""
    num_bootstrap: Annotated[int, Field(ge=100)]
    """Bootstrap resamples of each 95 % interval."""
    examples: ReadingExampleParams
    """What is kept as pictures for the report."""

    @field_validator("masked_counts")
    @classmethod
    def _rising(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if list(counts) != sorted(set(counts)):
            raise ValueError(f"masked_counts {list(counts)} do not rise")
        return counts
