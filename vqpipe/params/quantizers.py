"""Params of the quantizers: one model per method, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params

BetaOn = Literal["commitment", "codebook"]
"""Which term beta weighs; the other term has weight 1. See `vqpipe.quantizers.nearest.code_losses`."""


class NearestCodeParams(Params):
    """What every quantizer with a nearest-code search states."""

    dim: int = Field(ge=1)
    """Dimension of the z that the quantizer receives; 1x1 convolutions around it map from and to the trunk's
    channels."""
    beta: float = Field(ge=0)
    """Weight of one of the two code losses; `beta_on` says which."""
    beta_on: BetaOn
    """`commitment`: beta weighs |z - sg(e)|^2 (VQ-VAE, the papers). `codebook`: beta weighs |sg(z) - e|^2
    (VQGAN's legacy order)."""


class VqParams(NearestCodeParams):
    """A codebook that is learned by gradient descent (VQ-VAE, VQGAN)."""

    kind: Literal["vq"]
    num_codes: int = Field(ge=1)
    """K, the number of codes."""
    init: Literal["uniform", "data"]
    """Codes at the start: `uniform` in +-1/K (the papers' form), or `data`: latents of the first batch drawn
    at random."""


class GcnTransferParams(Params):
    """Word vectors to codes by graph convolutions over the modifying graph."""

    kind: Literal["gcn"]
    num_layers: int = Field(ge=1, le=8)
    """Graph convolutions: 3 in the paper, 2 in its reference code."""
    hidden_dim: int = Field(ge=1)
    """Width of the layers before the last."""
    final_relu: bool
    """A ReLU after the last layer too: true in the paper (codes are then non-negative), false in its
    reference code."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout after each ReLU but the last: 0 in the paper, 0.5 in its reference code."""
    edge_weights: Literal["binary", "count"]
    """`binary`: an edge is there or not (the paper's A). `count`: weighted by how often the pair is said
    (reference code)."""


class MlpTransferParams(Params):
    """Word vectors to codes word by word, without the graph (the paper's ablation)."""

    kind: Literal["mlp"]
    num_layers: int = Field(ge=1, le=8)
    """Linear layers."""
    hidden_dim: int = Field(ge=1)
    """Width of the layers before the last."""
    final_relu: bool
    """A ReLU after the last layer too; codes are then non-negative."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout after each ReLU but the last."""


TransferParams = Annotated[GcnTransferParams | MlpTransferParams, Field(discriminator="kind")]


class VqctParams(NearestCodeParams):
    """Adjective and noun codebooks made from word vectors (VQCT). Their sizes are those of the words
    prior."""

    kind: Literal["vqct"]
    transfer: TransferParams
    """The network that makes the codebooks from the word vectors."""
    init: Literal["standard", "data"]
    """Transfer network at the start: `standard` (Glorot, the papers' form), or `data`: its last layer is then
    set so that the codes have the mean and covariance of the first batch's latents (only their scale where
    `final_relu` is true)."""

    @model_validator(mode="after")
    def _two_halves(self) -> VqctParams:
        if self.dim % 2:
            raise ValueError(f"dim must be even, half for adjectives and half for nouns; it is {self.dim}")
        return self


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


QuantizerParams = Annotated[VqParams | VqctParams | LcParams, Field(discriminator="kind")]
