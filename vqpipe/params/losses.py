"""Params of the losses that train a tokenizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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


class AdversarialParams(Params):
    """Hinge adversarial loss (VQGAN, arXiv 2012.09841, equations 5 to 7)."""

    weight: Annotated[float, Field(ge=0)]
    """Factor on the adaptive weight (0.8 in VQGAN and VQCT, 0.1 in VQGAN-LC); 0 trains without a discriminator."""
    start: Annotated[float, Field(ge=0, le=1)]
    """Part of the training after which the discriminator and its loss begin."""
    warmup: Annotated[float, Field(ge=0, le=1)]
    """Part of the training over which the discriminator learns alone after `start`, before its loss counts."""
    max_adaptive_weight: Annotated[float, Field(gt=0)]
    """Upper bound of the adaptive weight (1e4 in VQGAN)."""
    discriminator: DiscriminatorParams


class LossParams(Params):
    """All losses of a tokenizer beside the quantizer's own."""

    reconstruction: ReconstructionParams
    perceptual: PerceptualParams
    perceptual_weight: Annotated[float, Field(ge=0)]
    """Weight of the perceptual distance beside the pixel losses (VQGAN uses 1)."""
    adversarial: AdversarialParams
    quantizer_weight: Annotated[float, Field(ge=0)]
    """Weight of the quantizer's loss (1 in VQGAN; 0.1 in VQGAN-LC's reference code)."""
