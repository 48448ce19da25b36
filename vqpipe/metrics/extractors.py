"""Feature extractors for distances between sets of images, registered with torch-fidelity 0.4.

Which extractor a number rests on is part of its name: `fd_clip` and `kd_clip` for the CLIP in use, `fid`
and `kid` for torch-fidelity's Inception network and for nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from vqpipe.errors import SetupError

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip

CLIP_EXTRACTOR, CLIP_LAYER = "vqpipe-clip", "embedding"
INCEPTION_EXTRACTOR, INCEPTION_LAYER = "inception-v3-compat", "2048"
INCEPTION_FILE = URL_INCEPTION_V3.rsplit("/", 1)[-1]


class ClipExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """CLIP image embeddings, before normalisation, as a torch-fidelity extractor."""

    def __init__(self, name: str, features_list: list[str], clip: Clip, **unused: Any) -> None:
        super().__init__(name, features_list)
        self.clip = clip

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (CLIP_LAYER,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"fid": CLIP_LAYER, "kid": CLIP_LAYER, "prc": CLIP_LAYER}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        return (self.clip.encode_image(images.float() / 127.5 - 1.0).float(),)


if CLIP_EXTRACTOR not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(CLIP_EXTRACTOR, ClipExtractor)


@dataclass(frozen=True)
class Features:
    """An extractor, and the names that numbers in its features may carry.

    `source` says which network it is, `dim` the length of its features, `names` maps `frechet`, `kernel`,
    `precision` and `recall` to metric names.
    """

    extractor: Any
    source: str
    dim: int
    names: Mapping[str, str]
    device: torch.device
    clip: Clip | None = None
    """The CLIP whose embeddings these are, where they are."""

    @torch.no_grad()
    def extract(self, images: UInt8[Tensor, "n 3 h w"], batch_size: int) -> Float64[Tensor, "n d"]:
        """Features of RGB images as float64 on the CPU; they agree to float32 rounding for any batch size."""
        rows = [torch.zeros(0, self.dim, dtype=torch.float64)]
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size].to(self.device)
            rows.append(self.extractor(batch)[0].double().cpu())
        return torch.cat(rows)


_SHORT = {"frechet": "fd", "kernel": "kd", "precision": "precision", "recall": "recall"}


def clip_features(clip: Clip, device: torch.device) -> Features:
    """Features of the CLIP in use; numbers are `fd_clip`, `kd_clip`, `precision_clip`, `recall_clip`."""
    extractor = create_feature_extractor(CLIP_EXTRACTOR, [CLIP_LAYER], cuda=False, verbose=False, clip=clip)
    names = {name: f"{short}_clip" for name, short in _SHORT.items()}
    return Features(extractor.to(device), f"clip {clip.id}", clip.embed_dim, names, device, clip)


def inception_features(device: torch.device) -> Features:
    """torch-fidelity's Inception v3, layer 2048; numbers are `fid`, `kid`, `precision_inception`,
    `recall_inception`.

    Raises:
        SetupError: its weights are not in the local torch hub cache (nothing is downloaded), or are not its
        weights.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    if not path.is_file():
        raise SetupError(
            "features: inception needs torch-fidelity's Inception weights, and they are not on disk",
            found=f"no file {path}",
            expected=f"{INCEPTION_FILE} there, or `features: clip` (embedded; gives fd_clip, kd_clip)",
            run='python -c "from torch_fidelity.utils import create_feature_extractor as f; '
            f"f('{INCEPTION_EXTRACTOR}', ['{INCEPTION_LAYER}'], cuda=False)\"",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # torch-fidelity would unpickle the file freely; it gets a copy of what was read safely.
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        extractor = create_feature_extractor(
            INCEPTION_EXTRACTOR,
            [INCEPTION_LAYER],
            cuda=False,
            verbose=False,
            feature_extractor_weights_path=copy,
        )
    except (RuntimeError, OSError, EOFError, ValueError, UnpicklingError) as error:
        raise SetupError(
            f"{path} cannot be read as Inception weights",
            found=str(error).splitlines()[0],
            expected=INCEPTION_FILE,
        ) from error
    names = {
        "frechet": "fid",
        "kernel": "kid",
        "precision": "precision_inception",
        "recall": "recall_inception",
    }
    return Features(
        extractor.to(device), f"torch-fidelity {INCEPTION_EXTRACTOR}", int(INCEPTION_LAYER), names, device
    )
