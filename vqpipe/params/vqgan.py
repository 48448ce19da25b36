"""The part of a foreign VQGAN config (taming-transformers layout) that says what the network computes.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841), whose public code
keeps it under `model.params`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vqpipe.params.base import Params

GROUPS = 32
"""Groups of every GroupNorm in that layout."""
TARGETS = (
    "taming.models.vqgan.VQModel", "taming.models.vqgan.VQNoDiscModel", "taming.models.vqgan.EMAVQ",
    "ldm.models.autoencoder.VQModel", "ldm.models.autoencoder.VQModelInterface",
)  # fmt: skip
"""Classes (`model.target`) that encode and decode with one codebook, searched by Euclidean distance to its rows."""
TRAINING_ONLY = (
    "lossconfig", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "monitor", "sane_index_shape",
    "learning_rate", "base_learning_rate", "scheduler_config", "lr_g_factor", "batch_resize_range", "beta", "legacy",
)  # fmt: skip
"""Fields of `model.params` that do not change which indices an image gets, nor which image indices give."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "use_ema": (False, None), "use_l2_norm": (False, None), "l2_norm": (False, None), "l2_normalize": (False, None),
    "codebook_l2_norm": (False, None), "use_cosine_sim": (False, None), "distance": ("l2", "euclidean", None),
}  # fmt: skip
"""Fields of `model.params` that change the arithmetic, and the values with which they do not."""
BESIDE_PARAMS = ("target", "params", "base_learning_rate", "learning_rate")
"""Fields of `model`."""
BESIDE_MODEL = (
    "model",
    "data",
    "dataset",
    "lightning",
    "trainer",
    "seed_everything",
    "ckpt_path",
    "logger",
    "callbacks",
)
"""Sections of the file; all but `model` speak of the training."""


class DdConfig(Params):
    """`model.params.ddconfig`: encoder and decoder."""

    ch: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)]
    """Channels of the encoder's first convolution; every width is a multiple of it."""
    ch_mult: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Channels of each level as a multiple of `ch`."""
    num_res_blocks: Annotated[int, Field(ge=1)]
    """Residual blocks per level of the encoder; the decoder has one more."""
    attn_resolutions: tuple[Annotated[int, Field(ge=1)], ...]
    """Sides, in pixels, at which every block is followed by attention."""
    resolution: Annotated[int, Field(ge=8)]
    """Side of the images, pixels."""
    z_channels: Annotated[int, Field(ge=1)]
    """Channels of the encoder's output."""
    in_channels: Literal[3]
    """Channels of the images that the encoder takes."""
    out_ch: Literal[3]
    """Channels of the images that the decoder gives."""
    dropout: Annotated[float | int, Field(ge=0, lt=1)] = 0.0
    """Dropout inside residual blocks."""
    double_z: Literal[False] = False
    """True is a Gaussian latent (a KL autoencoder), which has no codebook."""
    resamp_with_conv: Literal[True] = True
    """Down- and up-sampling have a convolution."""
    attn_type: Literal["vanilla", "vanilla-xformers"] = "vanilla"
    """Which attention; the two names compute the same."""
    use_linear_attn: Literal[False] = False
    """True is linear attention, which is not this trunk's."""
    give_pre_end: Literal[False] = False
    """True stops the decoder before its last convolution."""
    tanh_out: Literal[False] = False
    """True puts a tanh after the decoder."""

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """The levels (0 is the full resolution) whose side is in `attn_resolutions`."""
        return tuple(
            level
            for level in range(len(self.ch_mult))
            if self.resolution // 2**level in self.attn_resolutions
        )


class VqganParams(Params):
    """`model.params` without the losses."""

    ddconfig: DdConfig
    """Encoder and decoder."""
    embed_dim: Annotated[int, Field(ge=1)]
    """Dimension of a code."""
    n_embed: Annotated[int, Field(ge=1)]
    """K, the number of codes."""
    remap: Literal[None] = None
    """A file that renumbers the codes; such a checkpoint's indices are not those of its codebook."""

    @model_validator(mode="after")
    def _divides(self) -> VqganParams:
        factor = 2 ** (len(self.ddconfig.ch_mult) - 1)
        if self.ddconfig.resolution % factor:
            raise ValueError(
                f"resolution {self.ddconfig.resolution} is not a multiple of {factor}, the downsampling"
            )
        return self
