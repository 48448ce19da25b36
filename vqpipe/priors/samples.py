"""Samples of a prior: drawn, decoded, compared with test images, and looked up among the training images.

Beside the samples stand images decoded from codes drawn by frequency alone (the floor) and the tokenizer's
own reconstructions of the test images (what no prior over these tokens can be expected to pass).

Letters: n images, g groups, h w the token grid, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from vqpipe.data.loader import ImageSplit, to_uint8
from vqpipe.metrics.distances import feature_distances, refusal
from vqpipe.metrics.extractors import Features
from vqpipe.params.distances import DistanceParams
from vqpipe.params.prior import PriorParams
from vqpipe.priors.condition import NO_LABEL
from vqpipe.priors.gpt import GPT
from vqpipe.priors.measure import NearestImages, same_codes
from vqpipe.priors.train import condition_of
from vqpipe.runtime.progress import track
from vqpipe.runtime.seeds import numpy_rng, torch_rng
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSplit

SAMPLE_BATCH, IMAGE_BATCH, TRAIN_CHUNK = 256, 64, 512
"""Images drawn, decoded and compared at once; fixed, so that results do not depend on them."""
NUM_COMPARED = 128
"""Samples whose nearest training image is looked for."""


@dataclass(frozen=True)
class Drawn:
    """Three sets of n images: samples, their floor, and reconstructed test images."""

    codes: dict[str, Int64[Tensor, "n g h w"]]
    images: dict[str, UInt8[Tensor, "n 3 H W"]]


@dataclass(frozen=True)
class Memorisation:
    """The nearest training images of the first samples and of as many reconstructed test images."""

    nearest: dict[str, NearestImages]
    shared: dict[str, Float64[Tensor, " n"]]
    """Largest part of codes shared with one training image."""

    def metrics(self) -> dict[str, Any]:
        """Medians by set, and samples over reconstructions as a ratio: well below 1 speaks of copies."""
        content: dict[str, Any] = {
            name: {
                "rmse": float(search.rmse.median()),
                "same_codes": float(self.shared[name].median()),
                "copies": int((self.shared[name] == 1).sum()),
            }
            for name, search in self.nearest.items()
        }
        content["num_compared"] = len(self.shared["samples"])
        content["rmse_ratio"] = content["samples"]["rmse"] / max(content["reconstructions"]["rmse"], 1e-9)
        return content


def sample_labels(prior: GPT, train: TokenSplit, n: int, seed: int) -> Int64[Tensor, " n"]:
    """Labels as often as in training; -1 for an unconditional prior."""
    if not prior.num_classes:
        return torch.full((n,), NO_LABEL, dtype=torch.int64)
    rows = numpy_rng(seed, "prior", "labels").integers(len(train), size=n)
    return train.labels[torch.from_numpy(rows)]


def draw_samples(prior: GPT, labels: Int64[Tensor, " n"], config: PriorParams) -> Int64[Tensor, "n g h w"]:
    """One sample per label (labels count alone without classes); a function of the params and weights."""
    parts = []
    for start in track(range(0, len(labels), SAMPLE_BATCH), "samples"):
        own = labels[start : start + SAMPLE_BATCH]
        generator = torch_rng(config.seed, "prior", "samples", start)
        parts.append(prior.sample(condition_of(prior, own), len(own), generator, config.sampling).cpu())
    return torch.cat(parts)


def decode_images(
    tokenizer: Tokenizer, codes: Int64[Tensor, "n g h w"], device: torch.device
) -> UInt8[Tensor, "n 3 H W"]:
    """Images of codes as uint8."""
    starts = range(0, len(codes), IMAGE_BATCH)
    parts = [tokenizer.decode(codes[start : start + IMAGE_BATCH].to(device)) for start in starts]
    return torch.cat([to_uint8(part).cpu() for part in parts])


def compare(
    images: dict[str, UInt8[Tensor, "n 3 H W"]],
    real: UInt8[Tensor, "n 3 H W"],
    features: Features,
    params: DistanceParams,
) -> dict[str, Any]:
    """Distances of each set from the real images; with too few images, why there are none."""
    reason = refusal(len(real), features, params)
    if reason is not None:
        return {name: {"not_measured": reason} for name in images}
    reference = features.extract(real, IMAGE_BATCH)
    return {
        name: feature_distances(features.extract(made, IMAGE_BATCH), reference, features, params)
        for name, made in images.items()
    }


def memorisation(drawn: Drawn, tokens: TokenSplit, images: ImageSplit) -> Memorisation:
    """Look for the first samples, and for as many reconstructed test images, among the training images.

    A copied code grid decodes to a training image's reconstruction and not to the image, so it is held
    against reconstructions and not against test images.
    """
    names = ("samples", "reconstructions")
    nearest = {name: NearestImages(drawn.images[name][:NUM_COMPARED]) for name in names}
    for start in track(range(0, len(images), TRAIN_CHUNK), "nearest training images"):
        chunk = images.images(start, start + TRAIN_CHUNK)
        for search in nearest.values():
            search.feed(chunk)
    return Memorisation(
        nearest, {name: same_codes(drawn.codes[name][:NUM_COMPARED], tokens) for name in names}
    )
