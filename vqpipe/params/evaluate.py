"""Params of the `evaluate` stage: one protocol for every tokenizer."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.distances import DistanceParams
from vqpipe.params.perceptual import PerceptualParams


class FloorsParams(Params):
    """The reconstructions that need no learning, beside which every tokenizer is shown."""

    num_patches: Annotated[int, Field(ge=1)]
    """Raw patches of training images that k-means is fitted to (at most; drawn at random)."""
    num_iterations: Annotated[int, Field(ge=1)]
    """Lloyd iterations of that k-means."""
    max_num_codes: Annotated[int, Field(ge=2)]
    """Largest K of that k-means; a tokenizer with more bits per position is shown beside a capped floor,
    named so."""


class ReplacedParams(Params):
    """Token replacement (VQGAN-LC, appendix B and figure 5): every token becomes a near code of its codebook."""

    num_images: Annotated[int, Field(ge=1, le=1000)]
    """Test images, drawn at random, the same for every tokenizer; the PSNR by rank is their mean."""
    ranks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=8)]
    """Which neighbours, rising: 1 is the nearest other code. Those that a smaller codebook does not have are left
    out for it, and named."""

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if list(self.ranks) != sorted(set(self.ranks)):
            raise ValueError(f"ranks must rise, each named once, and are {list(self.ranks)}")
        return self


class ExampleParams(Params):
    """What is kept as pictures for the report."""

    num_images: Annotated[int, Field(ge=0)]
    """Reconstructions kept of each kind: random; hard, typical and easy for the block mean; the worst."""
    num_codes: Annotated[int, Field(ge=0)]
    """Most used codes, per group, for which patches are kept."""
    num_patches: Annotated[int, Field(ge=0)]
    """Patches kept for each of these codes."""
    replaced: ReplacedParams | None = None
    """Images decoded after their tokens were replaced; null keeps none."""


class HealthParams(Params):
    """What is kept of the codebook's health beside its numbers: 0 leaves a picture out."""

    num_similar: Annotated[int, Field(ge=0, le=256)]
    """Codes of the similarity map, per group, the most used ones."""
    num_mapped: Annotated[int, Field(ge=0, le=2000)]
    """Codes on the t-SNE map, per group; of more, as many are drawn at random."""
    num_decoded: Annotated[int, Field(ge=0, le=4096)]
    """Codes fed to the decoder, the most used ones; of two groups, pairs of the most used of both."""


class EvaluateParams(Params):
    """The `evaluate` section."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the bootstrap, the floors' k-means, the train halves and the random examples."""
    num_images: Annotated[int, Field(ge=1)] | None = None
    """First test images that are measured; null measures the whole test split."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per forward pass; results agree to rounding for any value."""
    num_bootstrap: Annotated[int, Field(ge=100)]
    """Bootstrap resamples of each 95 % interval."""
    perceptual: PerceptualParams
    """The per-image perceptual distance."""
    distances: DistanceParams
    """The distances between sets of images."""
    floors: FloorsParams
    """The reconstructions that need no learning."""
    examples: ExampleParams
    """What is kept as pictures for the report."""
    health: HealthParams | None = None
    """What is kept of the codebook's health beside its numbers; null keeps nothing, and needs no
    scikit-learn."""
