"""Params of the `prior` stage: a generator over the tokens of one tokenizer.

A pair is `prior.common` with the pair's own entry of `prior.pairs` merged over it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.distances import DistanceParams
from vqpipe.params.names import Name
from vqpipe.params.training import TrainingParams


class TransformerParams(Params):
    """The causal transformer. VQGAN-LC's and taming's full scale: 24 layers, 16 heads, width 1024."""

    num_layers: Annotated[int, Field(ge=1)]
    """Blocks between a token and its prediction; with two groups the last quarter is a branch each."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    width: Annotated[int, Field(ge=8)]
    """Channels of the residual stream."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Rate after embeddings, attention weights, attention output and MLP."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TransformerParams:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class SamplingParams(Params):
    """How codes are drawn from the prediction, in this order: guidance, temperature, top-k, top-p."""

    temperature: Annotated[float, Field(gt=0)]
    """Divides the logits; 1 leaves them."""
    top_k: Annotated[int, Field(ge=1)] | None
    """Codes kept, the likeliest ones; null keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Smallest set of likeliest codes with at least this probability; 1 keeps all."""
    guidance: Annotated[float, Field(ge=0)]
    """Classifier-free guidance scale s: logits = u + s (c - u). 1 is none, 0 ignores the condition."""


class GPTParams(Params):
    """An autoregressive transformer over the indices in raster order; two streams for two groups of codes."""

    kind: Literal["gpt"]
    """The generator's kind."""
    tokenizer: Name
    """The tokenizer variant whose tokens it models."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of weights, batches, dropout and samples."""
    condition: Literal["none", "class"]
    """What the model is told: nothing, or the image's class label."""
    label_drop: Annotated[float, Field(ge=0, lt=1)]
    """Part of the labels that training replaces by the null class; guidance other than 1 needs some."""
    token_noise: Annotated[float, Field(ge=0, lt=1)]
    """Part of the input codes that training replaces with random ones (1 - pkeep of the reference code)."""
    model: TransformerParams
    """The network."""
    training: TrainingParams
    """Optimiser, schedule, averaging and checkpoints."""
    sampling: SamplingParams
    """How the samples of the metrics and of the grid are drawn."""
    num_samples: Annotated[int, Field(ge=16)]
    """Samples measured against equally many test images, or as many as the test split has."""
    distances: DistanceParams
    """The features and subsets of the distances between samples and test images."""

    @model_validator(mode="after")
    def _guidance_needs_drop(self) -> GPTParams:
        if self.sampling.guidance != 1 and (self.condition == "none" or self.label_drop == 0):
            raise ValueError("guidance other than 1 needs condition: class and label_drop above 0")
        return self


PriorParams = GPTParams
"""A union discriminated on `kind` once there is a second generator."""
