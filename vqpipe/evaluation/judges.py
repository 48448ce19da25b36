"""What an evaluation is made of: the coder and images it is given, the networks that judge, the rows of its
table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor

from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import DataError
from vqpipe.metrics.distances import load_features
from vqpipe.metrics.images import ERRORS
from vqpipe.models.perceptual import ClipPerceptual, Perceptual, build_perceptual
from vqpipe.params.evaluate import EvaluateParams

if TYPE_CHECKING:
    from vqpipe.metrics.distances import Features
    from vqpipe.quantizers.contract import Codebook
    from vqpipe.vision.clip import Clip


class Coder(Protocol):
    """What is measured: `vqpipe.tokenizers.tokenizer.Tokenizer`, or anything with these."""

    @property
    def num_codes(self) -> tuple[int, ...]: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def resolution(self) -> int: ...
    def encode(self, images: Float[Tensor, "b 3 H W"]) -> Int[Tensor, "b g h w"]: ...
    def decode(self, indices: Int[Tensor, "b g h w"]) -> Float[Tensor, "b 3 H W"]: ...
    def codebooks(self) -> list[Codebook]: ...


class Images(Protocol):
    """Images of one resolution in a fixed order."""

    @property
    def ids(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def take(self, positions: np.ndarray) -> UInt8[Tensor, "n 3 r r"]: ...


@dataclass(frozen=True)
class Judges:
    """The networks that judge images, and where they run."""

    features: Features | None
    perceptual: Perceptual | None
    device: torch.device

    @classmethod
    def load(cls, config: EvaluateParams, clip: Clip | None, device: torch.device) -> Judges:
        """Build what the params name; errors as `load_features` and `build_perceptual`."""
        perceptual = build_perceptual(config.perceptual, clip)
        features = load_features(config.distances, clip, device)
        return cls(features, perceptual.to(device) if perceptual is not None else None, device)

    def view(self, images: UInt8[Tensor, "b 3 h w"], with_features: bool) -> View:
        """Look at a batch once; where both judges are the same CLIP, in one pass of it."""
        features = self.features if with_features else None
        judge = self.perceptual
        if isinstance(judge, ClipPerceptual) and features is not None and features.clip is judge.clip:
            embedding, blocks = judge.clip.encode_image_and_blocks(to_float(images), judge.layers)
            return View(judge.normalise(blocks), embedding.float().double().cpu())
        seen = judge.features(to_float(images)) if judge is not None else []
        return View(seen, features.extract(images, len(images)) if features is not None else None)


@dataclass(frozen=True)
class View:
    """What the judges see in a batch: features for the perceptual distance, and float64 ones for distances
    between sets (None where these are not taken)."""

    perceptual: list[Tensor]
    features: Float64[Tensor, "b d"] | None


class Row:
    """One row of the table: a way to reconstruct images, and what was measured of it so far."""

    def __init__(self, judges: Judges) -> None:
        self.judges = judges
        self.errors: dict[str, list[np.ndarray]] = {}
        self.features: list[Tensor] = []

    def add(self, originals: UInt8[Tensor, "b 3 h w"], seen: View, images: UInt8[Tensor, "b 3 h w"]) -> None:
        """Measure a batch of reconstructions; `seen` is the view of the originals."""
        for name, measure in ERRORS.items():
            self.errors.setdefault(name, []).append(measure(originals, images))
        view, judge = (
            self.judges.view(images, with_features=seen.features is not None),
            self.judges.perceptual,
        )
        if judge is not None:
            distance = judge.compare(seen.perceptual, view.perceptual)
            self.errors.setdefault(judge.name, []).append(distance.double().cpu().numpy())
        if view.features is not None:
            self.features.append(view.features)

    def table(self) -> dict[str, Float64[np.ndarray, " n"]]:
        return {name: np.concatenate(parts) for name, parts in self.errors.items()}


def reconstruct(coder: Coder, indices: Int[Tensor, "b g h w"]) -> UInt8[Tensor, "b 3 H W"]:
    """Decode to uint8 (clamped, rounded): what a user would save.

    Raises:
        DataError: the decoder's output is not finite.
    """
    images = coder.decode(indices)
    if not bool(torch.isfinite(images).all()):
        raise DataError("the tokenizer decodes to values that are not finite", run="dvc repro tokenizer")
    return to_uint8(images.float())
