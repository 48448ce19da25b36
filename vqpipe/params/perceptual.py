"""Params of the perceptual distance, shared by the training loss and the evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vqpipe.params.base import Params


class NoPerceptual(Params):
    """No perceptual distance."""

    kind: Literal["none"]
    """Discriminator."""


class ClipPerceptualParams(Params):
    """Distance between activations of the CLIP in use; reported as `clip_distance`, never as LPIPS."""

    kind: Literal["clip"]
    """Discriminator."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Transformer blocks of the image tower whose activations are compared, counted from 0."""


class LpipsPerceptualParams(Params):
    """LPIPS v0.1; its trunk's weights must lie in the local torch hub cache."""

    kind: Literal["lpips"]
    """Discriminator."""
    net: Literal["alex", "vgg"]
    """Trunk: `alex` for reporting, `vgg` for training (Zhang et al. 2018)."""


PerceptualParams = Annotated[
    NoPerceptual | ClipPerceptualParams | LpipsPerceptualParams, Field(discriminator="kind")
]
