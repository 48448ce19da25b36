"""Params of the `clip` stage: which CLIP the whole pipeline uses, pinned or fitted here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params
from vqpipe.params.training import TrainingParams


class TagSource(Params):
    """Pretrained weights that open_clip knows by a tag; fetched once into its cache."""

    kind: Literal["tag"]
    """Discriminator."""
    model: Annotated[str, Field(min_length=1)]
    """Name of an architecture in open_clip, such as `ViT-B-32`."""
    tag: Annotated[str, Field(min_length=1)]
    """Name of a set of weights for it, such as `openai`."""


class FileSource(Params):
    """Pretrained weights in a local file."""

    kind: Literal["file"]
    """Discriminator."""
    model: Annotated[str, Field(min_length=1)]
    """Name of an architecture in open_clip; with `config`, any name, used in the CLIP id."""
    path: Annotated[str, Field(min_length=1)]
    """A safetensors file, a torch checkpoint that loads with `weights_only`, or OpenAI's TorchScript archive."""
    quick_gelu: bool | None = None
    """Whether the weights were trained with QuickGELU, as OpenAI's were, instead of GELU. Null takes it from the file
    (OpenAI's archives are recognised), then from `config` or from the model's name; where those leave it open, as for
    `ViT-B-32`, it must be said."""
    config: str | None = None
    """An open_clip config JSON (`model_cfg`, `preprocess_cfg`), where open_clip has no name for the model."""


Source = Annotated[TagSource | FileSource, Field(discriminator="kind")]


class VisionTower(Params):
    """A vision transformer."""

    image_size: Annotated[int, Field(ge=8)]
    """Side of the square input, in pixels."""
    patch_size: Annotated[int, Field(ge=1)]
    """Side of a patch, in pixels; divides `image_size`."""
    width: Annotated[int, Field(ge=8)]
    """Channels; a multiple of `head_width`."""
    layers: Annotated[int, Field(ge=1)]
    """Transformer blocks."""
    head_width: Annotated[int, Field(ge=1)]
    """Channels per attention head."""
    patch_dropout: Annotated[float, Field(ge=0, lt=1)]
    """Part of the patches left out of each training image: cheaper steps (FLIP, Li et al. 2023)."""
    pool: Literal["tok", "avg"]
    """The image embedding is taken from the class token, or from the mean of the patches."""

    @model_validator(mode="after")
    def _divides(self) -> VisionTower:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.head_width:
            raise ValueError(f"head_width {self.head_width} does not divide width {self.width}")
        return self


class TextTower(Params):
    """A causal text transformer over CLIP's 49,408 byte-pair tokens."""

    context_length: Annotated[int, Field(ge=4)]
    """Tokens per text, start and end included; longer texts are cut."""
    width: Annotated[int, Field(ge=8)]
    """Channels; a multiple of `heads`."""
    heads: Annotated[int, Field(ge=1)]
    """Attention heads."""
    layers: Annotated[int, Field(ge=1)]
    """Transformer blocks."""

    @model_validator(mode="after")
    def _divides(self) -> TextTower:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class FitParams(Params):
    """Fitting a small CLIP to the training captions: architecture, contrastive loss and optimisation."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the weights, the order of the images, the crops and the caption drawn for each image."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of the shared image-text space."""
    vision: VisionTower
    """The image tower."""
    text: TextTower
    """The text tower."""
    initial_temperature: Annotated[float, Field(gt=0)]
    """Softmax temperature of the contrastive loss at the start; it is learned."""
    max_logit_scale: Annotated[float, Field(gt=0)]
    """Upper bound of the inverse temperature (100 in CLIP)."""
    crop: Literal["centre", "random"]
    """How a training image is cut to the tower's resolution."""
    flip: bool
    """Mirror training images at random; keep it off where captions speak of left and right."""
    training: TrainingParams
    """Optimiser, schedule and averaging; `accumulate` stays 1."""

    @model_validator(mode="after")
    def _whole_batches(self) -> FitParams:
        if self.training.accumulate > 1:
            raise ValueError(
                "training.accumulate must be 1: each caption is set against all images of its batch, so that the loss "
                "of micro-batches is another one"
            )
        return self


class ClipParams(Params):
    """The `clip` section."""

    pretrained: Source | None = None
    """A pretrained CLIP, or null to fit a small one to the data set's training captions."""
    fit: FitParams | None = None
    """How to fit; required where `pretrained` is null, unused otherwise."""
    num_retrieval: Annotated[int, Field(ge=2)]
    """Validation images, from the first on, among which retrieval is measured; recall depends on it."""

    @model_validator(mode="after")
    def _one_source(self) -> ClipParams:
        if self.pretrained is None and self.fit is None:
            raise ValueError("pretrained is null, so the section `fit` must say how to fit a CLIP")
        return self
