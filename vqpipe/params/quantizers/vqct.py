"""Params of VQCT: two codebooks made from word vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.quantizers.nearest import NearestCodeParams


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
