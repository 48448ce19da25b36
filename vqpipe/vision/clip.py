"""The one CLIP in use: read from its folder, frozen, the same preprocessing wherever it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from vqpipe.artifacts.intact import read_intact, reads_whole
from vqpipe.artifacts.publish import publish_folder, publish_json, read_manifest
from vqpipe.artifacts.seal import parse_object
from vqpipe.artifacts.specs.clip import CLIP, CLIP_WEIGHTS
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.vision import towers
from vqpipe.vision.byte_pairs import tokenizer

TEXT_BATCH = 256
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "squash")


class Clip(nn.Module):
    """A frozen CLIP: `train()` does nothing, no parameter takes a gradient; gradients reach the images."""

    def __init__(self, model: nn.Module, preprocess_cfg: Mapping[str, Any], clip_id: str) -> None:
        super().__init__()
        self.id = clip_id
        """NAME:TAG:DIGEST, the digest being that of the weights."""
        self.image_size = towers.image_side(model, clip_id)
        """Side of the tower's input, in pixels."""
        self.patch_grid = towers.grid_of(model, self.image_size)
        """Rows and columns of the patch features."""
        self.patch_dim = towers.feature_dim(model)
        """Channels of the patch features before the projection."""
        self.embed_dim = int(model.visual.output_dim)  # type: ignore[union-attr,arg-type]
        """Dimension of the shared image-text space."""
        self.context_length = int(model.context_length)  # type: ignore[arg-type]
        """Tokens per text."""
        self.num_blocks = towers.num_blocks(model)
        """Transformer blocks of the image tower; 0 for a ResNet."""
        self.interpolation = str(_choice(preprocess_cfg, "interpolation", INTERPOLATIONS))
        self.resize_mode = str(_choice(preprocess_cfg, "resize_mode", RESIZE_MODES))
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocess_cfg["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess_cfg["std"]).view(1, 3, 1, 1), persistent=False)
        super().train(False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Clip:
        """Read a CLIP artifact; nothing outside the folder is needed.

        Raises:
            ArtifactError: missing, damaged, of another version, or weights that do not fit the config or the id.
        """
        facts, config, weights = _read(folder)
        model = towers.build_model(config["model_cfg"], facts["id"])
        load_weights(model, weights, str(folder))
        return cls(model, config["preprocess_cfg"], facts["id"]).to(device)

    @staticmethod
    def read_id(folder: Path) -> str:
        """The id of a CLIP artifact, without its weights.

        Raises:
            ArtifactError: missing, damaged, or of another version.
        """
        return str(read_manifest(folder, CLIP).facts["id"])

    def train(self, mode: bool = True) -> Clip:
        """Do nothing: a parent's `train()` must not switch this network's dropout or batch norm."""
        return self

    def preprocess(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Resize (antialiased), crop and normalise images in [-1, 1] for the tower. Differentiable."""
        images = resize_to(images, self.image_size, self.interpolation, self.resize_mode)
        return ((images + 1) / 2 - self.mean) / self.std

    def encode_image(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        """Image embeddings, not normalised, of images in [-1, 1] of any resolution."""
        return self.model.encode_image(self.preprocess(images))  # type: ignore[operator]

    def patch_features(self, images: Float[Tensor, "b 3 h w"], projected: bool) -> Float[Tensor, "b gh gw d"]:
        """Dense features after the last norm; d is `embed_dim` where projected, else `patch_dim`."""
        features = towers.last_features(self.model, self.preprocess(images), projected)
        return features.reshape(len(features), *self.patch_grid, -1)

    def perceptual_features(
        self, images: Float[Tensor, "b 3 h w"], layers: Sequence[int]
    ) -> list[Float[Tensor, "b n d"]]:
        """Patch activations after the named transformer blocks, counted from 0; later blocks do not run.

        Raises:
            MismatchError: the tower is a ResNet, or has no such block.
        """
        self.check_layers(layers)
        return towers.block_outputs(self.model, self.preprocess(images), layers)

    def encode_image_and_blocks(
        self, images: Float[Tensor, "b 3 h w"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b e"], list[Float[Tensor, "b n d"]]]:
        """`encode_image` and `perceptual_features` from one pass; errors as `perceptual_features`."""
        self.check_layers(layers)
        return towers.embedding_and_blocks(self.model, self.preprocess(images), layers)

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raise `MismatchError` where the image tower has no such blocks, in rising order."""
        if not self.num_blocks:
            raise MismatchError(
                f"CLIP {self.id} has no transformer blocks to take perceptual features from",
                found="a ResNet image tower",
                expected="a ViT image tower, or another perceptual loss",
            )
        if (
            not layers
            or not all(0 <= layer < self.num_blocks for layer in layers)
            or sorted(set(layers)) != list(layers)
        ):
            raise MismatchError(
                f"perceptual layers do not fit CLIP {self.id}",
                found=list(layers),
                expected=f"rising block numbers from 0 to {self.num_blocks - 1}",
            )

    def token_ids(self, texts: Sequence[str]) -> Int[Tensor, "n t"]:
        """CLIP's byte-pair token ids: start, text, end, zeros; t is `context_length`, more is cut."""
        return token_ids(texts, self.context_length)

    def token_embeddings(self) -> Float[Tensor, "v w"]:
        """The text encoder's input table, a row for each byte-pair token; w is the text tower's width.

        Raises:
            MismatchError: the text tower has no such table.
        """
        table = getattr(getattr(self.model, "text", self.model), "token_embedding", None)
        if not isinstance(table, nn.Embedding):
            raise MismatchError(
                f"CLIP {self.id} has no table of token embeddings",
                expected="a CLIP with a byte-pair text tower",
            )
        return table.weight

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Text embeddings, not normalised."""
        return self.encode_tokens(self.token_ids(texts))

    @torch.no_grad()
    def encode_tokens(self, ids: Int[Tensor, "n t"]) -> Float[Tensor, "n e"]:
        """Text embeddings, not normalised, of token ids that were cut to at most `context_length`, zeros at the end.

        Raises:
            MismatchError: more tokens to a text than the tower takes.
        """
        if len(ids) == 0:
            return torch.zeros(0, self.embed_dim, device=self.mean.device)
        if ids.shape[1] > self.context_length:
            raise MismatchError(
                f"texts too long for CLIP {self.id}", found=f"{ids.shape[1]} tokens",
                expected=f"at most {self.context_length}",
            )  # fmt: skip
        ids = pad(ids, (0, self.context_length - ids.shape[1])).to(self.mean.device)
        return torch.cat([towers.encode_ids(self.model, part) for part in torch.split(ids, TEXT_BATCH)])


class StoredClip:
    """A CLIP artifact by its id; its network is read when it is first asked for, since that takes seconds.

    Raises:
        ArtifactError: as `Clip.read_id`.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        self.id = Clip.read_id(folder)
        self._folder, self._device = folder, device

    @cached_property
    def network(self) -> Clip:
        """The CLIP; errors as `Clip.load`."""
        return Clip.load(self._folder, self._device)


def network_of(clip: Clip | StoredClip) -> Clip:
    """A CLIP that may not have been read yet; errors as `Clip.load`."""
    return clip.network if isinstance(clip, StoredClip) else clip


def resize_to(
    images: Float[Tensor, "b 3 h w"], side: int, interpolation: str, resize_mode: str
) -> Float[Tensor, "b 3 s s"]:
    """Antialiased resize to a square: `shortest` scales the shorter side and crops, `squash` stretches.

    Sides are rounded as open_clip's transform rounds them, so that the crop is the same.
    """
    height, width = images.shape[-2:]
    if (height, width) == (side, side):
        return images
    target = (side, side)
    if resize_mode == "shortest":
        short = min(height, width)
        target = (side * height // short, side * width // short)
    images = interpolate(images, target, mode=interpolation, antialias=True, align_corners=False)
    top, left = round((target[0] - side) / 2.0), round((target[1] - side) / 2.0)
    return images[..., top : top + side, left : left + side]


def token_ids(texts: Sequence[str], context_length: int) -> Int[Tensor, "n t"]:
    """CLIP's byte-pair token ids of texts, as `Clip.token_ids`."""
    return tokenizer()(list(texts), context_length=context_length)


def _choice(preprocess_cfg: Mapping[str, Any], key: str, choices: Sequence[str]) -> str:
    value = preprocess_cfg.get(key)
    if value not in choices:
        raise MismatchError(f"CLIP preprocessing: unknown {key}", found=value, choices=choices)
    return str(value)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load weights whole; `ArtifactError` naming what does not fit."""
    own = model.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    extra = [name for name in weights if name not in own]
    if wrong or extra:
        raise ArtifactError(
            f"{where}: the weights do not fit the model's config",
            found=f"{len(wrong)} tensors absent or of another shape ({', '.join(wrong[:3])}), "
            f"{len(extra)} unknown ({', '.join(extra[:3])})",
            expected=f"the {len(own)} tensors of the config",
        )
    model.load_state_dict(dict(weights))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values: equal weights of any file give an equal digest."""
    digest = sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@reads_whole
def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """The facts, the open_clip config and the weights of a CLIP artifact; errors as `Clip.load`."""
    facts = read_manifest(folder, CLIP).facts
    config = parse_object(read_intact(folder / "config.json", "dvc repro clip"), folder / "config.json")
    weights, _ = read_tensors(folder / "model.safetensors", CLIP_WEIGHTS)
    if not str(facts["id"]).endswith(f":{weights_digest(weights)[:12]}"):
        raise ArtifactError(
            f"{folder}: the weights are not those of the CLIP that its id names",
            found=weights_digest(weights)[:12], expected=facts["id"], run="dvc repro clip",
        )  # fmt: skip
    return facts, config, weights


def write_clip(
    folder: Path, model: nn.Module, config: Mapping[str, Any], *, name: str, tag: str, fitted_on: str | None
) -> dict[str, Any]:
    """Publish a CLIP artifact and return its facts.

    Args:
        model: the open_clip model that `config["model_cfg"]` describes; its weights are written in fp32.
        config: `model_cfg` and `preprocess_cfg` as in open_clip's own config files.
        name: architecture, the first part of the CLIP id.
        tag: where the weights come from, the second part.
        fitted_on: what it was fitted on here, or None for a pretrained one.
    """
    weights = {n: t.float() if t.is_floating_point() else t for n, t in model.state_dict().items()}
    clip = Clip(model, config["preprocess_cfg"], f"{name}:{tag}:{weights_digest(weights)[:12]}")
    facts = {
        "id": clip.id, "name": name, "tag": tag, "fitted_on": fitted_on, "image_size": clip.image_size,
        "embed_dim": clip.embed_dim, "patch_dim": clip.patch_dim, "patch_grid": list(clip.patch_grid),
        "context_length": clip.context_length, "num_parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
    with publish_folder(folder, CLIP, facts) as partial:
        publish_json(partial / "config.json", dict(config))
        write_tensors(partial / "model.safetensors", CLIP_WEIGHTS, weights, {"id": clip.id})
    return facts
