"""Params of VQGAN-LC: frozen centroids and a projector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
