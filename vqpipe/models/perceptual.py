"""Per-image perceptual distances, used as a training loss and as a metric.

Each is frozen and always in eval mode, takes two batches of images in [-1, 1], is differentiable with respect to
both, and has the name that its numbers are reported under.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vqpipe.errors import MismatchError, SetupError
from vqpipe.params.base import Params

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip


TRUNKS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
"""File names of torchvision's ImageNet weights that LPIPS was calibrated on."""


class NoPerceptual(Params):
    """No perceptual distance."""

    kind: Literal["none"]
    """Discriminator."""


class ClipPerceptualParams(Params):
    """Distance between activations of the CLIP in use; reported as `clip_distance`, never as LPIPS."""

    kind: Literal["clip"]
    """Discriminator."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Transformer blocks of the image tower whose activations are compared, counted from 0."""


class LpipsPerceptualParams(Params):
    """LPIPS v0.1; its trunk's weights must be in the local torch hub cache."""

    kind: Literal["lpips"]
    """Discriminator."""
    net: Literal["alex", "vgg"]
    """Trunk: `alex` for reporting, `vgg` for training (Zhang et al. 2018)."""


PerceptualParams = Annotated[
    NoPerceptual | ClipPerceptualParams | LpipsPerceptualParams, Field(discriminator="kind")
]


class Perceptual(nn.Module):
    """A frozen distance between images; subclasses give `name`, `features` and `compare`."""

    name: str

    @property
    def source(self) -> str:
        """Which network gives the distance, and what of it, for the record."""
        return self.name

    def train(self, mode: bool = True) -> Perceptual:
        """Stay in eval mode: a parent's `train()` must not re-enable dropout."""
        del mode
        return super().train(False)

    def features(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """What `compare` needs of images in [-1, 1], so that a set compared several times is passed once."""
        raise NotImplementedError

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, b]:
        """The distance of each pair of images, given their features."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b 3 h w"], y: Float[Tensor, "b 3 h w"]) -> Float[Tensor, b]:
        """The distance of each pair, float32; images in [-1, 1]; 0 for equal images."""
        return self.compare(self.features(x), self.features(y))


class ClipPerceptual(Perceptual):
    """Mean squared difference of CLIP activations after a per-token layer norm without weights.

    For two tokens this is `2 - 2 r` with `r` their Pearson correlation over channels, so it is in [0, 4]
    for any scale of the layer; it is averaged over tokens and layers. The layer norm removes the large
    common offset of a transformer's residual stream. A substitute for LPIPS (Zhang et al. 2018, eq. 1), not
    LPIPS.

    Args:
        clip: the CLIP in use, a ViT.
        layers: rising block numbers, counted from 0.

    Raises:
        MismatchError: the CLIP has no such blocks.
    """

    name = "clip_distance"

    def __init__(self, clip: Clip, layers: Sequence[int]) -> None:
        super().__init__()
        clip.check_layers(layers)
        self.clip = clip
        self.layers = tuple(layers)
        self.requires_grad_(False).eval()

    @property
    def source(self) -> str:
        return f"{self.name} of clip {self.clip.id}, blocks {', '.join(map(str, self.layers))}"

    def features(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Normalised patch activations of each layer, float32 `[b, tokens, channels]`."""
        return self.normalise(self.clip.perceptual_features(images, self.layers))

    def normalise(self, activations: Sequence[Tensor]) -> list[Tensor]:
        """The layer norm that `features` ends with, for activations that were computed elsewhere."""
        return [F.layer_norm(a.float(), a.shape[-1:], eps=1e-6) for a in activations]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, b]:
        """Mean over layers, tokens and channels of the squared difference, in [0, 4]."""
        layers = [(x - y).square().mean(dim=(1, 2)) for x, y in zip(a, b, strict=True)]
        return torch.stack(layers).mean(dim=0)


class LpipsPerceptual(Perceptual):
    """LPIPS v0.1 (Zhang et al. 2018, eq. 1) with its calibrated linear layers; nothing is downloaded.

    Args:
        net: the trunk, `alex` or `vgg`; part of the name (`lpips_alex`, `lpips_vgg`).
        weights: torchvision's weights of the trunk; by default the file in the local torch hub cache.

    Raises:
        SetupError: the package or the trunk's weights are missing; the message names the file.
    """

    def __init__(self, net: Literal["alex", "vgg"], weights: Path | None = None) -> None:
        super().__init__()
        self.name = f"lpips_{net}"
        path = weights or Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[net]
        if not path.is_file():
            raise SetupError(
                f"LPIPS needs the ImageNet weights of its trunk ({net}), and they are not on disk",
                found=f"no file {path}",
                expected=f"torchvision's {TRUNKS[net]} there, or `perceptual.kind: clip` (embedded)",
                run='python -c "import torchvision.models as m; '
                f"m.{TRUNKS[net].split('-')[0]}(weights='DEFAULT')\"",
            )
        self.lpips = _build_lpips(net, path)
        self.requires_grad_(False).eval()

    def features(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Trunk activations at the images' own resolution, of unit length at each position."""
        outputs = self.lpips.net(self.lpips.scaling_layer(images.float()))
        # The small constant is where lpips has it: inside the division, so that zero vectors stay zero.
        return [out / (out.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for out in outputs]

    def compare(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, b]:
        """Sum over layers of the weighted squared differences, averaged over positions."""
        terms = zip(self.lpips.lins, a, b, strict=True)
        weighted = [linear((x - y).square()).mean(dim=(1, 2, 3)) for linear, x, y in terms]
        return torch.stack(weighted).sum(dim=0)


def _build_lpips(net: str, trunk: Path) -> Any:
    """An LPIPS module whose linear layers come from the package and whose trunk comes from `trunk`."""
    try:
        import lpips
    except ImportError as error:
        raise SetupError("the package lpips is not installed", run="pip install lpips") from error
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # lpips uses torchvision's old `pretrained` argument
        model: Any = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    calibrated = torch.load(
        str(files("lpips") / f"weights/v0.1/{net}.pth"), map_location="cpu", weights_only=True
    )
    try:
        image_net = torch.load(trunk, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise SetupError(f"{trunk} cannot be read as weights", found=str(error).splitlines()[0]) from error
    # lpips cuts torchvision's `features` into slices and keeps each layer's index as its name.
    for name, parameter in model.net.named_parameters():
        source = "features." + name.split(".", 1)[1]
        if source not in image_net or image_net[source].shape != parameter.shape:
            raise SetupError(
                f"{trunk} does not have the trunk that LPIPS ({net}) needs",
                found=f"no {source} of shape {tuple(parameter.shape)}",
                expected=TRUNKS[net],
            )
        parameter.data.copy_(image_net[source])
    assert len(calibrated) == model.L
    assert not model.load_state_dict(calibrated, strict=False).unexpected_keys
    return model


def build_perceptual(
    params: NoPerceptual | ClipPerceptualParams | LpipsPerceptualParams, clip: Clip | None
) -> Perceptual | None:
    """The distance that the params name, or None for `kind: none`.

    Raises:
        SetupError: LPIPS weights that are not on disk.
        MismatchError: `kind: clip` without a CLIP, or with a layer it does not have.
    """
    if isinstance(params, NoPerceptual):
        return None
    if isinstance(params, LpipsPerceptualParams):
        return LpipsPerceptual(params.net)
    if clip is None:
        raise MismatchError("perceptual.kind is clip, and there is no CLIP", run="dvc repro clip")
    return ClipPerceptual(clip, params.layers)
