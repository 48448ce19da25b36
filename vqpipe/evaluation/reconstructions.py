"""What an evaluation is given (a tokenizer, images, networks), and the errors of one way to reconstruct the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch import Tensor

from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import DataError
from vqpipe.metrics.distances import DistanceParams, FeatureRows, Features, load_features
from vqpipe.metrics.images import ERRORS
from vqpipe.models.perceptual import ClipPerceptual, Perceptual, PerceptualParams, build_perceptual

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Codebook
    from vqpipe.vision.clip import Clip


class TokenizerLike(Protocol):
    """What is evaluated: `vqpipe.tokenizers.tokenizer.Tokenizer`, or anything with these."""

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
class MetricNetworks:
    """The networks that metrics use, and where they run."""

    features: Features | None
    """For distances between sets of images."""
    perceptual: Perceptual | None
    """For the distance of each image."""
    device: torch.device
    """Where they run."""

    @classmethod
    def load(
        cls, distances: DistanceParams, perceptual: PerceptualParams, clip: Clip | None, device: torch.device
    ) -> MetricNetworks:
        """Build what the params name; errors as `load_features` and `build_perceptual`."""
        network = build_perceptual(perceptual, clip)
        features = load_features(distances, clip, device)
        return cls(features, network.to(device) if network is not None else None, device)

    def features_of(self, images: UInt8[Tensor, "b 3 h w"], with_set_features: bool) -> BatchFeatures:
        """The features of a batch; where both networks are the same CLIP, in one pass of it."""
        network = self.features if with_set_features else None
        perceptual = self.perceptual
        if isinstance(perceptual, ClipPerceptual) and network is not None and network.clip is perceptual.clip:
            embedding, blocks = perceptual.clip.encode_image_and_blocks(to_float(images), perceptual.layers)
            return BatchFeatures(perceptual.normalise(blocks), embedding.float().cpu())
        activations = perceptual.features(to_float(images)) if perceptual is not None else []
        return BatchFeatures(activations, network.extract(images) if network is not None else None)


@dataclass(frozen=True)
class BatchFeatures:
    """What the networks give for a batch of images."""

    perceptual: list[Tensor]
    """For the perceptual distance."""
    for_sets: Float32[Tensor, "b d"] | None
    """For distances between sets; None where these are not measured."""


@dataclass(frozen=True)
class BatchErrors:
    """What was measured of a batch of reconstructions, on the CPU."""

    errors: dict[str, Float64[np.ndarray, " b"]]
    """One value for each image, by measure."""
    for_sets: Float32[Tensor, "b d"] | None
    """Features for distances between sets; None where these are not measured."""


def batch_errors(
    networks: MetricNetworks,
    originals: UInt8[Tensor, "b 3 h w"],
    original_features: BatchFeatures,
    images: UInt8[Tensor, "b 3 h w"],
) -> BatchErrors:
    """Measure a batch of reconstructions of `originals`."""
    errors = {name: measure(originals, images) for name, measure in ERRORS.items()}
    features = networks.features_of(images, original_features.for_sets is not None)
    perceptual = networks.perceptual
    if perceptual is not None:
        distance = perceptual.compare(original_features.perceptual, features.perceptual)
        errors[perceptual.name] = distance.double().cpu().numpy()
    return BatchErrors(errors, features.for_sets)


class ReconstructionErrors:
    """What was measured of one way to reconstruct the images of a split, batch by batch.

    Args:
        kept: the images whose features are kept, one boolean for each image of the split.
        feature_dim: length of a feature.
    """

    def __init__(self, kept: Bool[np.ndarray, " n"], feature_dim: int) -> None:
        self._errors: dict[str, list[np.ndarray]] = {}
        self._kept, self._seen = kept, 0
        self.features = FeatureRows(int(kept.sum()), feature_dim)
        """For distances between sets."""

    def add(self, batch: BatchErrors) -> None:
        """Append the next images."""
        for name, values in batch.errors.items():
            self._errors.setdefault(name, []).append(values)
        if batch.for_sets is not None:
            kept = self._kept[self._seen : self._seen + len(batch.for_sets)]
            self.features.add(batch.for_sets[torch.from_numpy(kept)])
            self._seen += len(kept)

    def table(self) -> dict[str, Float64[np.ndarray, " n"]]:
        """One value for each image, by measure."""
        return {name: np.concatenate(parts) for name, parts in self._errors.items()}


def decode_to_uint8(tokenizer: TokenizerLike, indices: Int[Tensor, "b g h w"]) -> UInt8[Tensor, "b 3 H W"]:
    """Decode to uint8, clamped and rounded, as a user would save it.

    Raises:
        DataError: the decoder's output is not finite.
    """
    images = tokenizer.decode(indices)
    if not bool(torch.isfinite(images).all()):
        raise DataError("the tokenizer decodes to values that are not finite", run="dvc repro tokenizer")
    return to_uint8(images.float())
