"""Params of the convolutional trunk."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vqpipe.params.base import Params


class TrunkParams(Params):
    """Encoder and decoder. The papers' f16 trunk: channels 128, multipliers [1, 1, 2, 2, 4], 2 blocks, patch 1."""

    patch: Annotated[int, Field(ge=1)]
    """Side of the pixel squares folded into channels before the first convolution; 1 folds nothing."""
    channels: Annotated[int, Field(ge=8, multiple_of=8)]
    """Channels of the first level."""
    channel_multipliers: tuple[Annotated[int, Field(ge=1)], ...]
    """Channels of each level as a multiple of `channels`; each level but the last halves the resolution."""
    stem_channels: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    """Channels of the encoder's first convolution; null is those of the first level, which is the paper's where its
    multiplier is 1."""
    num_blocks: Annotated[int, Field(ge=1)]
    """Residual blocks per level of the encoder."""
    num_decoder_blocks: Annotated[int, Field(ge=1)] | None = None
    """Residual blocks per level of the decoder; null is one more than the encoder's, as in the paper."""
    attention_levels: tuple[Annotated[int, Field(ge=0)], ...]
    """Levels (0 is the highest resolution) with attention after every block."""
    middle: bool
    """Whether there is a middle of two residual blocks at the lowest resolution."""
    middle_attention: bool
    """Whether the middle has attention between its two blocks."""
    shortcut: bool
    """Add a linear map of each image patch to the encoder's output, and of each latent to the decoder's, beside the
    convolutions (not around the quantizer). Ours, for short trainings; false is the papers' trunk."""
    latent_channels: Annotated[int, Field(ge=1)]
    """Channels z between the trunk and the 1x1 convolutions around the quantizer."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout inside residual blocks."""

    @model_validator(mode="after")
    def _levels_exist(self) -> TrunkParams:
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers is empty; one level at least is needed")
        beyond = [level for level in self.attention_levels if level >= len(self.channel_multipliers)]
        if beyond:
            raise ValueError(
                f"attention_levels {beyond} do not exist; levels are 0 to {len(self.channel_multipliers) - 1}"
            )
        return self

    @property
    def downsampling(self) -> int:
        """Image pixels per latent position along one side (the f of f8, f16)."""
        return int(self.patch * 2 ** (len(self.channel_multipliers) - 1))
