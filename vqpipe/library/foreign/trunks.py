"""The two trunks of foreign layouts: their config, the same trunk here, and the names of its tensors.

VQGAN's (Esser et al., arXiv 2012.09841) is the trunk of most projects: taming-transformers, latent-diffusion,
VQGAN-LC, VQCT, LG-VQ, IBQ; LlamaGen's has other names. MAGVIT-v2's (arXiv 2310.05737), as Open-MAGVIT2 has it, is the
trunk of its LFQ and, without the adaptive norm, of SimVQ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.library.foreign.contract import Source, Sources
from vqpipe.params.base import Params

GROUPS = 32
"""Groups of every GroupNorm in these layouts."""
Names = dict[str, tuple[str, ...]]
"""Our name of a module to theirs; several are joined along the first axis."""
BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "shortcut"}
"""Parts of a residual block: their name, ours."""
ATTENTION = {("norm",): "norm", ("q", "k", "v"): "qkv", ("proj_out",): "out"}
"""Parts of an attention block: their names, joined along the output channels into ours."""


class MagvitDdConfig(Params):
    """`ddconfig` of Open-MAGVIT2 and SimVQ: encoder and decoder without attention."""

    ch: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)]
    """Channels of the encoder's first convolution; every width is a multiple of it."""
    ch_mult: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Channels of each level as a multiple of `ch`."""
    num_res_blocks: Annotated[int, Field(ge=1)]
    """Residual blocks per level: VQGAN's decoder has one more, MAGVIT-v2's as many, and so has its middle."""
    resolution: Annotated[int, Field(ge=8)]
    """Side of the images, pixels."""
    z_channels: Annotated[int, Field(ge=1)]
    """Channels of the encoder's output."""
    in_channels: Literal[3]
    """Channels of the images that the encoder takes."""
    out_ch: Literal[3]
    """Channels of the images that the decoder gives."""
    double_z: Literal[False] = False
    """True is a Gaussian latent (a KL autoencoder), which has no codebook."""

    @model_validator(mode="after")
    def _divides(self) -> MagvitDdConfig:
        factor = 2 ** (len(self.ch_mult) - 1)
        if self.resolution % factor:
            raise ValueError(f"resolution {self.resolution} is not a multiple of {factor}, the downsampling")
        return self


class DdConfig(MagvitDdConfig):
    """`ddconfig` of taming-transformers and what is built on it: encoder and decoder."""

    attn_resolutions: tuple[Annotated[int, Field(ge=1)], ...]
    """Sides, in pixels, at which every block is followed by attention."""
    dropout: Annotated[float | int, Field(ge=0, lt=1)] = 0.0
    """Dropout inside residual blocks."""
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
    def form(self) -> Form:
        """The trunk without names."""
        levels = range(len(self.ch_mult))
        attention = tuple(at for at in levels if self.resolution // 2**at in self.attn_resolutions)
        return Form(self.ch, self.ch_mult, self.num_res_blocks, attention, self.z_channels, self.dropout)


class LdmDdConfig(DdConfig):
    """`ddconfig` of latent-diffusion."""

    attn_type: Literal["vanilla", "vanilla-xformers", "none"] = "vanilla"  # type: ignore[assignment]
    """`none` has no attention at all, also where `attn_resolutions` says so and in the middle."""

    @property
    def form(self) -> Form:
        """See `DdConfig.form`."""
        form = super().form
        if self.attn_type != "none":
            return form
        return Form(form.ch, form.ch_mult, form.num_res_blocks, (), form.z_channels, form.dropout, False)


@dataclass(frozen=True)
class Form:
    """A trunk of VQGAN's kind."""

    ch: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    attention_levels: tuple[int, ...]
    """0 is the full resolution."""
    z_channels: int
    dropout: float
    middle_attention: bool = True

    @property
    def trunk(self) -> dict[str, Any]:
        """`TrunkParams`, as in YAML."""
        return {
            "patch": 1, "channels": self.ch, "channel_multipliers": list(self.ch_mult), "stem_channels": self.ch,
            "num_blocks": self.num_res_blocks, "num_decoder_blocks": None,
            "attention_levels": list(self.attention_levels), "middle": True,
            "middle_attention": self.middle_attention, "shortcut": False, "latent_channels": self.z_channels,
            "dropout": float(self.dropout),
        }  # fmt: skip


@dataclass(frozen=True)
class Naming:
    """How a layout names the parts of VQGAN's trunk; `{level}` counts from the full resolution, `{depth}` from the
    lowest."""

    down: str
    up: str
    block: str
    middle: tuple[str, str, str]


TAMING = Naming("encoder.down.{level}", "decoder.up.{level}", "block", ("block_1", "attn_1", "block_2"))
LLAMAGEN = Naming("encoder.conv_blocks.{level}", "decoder.conv_blocks.{depth}", "res", ("0", "1", "2"))


def vqgan_sources(form: Form, naming: Naming = TAMING) -> Sources:
    """Every tensor of a VQGAN trunk and of the 1x1 convolutions around the quantizer."""
    names: Names = {"quant_conv": ("quant_conv",), "post_quant_conv": ("post_quant_conv",)}
    names |= {
        "encoder.stem": ("encoder.conv_in",), "encoder.head.0": ("encoder.norm_out",),
        "encoder.head.2": ("encoder.conv_out",), "decoder.stem": ("decoder.conv_in",),
        "decoder.head.0": ("decoder.norm_out",), "decoder.out": ("decoder.conv_out",),
    }  # fmt: skip
    last = len(form.ch_mult) - 1
    for level, multiplier in enumerate(form.ch_mult):
        depth, attention = last - level, level in form.attention_levels
        below = form.ch_mult[level - 1] if level else 1
        above = form.ch_mult[min(last, level + 1)]
        down, up = (text.format(level=level, depth=depth) for text in (naming.down, naming.up))
        for ours, theirs, blocks, widens in (
            (f"encoder.levels.{level}", down, form.num_res_blocks, below != multiplier),
            (f"decoder.levels.{depth}", up, form.num_res_blocks + 1, above != multiplier),
        ):
            for block in range(blocks):
                at = 2 * block if attention else block
                names |= _block(f"{ours}.{at}", f"{theirs}.{naming.block}.{block}", widens and block == 0)
                names |= _attention(f"{ours}.{at + 1}", f"{theirs}.attn.{block}") if attention else {}
        if level < last:
            names[f"encoder.downs.{level}.conv"] = (f"{down}.downsample.conv",)
        if level > 0:
            names[f"decoder.ups.{depth}.conv"] = (f"{up}.upsample.conv",)
    first, mixing, second = naming.middle
    for half in ("encoder", "decoder"):
        names |= _block(f"{half}.middle.0", f"{half}.mid.{first}", False)
        names |= _attention(f"{half}.middle.1", f"{half}.mid.{mixing}") if form.middle_attention else {}
        names |= _block(f"{half}.middle.{1 + form.middle_attention}", f"{half}.mid.{second}", False)
    return {
        f"{ours}.{part}": Source(tuple(f"{name}.{part}" for name in theirs))
        for ours, theirs in names.items()
        for part in ("weight", "bias")
    }


def _block(ours: str, theirs: str, widens: bool) -> Names:
    return {
        f"{ours}.{own}": (f"{theirs}.{name}",)
        for name, own in BLOCK.items()
        if widens or name != "nin_shortcut"
    }


def _attention(ours: str, theirs: str) -> Names:
    return {f"{ours}.{own}": tuple(f"{theirs}.{part}" for part in parts) for parts, own in ATTENTION.items()}


def magvit_trunk(config: MagvitDdConfig, adaptive_norm: bool) -> dict[str, Any]:
    """`TrunkParams` of MAGVIT-v2's trunk, as in YAML."""
    blocks = config.num_res_blocks
    form = Form(config.ch, config.ch_mult, blocks, (), config.z_channels, 0.0, False)
    return {
        **form.trunk, "num_decoder_blocks": blocks, "middle_blocks": blocks, "downsampling_pad": "centred",
        "upsampling": "depth_to_space", "adaptive_norm": adaptive_norm,
    }  # fmt: skip


def magvit_sources(config: MagvitDdConfig, adaptive_norm: bool) -> Sources:
    """Every tensor of MAGVIT-v2's trunk. The convolutions of its blocks have no bias, and no 1x1 convolution surrounds
    its quantizer (`same_channels`)."""
    sources: Sources = {}

    def add(ours: str, theirs: str, weight: str = "join", bias: str = "join") -> None:
        for part, how in (("weight", weight), ("bias", bias)):
            keys = () if how == "zero" else (f"{theirs}.{part}",)
            sources[f"{ours}.{part}"] = Source(keys, how)  # type: ignore[arg-type]

    def add_block(ours: str, theirs: str, widens: bool) -> None:
        for name, (module,) in _block(ours, theirs, widens).items():
            add(name, module, bias="join" if "norm" in name.rsplit(".", 1)[-1] else "zero")

    last, mult = len(config.ch_mult) - 1, config.ch_mult
    add("encoder.stem", "encoder.conv_in", bias="zero")
    add("encoder.head.0", "encoder.norm_out")
    add("encoder.head.2", "encoder.conv_out", weight="centre")
    add("decoder.stem", "decoder.conv_in")
    add("decoder.head.0", "decoder.norm_out")
    add("decoder.out", "decoder.conv_out")
    for level in range(len(mult)):
        depth = last - level
        for ours, theirs, neighbour in (
            (f"encoder.levels.{level}", f"encoder.down.{level}", mult[level - 1] if level else 1),
            (f"decoder.levels.{depth}", f"decoder.up.{level}", mult[min(last, level + 1)]),
        ):
            for block in range(config.num_res_blocks):
                widens = block == 0 and neighbour != mult[level]
                add_block(f"{ours}.{block}", f"{theirs}.block.{block}", widens)
        if level < last:
            add(f"encoder.downs.{level}.conv", f"encoder.down.{level}.downsample")
        if level > 0:
            add(f"decoder.ups.{depth}.conv", f"decoder.up.{level}.upsample.conv1", "fold", "fold")
        if adaptive_norm:
            add(f"decoder.norms.{depth}.scale", f"decoder.adaptive.{level}.gamma")
            add(f"decoder.norms.{depth}.shift", f"decoder.adaptive.{level}.beta")
    for half in ("encoder", "decoder"):
        for block in range(config.num_res_blocks):
            add_block(f"{half}.middle.{block}", f"{half}.mid_block.{block}", False)
    return sources


def same_channels(channels: int, reverse: bool = False) -> dict[str, Tensor]:
    """1x1 convolutions around the quantizer that leave the latent as it is, or that turn the order of its channels
    before the quantizer and turn it back after it."""
    order = torch.eye(channels)
    weight = (order.flip(0) if reverse else order)[:, :, None, None]
    bias = torch.zeros(channels)
    return {
        "quant_conv.weight": weight.clone(), "quant_conv.bias": bias.clone(), "post_quant_conv.weight": weight.clone(),
        "post_quant_conv.bias": bias.clone(),
    }  # fmt: skip
