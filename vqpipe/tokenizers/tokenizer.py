"""A trained or trainable image tokenizer: encoder, quantizer, decoder, and its params.

    tokenizer = Tokenizer.from_pretrained(Path("artifacts/tokenizer/vq"))
    indices = tokenizer.encode(images)      # images in [-1, 1], Int64[b g h w]
    images = tokenizer.decode(indices)

Shapes: b batch, H W image, h w grid, g groups of codes (2 for VQCT), d the quantizer's dimension.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from vqpipe.alignment.aligner import AlignParams
from vqpipe.models.losses import LossParams
from vqpipe.models.trunk import Decoder, Encoder, TrunkParams
from vqpipe.params.base import Params, validate
from vqpipe.quantizers import AnyQuantizer, from_state
from vqpipe.quantizers.contract import Codebook, CodebookKind, Quantized, Quantizer, check_latent
from vqpipe.tokenizers.checks import check_eval, check_form, check_values
from vqpipe.tokenizers.stored import StoredAligner, named_folder, read_tokenizer, write_artifact
from vqpipe.training.objective import TrainingParams

if TYPE_CHECKING:
    from typing import Self

CHANNELS = 3


class AugmentParams(Params):
    """How training images are cut and mirrored."""

    crop: Literal["random", "centre"]
    """Where the square is cut from a stored image that is larger than the resolution."""
    flip: bool
    """Mirror each image with probability 1/2. With `align`, an image is not mirrored where the caption that is drawn
    for it says left or right; the others are mirrored as without captions."""


class TokenizerParams(Params):
    """One variant: `tokenizer.common` with `tokenizer.variants.NAME` merged over it."""

    codebook: CodebookKind
    """The pretrained codebook that the variant is built on: `artifacts/codebook/<codebook>`."""
    foreign_codebook: bool = False
    """Accept a codebook of another CLIP than the one in the losses, as of another data set (VQGAN-LC's table 8).
    False refuses it; without a CLIP in the losses it is accepted either way. The metrics then name both."""
    resolution: Annotated[int, Field(ge=8)]
    """Side of the square images in pixels."""
    trunk: TrunkParams
    latent_init: Literal["standard", "whiten"]
    """The 1x1 convolution before the quantizer at the start: `standard` (the layer's own, as in the papers), or
    `whiten`: set on the first training images so that the latent has mean 0 and identity covariance."""
    quantizer: AnyQuantizer
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
        """Without `align` where it is null, so that the stored params are those of a tokenizer without alignment."""
        return {name: value for name, value in handler(self).items() if name != "align" or value is not None}

    @model_validator(mode="after")
    def _fits(self) -> TokenizerParams:
        if self.resolution % self.trunk.downsampling:
            raise ValueError(
                f"resolution {self.resolution} is not a multiple of the trunk's downsampling {self.trunk.downsampling}"
            )
        side = self.resolution // self.trunk.downsampling
        if self.trunk.adaptive_norm and side == 1:
            raise ValueError(
                "trunk.adaptive_norm needs the deviation over positions, and the latent has one position"
            )
        adversarial = self.losses.adversarial
        if adversarial.weight > 0 and adversarial.discriminator.patches(self.resolution) < 1:
            raise ValueError(
                f"the discriminator with num_layers {adversarial.discriminator.num_layers} leaves no patch of images "
                f"of {self.resolution} pixels; take fewer layers, or set losses.adversarial.weight to 0"
            )
        if self.latent_init == "whiten" and self.quantizer.dim > self.trunk.latent_channels:
            raise ValueError(
                f"latent_init whiten needs quantizer.dim {self.quantizer.dim} to be at most "
                f"trunk.latent_channels {self.trunk.latent_channels}"
            )
        if self.foreign_codebook and self.codebook == "none":
            raise ValueError(
                "foreign_codebook is true, and codebook is none: there is no codebook that could be foreign"
            )
        if self.align is not None:
            check_alignment(self.align, self.quantizer)
        if self.codebook != self.quantizer.codebook:
            raise ValueError(
                f"quantizer {self.quantizer.label} needs codebook {self.quantizer.codebook}, "
                f"but codebook is {self.codebook}"
            )
        return self


def check_alignment(align: AlignParams, quantizer: AnyQuantizer) -> None:
    """Raise `ValueError` where the relationship loss has no code vectors to train."""
    if "relationship" in align.losses() and not quantizer.trains_codes:
        hint = f", or {quantizer.to_train_codes}" if quantizer.to_train_codes else ""
        raise ValueError(
            f"align.relationship trains code vectors, and quantizer {quantizer.label} has none that take a gradient; "
            f"set align.relationship to null, or its weight to 0{hint}"
        )


class Tokenizer(nn.Module):
    """Images to indices and back.

    Args:
        config: the variant's params.
        quantizer: of the kind and dimension that the params state.
    """

    latent_scale: Tensor

    def __init__(self, config: TokenizerParams, quantizer: Quantizer) -> None:
        super().__init__()
        self.config = config
        dim = config.quantizer.dim
        self.encoder = Encoder(config.trunk, CHANNELS)
        self.quant_conv = nn.Conv2d(config.trunk.latent_channels, dim, 1)
        self.quantizer = quantizer
        self.post_quant_conv = nn.Conv2d(dim, config.trunk.latent_channels, 1)
        self.decoder = Decoder(config.trunk, CHANNELS)
        self.register_buffer("latent_scale", torch.ones(()))
        self.facts: dict[str, Any] = {}

    @property
    def groups(self) -> int:
        """Number of indices per position: 1, or 2 for VQCT's adjective and noun."""
        return self.quantizer.groups

    @property
    def num_codes(self) -> tuple[int, ...]:
        """Codes per group."""
        return self.quantizer.num_codes

    @property
    def code_dims(self) -> tuple[int, ...]:
        """Dimension of each group's code vectors; none where they take no gradient (`trains_codes`)."""
        if not self.config.quantizer.trains_codes:
            return ()
        return tuple(int(book.vectors.shape[1]) for book in self.codebooks())

    @property
    def resolution(self) -> int:
        """Side of the images it was trained on, in pixels."""
        return self.config.resolution

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of indices for an image of `resolution`."""
        side = self.config.resolution // self.config.trunk.downsampling
        return side, side

    @property
    def bits_per_image(self) -> float:
        """Bits that the indices of one image take at fixed length: h w sum_g log2 K_g."""
        return math.prod(self.grid) * sum(math.log2(k) for k in self.num_codes)

    @property
    def dtype(self) -> torch.dtype:
        """Of encoder, decoder and decoded images: float32, or the dtype that `half`, `bfloat16` or `double` set.

        The quantizer stays float32 (`Quantizer`), so that its codes are not rounded.
        """
        return self.quant_conv.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the tokenizer is."""
        return self.quant_conv.weight.device

    def forward(self, images: Float[Tensor, "b 3 H W"], progress: float = 1.0) -> tuple[Tensor, Quantized]:
        """Reconstruction, in the tokenizer's dtype, and the quantizer's result; `progress` in [0, 1] drives annealing.

        Raises:
            MismatchError: as `encode`; in training mode the images' values are not looked at, which would wait for
                the device.
        """
        check_form(images, self.config.trunk.downsampling, self.device)
        if not self.training:
            check_values(images)
        quantized = self.quantizer(self._latent(images), progress)
        return self.decode_latent(quantized.z_q), quantized

    def encode_latent(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d h w"]:
        """The latent before quantisation, in the tokenizer's dtype; its standard deviation over the training images is
        `latent_scale`.

        Raises:
            MismatchError: not a floating-point tensor (b, 3, H, W) with sides that are multiples of the downsampling.
        """
        check_form(images, self.config.trunk.downsampling, self.device)
        return self._latent(images)

    def _latent(self, images: Tensor) -> Tensor:
        latent: Tensor = self.quant_conv(self.encoder(_as(images, self.dtype)))
        return latent

    def decode_latent(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of a quantised latent, in the tokenizer's dtype.

        Raises:
            MismatchError: another rank or number of channels.
        """
        check_latent(z_q, self.config.quantizer.dim, False)
        images: Tensor = self.decoder(self.post_quant_conv(_as(z_q, self.dtype)))
        return images

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Int[Tensor, "b g h w"]:
        """Indices of images in [-1, 1], int64; images of any floating dtype. An empty batch is encoded as one.

        Raises:
            MismatchError: training mode; not a floating-point tensor (b, 3, H, W) on the tokenizer's device with sides
                that are multiples of the downsampling; NaN, infinity, or values further out than resizing leaves them;
                a latent that is not finite.
        """
        check_eval(self, "encode")
        check_form(images, self.config.trunk.downsampling, self.device)
        check_values(images)
        if len(images) == 0 and not torch.compiler.is_exporting():
            sides = [side // self.config.trunk.downsampling for side in images.shape[2:]]
            return torch.empty(0, self.groups, *sides, dtype=torch.int64, device=images.device)
        return self.quantizer.indices(self._latent(images))

    @torch.no_grad()
    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images of indices, about [-1, 1] (not clamped), in the tokenizer's dtype; indices of any integer dtype.

        Raises:
            MismatchError: training mode; not whole numbers of shape (b, g, h, w), or out of range.
        """
        check_eval(self, "decode")
        return self.decode_latent(self.quantizer.decode(indices))

    @torch.no_grad()
    def quantize_latent(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """The nearest codes of a latent, float32, as a diffusion model's sample needs them.

        Raises:
            MismatchError: training mode, another shape, or values that are not finite.
        """
        check_eval(self, "quantize_latent")
        z_q: Tensor = self.quantizer(latent, 1.0).z_q
        return z_q

    def codebooks(self) -> list[Codebook]:
        """One codebook per group, with the words of its codes where they have them."""
        return self.quantizer.codebooks()

    def described(self, facts: dict[str, Any]) -> dict[str, Any]:
        """`facts` and what a reader needs to rebuild the tokenizer: params, names of the codes, shapes."""
        return {
            **facts,
            "params": self.config.model_dump(mode="json"),
            "names": [book.names for book in self.codebooks()],
            "num_codes": list(self.num_codes),
            "groups": self.groups,
            "grid": list(self.grid),
            "resolution": self.resolution,
        }

    def save(self, folder: Path, facts: dict[str, Any], aligner: StoredAligner | None = None) -> None:
        """Publish the tokenizer as an artifact.

        Args:
            facts: how it was made.
            aligner: what was trained with it, stored in the same folder; `load_aligner` reads it.
        """
        write_artifact(folder, self.state_dict(), self.described(facts), aligner)

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read a published tokenizer, in eval mode: a pipeline artifact, or a folder as on the Hub.

        Raises:
            ArtifactError: no path, no such folder, another library's model, or a tokenizer of another version.
        """
        folder = Path(named_folder(folder))
        tensors, facts = read_tokenizer(folder)
        config = validate(facts["params"], "params", TokenizerParams, str(folder))
        prefix = "quantizer."
        own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        tokenizer = cls(config, from_state(config.quantizer, own, facts["names"]))
        tokenizer.load_state_dict(tensors)
        tokenizer.facts = facts
        return tokenizer.to(device).eval().requires_grad_(False)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
