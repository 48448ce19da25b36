"""Params of VQCT: codebooks made from word vectors."""

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


class NoTransferParams(Params):
    """The word vectors are the codes (Table 3, rows i and ii; SPAE's codebook).

    As they are where they have the codes' dimension; where they have more, along their principal directions, which
    are found once and never trained. Where they have fewer, the quantizer is refused.
    """

    kind: Literal["none"]


TransferParams = Annotated[
    GcnTransferParams | MlpTransferParams | NoTransferParams, Field(discriminator="kind")
]


class VqctParams(NearestCodeParams):
    """Codebooks made from the words of a words prior (VQCT); their sizes are those of its vocabularies."""

    kind: Literal["vqct"]
    transfer: TransferParams
    """The network that makes the codebooks from the word vectors."""
    init: Literal["standard", "data"]
    """Transfer network at the start: `standard` (Glorot, the papers' form), or `data`: its last layer is then
    set so that the codes have the mean and covariance of the first batch's latents (only their scale where
    `final_relu` is true)."""
    codebooks: Literal["multi", "single"] = "multi"
    """`multi`: adjectives code the first half of z, nouns the second (the paper's MCB). `single`: one codebook of all
    words codes the whole of it (SCB)."""
    words: Literal["prior", "random"] = "prior"
    """Word vectors at the start: the prior's, or `random`: drawn from a normal distribution with mean 0 and the root
    mean square of all their entries (the paper's RI). Names and graph stay the prior's."""
    trainable_words: bool = False
    """Train the word vectors too (the paper's fine-tuning) instead of keeping them as they start."""
    topk_adjectives: int = Field(default=1, ge=1)
    """k: z's first half becomes the mean of its k nearest adjectives, coded by k indices: 1 in the paper, 2 in its
    reference code's configs."""

    @model_validator(mode="after")
    def _fits(self) -> VqctParams:
        multi = self.codebooks == "multi"
        if multi and self.dim % 2:
            raise ValueError(f"dim must be even, half for adjectives and half for nouns; it is {self.dim}")
        if not multi and self.topk_adjectives > 1:
            raise ValueError(
                f"topk_adjectives {self.topk_adjectives} needs codebooks: multi; a single codebook has no adjectives "
                "of its own"
            )
        if self.transfer.kind == "none" and self.init == "data":
            raise ValueError(
                "init data sets the transfer network's last layer, and transfer.kind none has none; set init: standard"
            )
        return self
