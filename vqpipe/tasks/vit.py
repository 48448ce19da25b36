"""A vision transformer over an image's codes, in timm's layout, and its start from a masked autoencoder's weights.

VQGAN-LC (arXiv 2406.11837, section 3.3) trains a ViT-B that was pretrained with MAE (arXiv 2111.06377) on token maps.
Its code is not published. Here the code vectors are in the place of the pixels of patches; all else is timm's
`VisionTransformer` with a class token, as MAE's encoder is.

Letters: b batch, d dimension of the latent, h w its grid, n tokens, e width, c classes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vqpipe.errors import MismatchError, SetupError
from vqpipe.tasks.heads import CodeTokens, HeadParams
from vqpipe.tasks.inputs import CodeSpace

POSITIONS, PREFIX = "pos_embed", 1
"""The tensor of positions, and its rows that are no patch's: the class token's."""
OWN = re.compile(r"patch_embed\.|head\.|head_drop\.")
"""Parts of the network that always start fresh."""
LEFT = re.compile(r"patch_embed\.|head\.|mask_token$|decoder_")
"""Tensors of a checkpoint that are not taken: of pixels, of other classes, and of MAE's decoder."""


class CodePatches(CodeTokens):
    """Codes as tokens without places, which the transformer adds (`timm.layers.PatchEmbed`'s part of the network)."""

    def __init__(self, space: CodeSpace, width: int, side: int | None) -> None:
        super().__init__(space, width, side)
        del self.places
        self.num_patches = self.num_tokens

    def forward(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n e"]:
        return self.joined(z_q)


def code_vit(space: CodeSpace, params: HeadParams, num_classes: int) -> VisionTransformer:
    """A fresh transformer: (b, d, h, w) to logits (b, c), predicted from the class token after the last norm.

    Raises:
        MismatchError: as `CodeTokens`.
    """

    def embed(embed_dim: int, **_: Any) -> CodePatches:
        return CodePatches(space, embed_dim, params.side)

    rate = params.dropout
    return VisionTransformer(
        num_classes=num_classes, embed_dim=params.width, depth=params.num_layers, num_heads=params.num_heads,
        embed_layer=embed, pos_drop_rate=rate, proj_drop_rate=rate, attn_drop_rate=rate,
    )  # fmt: skip


def tokens_of(model: VisionTransformer, space: CodeSpace) -> tuple[int, int]:
    """The grid of a transformer's tokens."""
    square = round(math.sqrt(space.num_positions / model.patch_embed.num_patches))
    return space.grid[0] // square, space.grid[1] // square


def load_mae(model: VisionTransformer, path: Path, grid: tuple[int, int]) -> None:
    """Take class token, positions, blocks and last norm from a checkpoint; patch embedding and classifier stay.

    Positions of another grid, which has to be a square, are resized (bicubic, `timm.layers.resample_abs_pos_embed`).

    Args:
        model: its width and number of layers are the checkpoint's.
        path: timm's layout, safetensors or torch; or the official one, a torch file with the same names under
            `model`. What belongs to MAE's decoder is left.
        grid: of the model's tokens (`tokens_of`).

    Raises:
        SetupError: no such file, or one that is not of plain tensors.
        MismatchError: tensors that are missing, unknown, or of other shapes, by name.
    """
    content = read_weights(path)
    weights = {name: tensor.float() for name, tensor in content.items() if not LEFT.match(name)}
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not OWN.match(name)}
    what = f"init: {path} does not fit the head"
    for problem, names in (
        ("no tensor", [name for name in wanted if name not in weights]),
        ("an unknown tensor", [name for name in weights if name not in wanted]),
    ):
        if names:
            raise MismatchError(
                what,
                found=f"{problem} {', '.join(names[:4])}{', …' if len(names) > 4 else ''} ({len(names)} in all)",
                expected=f"{model.embed_dim} channels, {len(model.blocks)} layers and a class token in timm's layout",
            )
    positions = weights[POSITIONS]
    if positions.ndim == 3 and positions.shape[-1] == model.embed_dim:
        count = positions.shape[1] - PREFIX
        if count < 1 or math.isqrt(count) ** 2 != count:
            raise MismatchError(
                what, found=f"{POSITIONS} of {count} patches", expected="a square grid of patches"
            )
        weights[POSITIONS] = resample_abs_pos_embed(positions, list(grid), num_prefix_tokens=PREFIX)
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise MismatchError(
                what,
                found=f"{name} of shape {tuple(weights[name].shape)}",
                expected=f"{tuple(tensor.shape)}",
            )
        if not bool(weights[name].isfinite().all()):
            raise MismatchError(
                what, found=f"{name} has values that are not finite", expected="finite values"
            )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


def need_weights(path: Path) -> Path:
    """The path, where there is a file.

    Raises:
        SetupError: there is none.
    """
    if not path.is_file():
        raise SetupError(f"init: {path} does not exist", expected="a file of weights, or init: null")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        SetupError: no such file, or one that is not of plain tensors.
    """
    need_weights(path)
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except Exception as error:  # a foreign file: what is raised depends on what it is
        raise SetupError(
            f"init: {path} cannot be read",
            found=next(iter(str(error).splitlines()), type(error).__name__)[:200],
            expected="safetensors, or a torch file of plain tensors without pickled code",
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SetupError(
            f"init: {path} has no state dict", found=type(content).__name__,
            expected="a mapping of names to tensors, alone or under the name model",
        )  # fmt: skip
    return {str(name): tensor for name, tensor in content.items()}


def _torch_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
