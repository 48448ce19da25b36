"""The VQGAN trunk: a convolutional encoder and decoder.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841), section 3.1 and
appendix: residual blocks per level, attention at the lowest resolution, a Res-Attn-Res middle, GroupNorm and swish.
Two options are ours and are for trainings of minutes. `patch` > 1 folds pixels into channels before the first
convolution and back after the last, which moves work away from full resolution. `shortcut` adds a linear path from
patch to latent and one from latent to patch, so that the net starts as a linear coder of patches and learns the rest.
Three options are those of MAGVIT-v2's tokenizer (arXiv 2310.05737, appendix A.1, and its open form, Open-MAGVIT2):
`downsampling_pad: centred`, `upsampling: depth_to_space` and `adaptive_norm`.

Shapes: b batch, c channels of the image, H W its height and width, h w those of the latent grid, z latent channels.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.params.base import Params

OTHER_TRUNKS = ("middle_blocks", "downsampling_pad", "upsampling", "adaptive_norm")
"""Fields that VQGAN's trunk does not need."""


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
    """Whether there is a middle of `middle_blocks` residual blocks at the lowest resolution."""
    middle_attention: bool
    """Whether the middle has attention after its first block."""
    shortcut: bool
    """Add a linear map of each image patch to the encoder's output, and of each latent to the decoder's, parallel
    to the convolutions (not around the quantizer). Ours, for short trainings; false is the papers' trunk."""
    latent_channels: Annotated[int, Field(ge=1)]
    """Channels z between the trunk and the 1x1 convolutions around the quantizer."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout inside residual blocks."""
    middle_blocks: Annotated[int, Field(ge=1)] = 2
    """Residual blocks of the middle, attention after the first; 2 in VQGAN."""
    downsampling_pad: Literal["corner", "centred"] = "corner"
    """Padding of the strided convolutions: `corner`, one pixel on the right and the bottom (VQGAN), or `centred`, one
    on each side (MAGVIT-v2)."""
    upsampling: Literal["nearest", "depth_to_space"] = "nearest"
    """`nearest`: repeat each position, then a convolution (VQGAN). `depth_to_space`: a convolution to four times the
    channels, which are folded into positions (MAGVIT-v2)."""
    adaptive_norm: bool = False
    """Normalise the input of each level of the decoder with scales and shifts made from the spread and the mean of the
    latent over positions (MAGVIT-v2)."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the options of other trunks where they are VQGAN's, so that stored params stay what they were."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if name not in OTHER_TRUNKS or value != fields[name].default
        }

    @model_validator(mode="after")
    def _levels_exist(self) -> TrunkParams:
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers is empty; one level at least is needed")
        beyond = [level for level in self.attention_levels if level >= len(self.channel_multipliers)]
        if beyond:
            raise ValueError(
                f"attention_levels {beyond} do not exist; levels are 0 to {len(self.channel_multipliers) - 1}"
            )
        widths = {self.channels * factor for factor in self.channel_multipliers} | {
            self.stem_channels or self.channels
        }
        odd = sorted(width for width in widths if width % _norm_groups(width))
        if odd:
            raise ValueError(
                f"levels of {', '.join(map(str, odd))} channels cannot be divided into {NORM_GROUPS} groups for their "
                f"norms; above {4 * NORM_GROUPS} channels, take multiples of {NORM_GROUPS}"
            )
        return self

    @property
    def downsampling(self) -> int:
        """Image pixels per latent position along one side (the f of f8, f16)."""
        return int(self.patch * 2 ** (len(self.channel_multipliers) - 1))


NORM_GROUPS = 32
"""Groups of a norm; fewer for narrow layers whose channels are no multiple of it."""


def _norm_groups(channels: int) -> int:
    return min(NORM_GROUPS, channels // 4) if channels % NORM_GROUPS else NORM_GROUPS


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_norm_groups(channels), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, swish, 3x3, norm, swish, dropout, 3x3 plus the input (through a 1x1 where the channels change)."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return torch.as_tensor(self.shortcut(x) + h)


class AttentionBlock(nn.Module):
    """Single-head self-attention over positions, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return torch.as_tensor(x + self.out(mixed.reshape(b, c, h, w)))


class Downsample(nn.Module):
    """3x3 convolution with stride 2, padded by one pixel on the right and the bottom, or on all sides."""

    def __init__(self, channels: int, centred: bool = False) -> None:
        super().__init__()
        self.pad = (1, 1, 1, 1) if centred else (0, 1, 0, 1)
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(F.pad(x, self.pad)))


class Upsample(nn.Module):
    """Nearest neighbour by 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class DepthToSpace(nn.Module):
    """3x3 convolution to four times the channels, folded into positions: channel 4 c + 2 i + j is row i, column j."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class AdaptiveNorm(nn.Module):
    """Group normalisation; scale and shift are linear in the latent's standard deviation and mean over positions."""

    def __init__(self, latent_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_norm(channels).num_groups, channels, eps=1e-6, affine=False)
        self.scale, self.shift = nn.Linear(latent_channels, channels), nn.Linear(latent_channels, channels)

    def forward(self, x: Float[Tensor, "b c h w"], latent: Float[Tensor, "b z h w"]) -> Tensor:
        flat = latent.flatten(2)
        if flat.shape[2] == 1:
            raise MismatchError(
                "adaptive_norm needs the deviation over positions", found="a latent of one position",
                expected="larger images",
            )  # fmt: skip
        scale = self.scale((flat.var(2) + self.norm.eps).sqrt())[:, :, None, None]
        return torch.as_tensor(self.norm(x) * scale + self.shift(flat.mean(2))[:, :, None, None])


def _level(inputs: int, outputs: int, num_blocks: int, attention: bool, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(num_blocks):
        layers.append(ResidualBlock(inputs if index == 0 else outputs, outputs, dropout))
        if attention:
            layers.append(AttentionBlock(outputs))
    return nn.Sequential(*layers)


def _middle(channels: int, config: TrunkParams) -> nn.Module:
    if not config.middle:
        return nn.Identity()
    layers: list[nn.Module] = [
        ResidualBlock(channels, channels, config.dropout) for _ in range(config.middle_blocks)
    ]
    if config.middle_attention:
        layers.insert(1, AttentionBlock(channels))
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Image to latent: Float[b c H W] to Float[b z h w] with h = H / `config.downsampling`."""

    def __init__(self, config: TrunkParams, in_channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        widths = [config.channels * m for m in config.channel_multipliers]
        stem = config.stem_channels or widths[0]
        self.stem = nn.Conv2d(in_channels * config.patch**2, stem, 3, padding=1)
        self.levels, self.downs = nn.ModuleList(), nn.ModuleList()
        for index, (before, width) in enumerate(zip([stem, *widths], widths, strict=False)):
            self.levels.append(
                _level(before, width, config.num_blocks, index in config.attention_levels, config.dropout)
            )
            last = index == len(widths) - 1
            centred = config.downsampling_pad == "centred"
            self.downs.append(nn.Identity() if last else Downsample(width, centred))
        self.middle = _middle(widths[-1], config)
        self.head = nn.Sequential(
            _norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)
        )
        self.side = config.downsampling
        patch = in_channels * self.side**2
        self.shortcut = nn.Conv2d(patch, config.latent_channels, 1) if config.shortcut else None

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b z h w"]:
        x = self.stem(F.pixel_unshuffle(images, self.patch))
        for level, down in zip(self.levels, self.downs, strict=True):
            x = down(level(x))
        latent: Tensor = self.head(self.middle(x))
        return (
            latent if self.shortcut is None else latent + self.shortcut(F.pixel_unshuffle(images, self.side))
        )


class Decoder(nn.Module):
    """Latent to image: Float[b z h w] to Float[b c H W]; `num_decoder_blocks` residual blocks per level, where null one
    more than the encoder has."""

    def __init__(self, config: TrunkParams, out_channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        widths = [config.channels * m for m in config.channel_multipliers]
        blocks = config.num_blocks + 1 if config.num_decoder_blocks is None else config.num_decoder_blocks
        self.stem = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.middle = _middle(widths[-1], config)
        self.levels, self.ups = nn.ModuleList(), nn.ModuleList()
        for index in reversed(range(len(widths))):
            before = widths[min(len(widths) - 1, index + 1)]
            self.levels.append(
                _level(before, widths[index], blocks, index in config.attention_levels, config.dropout)
            )
            up = DepthToSpace if config.upsampling == "depth_to_space" else Upsample
            self.ups.append(nn.Identity() if index == 0 else up(widths[index]))
        self.norms = None
        if config.adaptive_norm:
            inputs = [widths[-1], *widths[:0:-1]]
            self.norms = nn.ModuleList(AdaptiveNorm(config.latent_channels, width) for width in inputs)
        self.head = nn.Sequential(_norm(widths[0]), nn.SiLU())
        self.out = nn.Conv2d(widths[0], out_channels * config.patch**2, 3, padding=1)
        self.side = config.downsampling
        patch = out_channels * self.side**2
        self.shortcut = nn.Conv2d(config.latent_channels, patch, 1) if config.shortcut else None

    @property
    def last_weight(self) -> Tensor:
        """The weight at which the adaptive adversarial weight compares gradients."""
        return self.out.weight

    def forward(self, latent: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c H W"]:
        # Before the last layer, where a compiled decoder is cut: what comes after it goes backward several times.
        coarse = None if self.shortcut is None else F.pixel_shuffle(self.shortcut(latent), self.side)
        x = self.middle(self.stem(latent))
        for index, (level, up) in enumerate(zip(self.levels, self.ups, strict=True)):
            x = up(level(x if self.norms is None else self.norms[index](x, latent)))
        images = F.pixel_shuffle(self.out(self.head(x)), self.patch)
        return images if coarse is None else images + coarse
