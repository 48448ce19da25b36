"""Params of the losses that train a tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.perceptual import PerceptualParams


class ReconstructionParams(Params):
    """Pixel losses, means over all elements of images in [-1, 1]."""

    l1: Annotated[float, Field(ge=0)]
    """Weight of the mean absolute error (VQGAN uses 1)."""
    l2: Annotated[float, Field(ge=0)]
    """Weight of the mean squared error (VQ-VAE uses 1)."""


class DiscriminatorParams(Params):
    """The patch discriminator."""

    channels: Annotated[int, Field(ge=8, multiple_of=8)]
    """Channels of its first layer (the papers' ndf, 64)."""
    num_layers: Annotated[int, Field(ge=1, le=6)]
    """Layers after the first (3 in VQGAN, 2 in VQGAN-LC)."""
    lr_scale: Annotated[float, Field(gt=0)]
    """Its learning rate as a multiple of the autoencoder's (1 in the papers)."""
    norm: Literal["batch", "group"]
    """`batch` as in the papers, or `group`, which does not depend on the batch or on the number of ranks."""
    spectral_norm: bool = False
    """Divide each convolution's weight by its largest singular value (arXiv 1802.05957), for stability."""


class R1Params(Params):
    """Gradient penalty of the discriminator at real images (Mescheder et al., arXiv 1801.04406, equation 9)."""

    weight: Annotated[float, Field(gt=0)]
    """Gamma: the discriminator's loss gets gamma / 2 times the mean over real images of |grad D(x)|^2, where D(x) is
    the mean of an image's patch logits and x lies in [-1, 1]."""
    every: Annotated[int, Field(ge=1)]
    """Steps from one penalty to the next; it then counts `every` times (lazy regularisation, arXiv 1912.04958)."""


class PlateauParams(Params):
    """When the reconstruction loss (pixel plus perceptual) no longer falls."""

    window: Annotated[int, Field(ge=1)]
    """Steps per window; the means of consecutive windows are compared."""
    min_relative_change: Annotated[float, Field(ge=0, lt=1)]
    """A window's mean that lies less than this part below the one before it is a plateau."""
    earliest: Annotated[float, Field(ge=0, le=1)]
    """Part of the training before which it does not start."""
    latest: Annotated[float, Field(ge=0, le=1)]
    """Part of the training at which it starts at the latest."""

    @model_validator(mode="after")
    def _fits(self) -> PlateauParams:
        if self.earliest > self.latest:
            raise ValueError(f"earliest {self.earliest} is after latest {self.latest}")
        return self


class PlateauStart(Params):
    """Start by what the training does instead of at a fixed part of it."""

    plateau: PlateauParams


class AdversarialParams(Params):
    """Hinge adversarial loss (VQGAN, arXiv 2012.09841, equations 5 to 7)."""

    weight: Annotated[float, Field(ge=0)]
    """Factor on the adaptive weight (0.8 in VQGAN and VQCT, 0.1 in VQGAN-LC); 0 trains without a discriminator."""
    start: Annotated[float, Field(ge=0, le=1)] | PlateauStart
    """Part of the training after which the discriminator and its loss begin, or `{plateau: {…}}`."""
    warmup: Annotated[float, Field(ge=0, le=1)]
    """Part of the training over which the discriminator learns alone after `start`, before its loss counts."""
    max_adaptive_weight: Annotated[float, Field(gt=0)]
    """Upper bound of the adaptive weight (1e4 in VQGAN)."""
    discriminator: DiscriminatorParams
    r1: R1Params | None = None
    """Gradient penalty, or none as in VQGAN."""

    @model_validator(mode="after")
    def _fits(self) -> AdversarialParams:
        if self.r1 is not None and self.discriminator.norm == "batch":
            raise ValueError(
                "r1 penalises the gradient of one image's logits, which batch norm mixes with the others'; "
                "set discriminator.norm to group, or r1 to null"
            )
        return self


class LossParams(Params):
    """All losses of a tokenizer beside the quantizer's own."""

    reconstruction: ReconstructionParams
    perceptual: PerceptualParams
    perceptual_weight: Annotated[float, Field(ge=0)]
    """Weight of the perceptual distance beside the pixel losses (VQGAN uses 1)."""
    adversarial: AdversarialParams
    quantizer_weight: Annotated[float, Field(ge=0)]
    """Weight of the quantizer's loss (1 in VQGAN; 0.1 in VQGAN-LC's reference code)."""
