"""Params of the quantizers that learn their own codes and take the nearest one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.quantizers.soft import ScheduleParams

BetaOn = Literal["commitment", "codebook"]
"""Which term beta weighs; the other term has weight 1. See `vqpipe.quantizers.nearest.code_losses`."""

Estimator = Literal["rotation", "straight_through"]
"""How the gradient passes the search. See `vqpipe.quantizers.estimators`."""


class CommittedParams(Params):
    """What every quantizer with a nearest-code search states."""

    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives; 1x1 convolutions around it map from and to the trunk's
    channels."""
    beta: float = Field(ge=0)
    """Weight of one of the two code losses; `beta_on` says which. Of the commitment |z - sg(e)|^2 where the method
    has no other."""
    estimator: Estimator = "straight_through"
    """How the gradient of z_q reaches z: `straight_through` as it is (VQ-VAE), or `rotation`: turned and scaled as z
    has to be to become its code (the rotation trick)."""


class NearestCodeParams(CommittedParams):
    """The same for methods whose codes are moved by a loss."""

    beta_on: BetaOn
    """`commitment`: beta weighs |z - sg(e)|^2 (VQ-VAE, the papers). `codebook`: beta weighs |sg(z) - e|^2
    (VQGAN's legacy order)."""


class LearnedCodesParams(NearestCodeParams):
    """The same for a codebook that is a parameter itself."""

    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K (the papers' form), or `data`: latents of the first batch drawn
    at random."""


class VqParams(LearnedCodesParams):
    """A codebook that is learned by gradient descent (VQ-VAE, VQGAN)."""

    kind: Literal["vq"]


class RestartParams(Params):
    """Codes that are hardly used become latents of the batch."""

    threshold: float = Field(gt=0)
    """Smoothed uses per step, over all ranks, under which a code is dead."""
    every: int = Field(ge=1)
    """Training steps (forward passes) from one look for dead codes to the next."""


class EmaParams(CommittedParams):
    """A codebook that follows the mean of its latents, without gradient (VQ-VAE's appendix)."""

    kind: Literal["ema"]
    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    decay: float = Field(ge=0, lt=1)
    """Of the moving averages; 0.99 in the paper and in VQGAN-LC's baseline."""
    epsilon: float = Field(gt=0)
    """Uses that every code counts as having had (Laplace smoothing); common: 1e-5."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K, or `data`: latents of the first batch drawn at random."""
    restart: RestartParams | None
    """Restart dead codes; None: leave them."""


class FcParams(LearnedCodesParams):
    """A codebook of low dimension (factorised codes: ViT-VQGAN, VQGAN-LC's FC baseline). `dim` is that dimension:
    32 in ViT-VQGAN, 8 in VQGAN-LC."""

    kind: Literal["fc"]
    normalise: bool
    """Latents and codes on the unit sphere: true in ViT-VQGAN, false in VQGAN-LC's baseline."""


class ContrastiveParams(Params):
    """A term that draws each code to its nearest latents and away from the far half."""

    weight: float = Field(gt=0)
    """Of the term; 1 in the reference code."""
    temperature: float = Field(gt=0)
    """Of the similarities; 0.07 in the paper."""


class CvqParams(LearnedCodesParams):
    """Codes that are hardly used move to latents of the batch, the less used the further (CVQ-VAE)."""

    kind: Literal["cvq"]
    anchor: Literal["closest", "probrandom", "random"]
    """The latent that a code moves to: its `closest`; `probrandom`, drawn by softmax over the similarities; or
    `random`, any. By `euclidean` distance, codes that start close together share a closest latent: there use `init:
    data`."""
    distance: Literal["cosine", "euclidean"] = "euclidean"
    """What is near and similar, in the search, for anchors and in the contrastive term: minus the squared distance
    (`euclidean`), or the cosine (the reference code's default)."""
    decay: float = Field(gt=0, lt=1)
    """Of the running usage; 0.99 in the paper."""
    contrastive: ContrastiveParams | None
    """The contrastive term; None leaves it out."""


class RegVqParams(LearnedCodesParams):
    """A prior over codes and a share of sampled positions (Regularized VQ)."""

    kind: Literal["reg_vq"]
    temperature: ScheduleParams
    """Of the distribution softmax(-|z - e|^2 / temperature) of each latent over codes."""
    prior_weight: float = Field(ge=0)
    """Weight of the divergence of the batch's mean distribution from the uniform prior, in nats. 0 leaves it out."""
    stochastic_share: float = Field(ge=0, le=1)
    """Share of the positions that take a sampled code in training, the rest the nearest; 0: none."""


class SimVqParams(NearestCodeParams):
    """Frozen random codes under one trained linear map (SimVQ)."""

    kind: Literal["sim_vq"]
    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    bias: bool
    """Whether the map has a bias: false in the paper's form, true for `init: data`."""
    init: Literal["standard", "data"]
    """The map at the start: `standard` (a linear layer's own, the paper's form), or `data`: set so that the codes have
    the mean and covariance of the first batch's latents."""

    @model_validator(mode="after")
    def _data_needs_bias(self) -> SimVqParams:
        if self.init == "data" and not self.bias:
            raise ValueError("init data moves the codes' mean to that of the latents, which needs bias: true")
        return self
