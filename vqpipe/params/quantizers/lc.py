"""Params of VQGAN-LC: frozen centroids and a projector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vqpipe.params.quantizers.nearest import NearestCodeParams


class LcParams(NearestCodeParams):
    """Frozen centroids of CLIP patch features and a trained projector (VQGAN-LC)."""

    kind: Literal["lc"]
    num_codes: int = Field(ge=1)
    """K: the first K of the prior's centroids are the codebook."""
    distance: Literal["cosine", "euclidean"]
    """How the nearest code is found: `cosine` in the paper, `euclidean` in its reference code."""
    init: Literal["standard", "data"]
    """Projector at the start: `standard` (a linear layer's own, the paper's form), or `data`: set so that the
    projected codes have the mean and covariance of the first batch's latents."""
    projector: bool = True
    """Whether the trained linear layer makes the codes from the centroids. False: the centroids are the codes, and
    `dim` must be theirs (the paper's table 9, row 1)."""
    trainable: bool = False
    """Train the centroids too instead of keeping them as they start (table 9, row 2)."""
    source: Literal["centroids", "random"] = "centroids"
    """Centroids at the start: the prior's, or `random`: drawn from a normal distribution with their mean and variance
    in each dimension (table 6's random initialisation)."""

    @model_validator(mode="after")
    def _data_sets_the_projector(self) -> LcParams:
        if self.init == "data" and not self.projector:
            raise ValueError("init data sets the projector, and projector is false; set init: standard")
        return self
