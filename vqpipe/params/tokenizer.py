"""Params of the `tokenizer` stage: one trunk, one schedule, one quantizer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from vqpipe.params.align import AlignParams, check_alignment
from vqpipe.params.base import Params
from vqpipe.params.losses import LossParams
from vqpipe.params.quantizers import QuantizerParams
from vqpipe.params.quantizers.residual import ResidualParams
from vqpipe.params.training import TrainingParams
from vqpipe.params.trunk import TrunkParams

PRIOR_OF = {"vqct": "words", "lc": "patches"}
"""The prior that each quantizer needs; those not listed learn their codes and take `none`."""


def prior_of(quantizer: QuantizerParams) -> str:
    """The prior that a quantizer needs; `residual` needs that of its base."""
    base = quantizer.base if isinstance(quantizer, ResidualParams) else quantizer
    return PRIOR_OF.get(base.kind, "none")


class AugmentParams(Params):
    """How training images are cut and mirrored."""

    crop: Literal["random", "centre"]
    """Where the square is cut from a stored image that is larger than the resolution."""
    flip: bool
    """Mirror each image with probability 1/2. With `align`, an image is not mirrored where the caption that is drawn
    for it says left or right; the others are mirrored as without."""


class TokenizerParams(Params):
    """One variant: `tokenizer.common` with `tokenizer.variants.NAME` merged over it."""

    prior: Literal["none", "words", "patches"]
    """Which codebook prior the variant reads: `artifacts/prior/<prior>`."""
    foreign_prior: bool = False
    """Accept a prior that another CLIP made than the one in the losses, as of another data set (VQGAN-LC's table 8).
    False refuses it; without a CLIP in the losses it is accepted either way. Metrics then name both."""
    resolution: Annotated[int, Field(ge=8)]
    """Side of the square images in pixels."""
    trunk: TrunkParams
    latent_init: Literal["standard", "whiten"]
    """The 1x1 convolution before the quantizer at the start: `standard` (the layer's own, as in the papers), or
    `whiten`: set on the first training images so that the latent has mean 0 and identity covariance."""
    quantizer: QuantizerParams
    losses: LossParams
    training: TrainingParams
    augment: AugmentParams
    seed: Annotated[int, Field(ge=0)]
    """Seed of weights, batches and augmentation; the variants of one run share it and so share their data order."""
    align: AlignParams | None = None
    """Losses that align the codes with captions while the tokenizer is trained (LG-VQ); null for none. The data set
    needs a caption for every training image."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `align` where it is null: a tokenizer that knows nothing of alignment says nothing of it."""
        return {name: value for name, value in handler(self).items() if name != "align" or value is not None}

    @model_validator(mode="after")
    def _fits(self) -> TokenizerParams:
        if self.resolution % self.trunk.downsampling:
            raise ValueError(
                f"resolution {self.resolution} is not a multiple of the trunk's downsampling {self.trunk.downsampling}"
            )
        if self.latent_init == "whiten" and self.quantizer.dim > self.trunk.latent_channels:
            raise ValueError(
                f"latent_init whiten needs quantizer.dim {self.quantizer.dim} to be at most "
                f"trunk.latent_channels {self.trunk.latent_channels}"
            )
        if self.foreign_prior and self.prior == "none":
            raise ValueError(
                "foreign_prior is true, and prior is none: there is no prior that could be foreign"
            )
        if self.align is not None:
            check_alignment(self.align, self.quantizer)
        needed = prior_of(self.quantizer)
        if self.prior != needed:
            over = f" over {self.quantizer.base.kind}" if isinstance(self.quantizer, ResidualParams) else ""
            raise ValueError(
                f"quantizer {self.quantizer.kind}{over} needs prior {needed}, but prior is {self.prior}"
            )
        return self
