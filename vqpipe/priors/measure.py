"""How well a prior models images: bits compared with the unigram floor, samples compared with test and training images.

Samples are measured with two references: images decoded from codes drawn by frequency alone (the floor) and the
tokenizer's own reconstructions of the test images (the ceiling: no prior over these codes can be expected to pass it).

Letters: n m images, g groups, h w the token grid, k codes, H W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.loader import ImageSplit, to_uint8
from vqpipe.metrics.codes import bits_per_image
from vqpipe.metrics.distances import DistanceParams, FeatureRows, Features
from vqpipe.metrics.measured import Measured
from vqpipe.priors.contract import Batch, Condition, ConditionKind, Prior
from vqpipe.priors.measure_completion import CompletionMetrics, HoleName
from vqpipe.priors.measure_conditions import ConditionMetrics, Watcher
from vqpipe.priors.measure_distances import Moments, SampleDistances, sample_distances
from vqpipe.runtime.batches import read_ahead, slices
from vqpipe.runtime.seeds import torch_rng
from vqpipe.runtime.terminal import track
from vqpipe.tokenizers.tokens import TokenSplit

SAMPLE_BATCH, IMAGE_BATCH, TRAIN_CHUNK = 128, 64, 512
"""Images drawn, decoded and compared at once; fixed, so that results do not depend on them."""
NUM_COMPARED = 128
"""Samples whose nearest training image is searched for, and images that are kept of each set, drawn from all of it."""
POOLED_SIDE = 32
"""Nearest images are searched for after block means down to at most this many pixels a side."""


class SplitBits(Metrics):
    """Bits of one split under the prior."""

    bits_per_token: float
    """Bits per code; lower is better."""


class NearestImagesMetrics(Metrics):
    """A set of images compared with the training images."""

    rmse: float
    """Median distance to the nearest training image, grey levels in [0, 255] after block means."""
    same_codes: float
    """Median of the largest part of codes that one training image has in the same places, [0, 1]."""
    copies: int
    """Images of which one training image has all codes."""


class MemorisationMetrics(Metrics):
    """How near samples are to training images, compared with reconstructed test images."""

    num_compared: int
    """Images in each set."""
    samples: NearestImagesMetrics
    """Samples of the prior."""
    reconstructions: NearestImagesMetrics
    """Reconstructed test images."""
    rmse_ratio: float
    """`rmse` of the samples divided by that of the reconstructions: well below 1 indicates copies."""


class PriorMetrics(Metrics):
    """What the `prior` stage measures. Bits are None for a prior that cannot compute a likelihood."""

    bits_per_image: float | None = None
    """Cross-entropy of a test image's codes under the prior, mean over the `num_samples` test images that are drawn;
    lower is better."""
    bits_per_token: float | None = None
    """The same per code; lower is better."""
    validation: SplitBits | None = None
    """Bits of half as many validation images, drawn, or of all of them."""
    train: SplitBits | None = None
    """Bits of half as many training images, drawn; far below validation means overfitting."""
    unigram_bits_per_token: float
    """Bits per code of the same test images under the frequencies of training codes: the floor of a prior that ignores
    all context."""
    unigram_bits_per_image: float
    """The same per image."""
    fixed_length_bits_per_token: float
    """Bits per code without any model: mean log2 K over the groups."""
    samples: SampleDistances
    """Samples of the prior. Their captions or label maps are those of the test images, which helps them; their classes
    are drawn with the frequencies of training."""
    unigram_samples: SampleDistances
    """The floor: images of codes drawn by frequency."""
    reconstructions: SampleDistances
    """The ceiling: reconstructed test images."""
    unquantised_samples: SampleDistances | None = None
    """Samples decoded without quantising them (`Quantizer.continuous`); only of priors over latents, and of quantizers
    whose latents are in the space of the codes."""
    train_images: SampleDistances | None = None
    """As many random training images: what draws from the true distribution would reach. None where the training split
    has fewer."""
    test_images: SampleDistances | None = None
    """The test images themselves, for `fid_train`; None without it."""
    num_samples: int
    """Images in each of these sets and on the side of the test images, which are drawn by the seed from the split."""
    nearest_train: MemorisationMetrics
    """Whether samples are copies of training images."""
    num_parameters: int
    """Weights of the prior."""
    num_steps: int
    """Optimiser steps."""
    num_rollbacks: int
    """How often the training went back to a checkpoint because a loss was not finite."""
    weights: Literal["ema", "last"]
    """Which weights are published and measured."""
    condition: ConditionKind
    """What the prior is given."""
    num_without_condition: int
    """Training images without the label, caption or map that the condition names."""
    num_captions_cut: int
    """Training captions longer than the text encoder reads."""
    agreement: ConditionMetrics | None = None
    """Whether samples are what was asked for; None without a condition."""
    completion: dict[HoleName, CompletionMetrics] | None = None
    """By the place of the hole; None where the prior cannot be given known tokens."""
    sha256: str
    """The prior that has these numbers (`prior_digest`)."""
    measured: Measured
    """Digests of the images and the protocol."""


ImageBatches = Callable[[], Iterable[UInt8[Tensor, "b 3 H W"]]]
"""Makes the images of a set in order, on the CPU, `IMAGE_BATCH` at a time."""


@dataclass(frozen=True)
class MeasuredSets:
    """What is kept of sets of n images that passed batch by batch."""

    kept: dict[str, UInt8[Tensor, "m 3 H W"]]
    """Of each set the images that are compared; the others are not kept."""
    distances: dict[str, SampleDistances]
    """Of each set from n test images."""


@dataclass(frozen=True)
class Memorisation:
    """The nearest training images of some samples and of as many reconstructed test images."""

    nearest: dict[str, NearestImages]
    shared: dict[str, Float64[Tensor, " n"]]
    """Largest part of codes shared with one training image."""

    def metrics(self) -> MemorisationMetrics:
        """Medians by set, and the ratio of samples to reconstructions."""
        found = {
            name: NearestImagesMetrics(
                rmse=float(search.rmse.median()),
                same_codes=float(self.shared[name].median()),
                copies=int((self.shared[name] == 1).sum()),
            )
            for name, search in self.nearest.items()
        }
        return MemorisationMetrics(
            num_compared=len(self.shared["samples"]),
            rmse_ratio=found["samples"].rmse / max(found["reconstructions"].rmse, 1e-9),
            **found,
        )


@torch.no_grad()
def image_bits(prior: Prior, batches: Iterable[Batch]) -> Float64[Tensor, " n"] | None:
    """-log2 p(image | condition) of each image of a split, in bits; None where the prior has no likelihood."""
    parts = []
    for images, condition in batches:
        likelihood = prior.log_likelihood(images.to(prior.device), condition.to(prior.device))
        if likelihood is None:
            return None
        parts.append(-likelihood.double().flatten(1).sum(dim=1).cpu() / math.log(2))
    return torch.cat(parts)


def split_bits(
    prior: Prior,
    batches: Mapping[str, Iterable[Batch]],
    test: Int64[Tensor, "n g h w"],
    floor: list[Float64[Tensor, " k"]],
) -> dict[str, Any]:
    """The fields of `PriorMetrics` that count bits.

    Args:
        batches: the images of `train`, `validation` and `test`.
        test: codes of the test images.
        floor: as `code_frequencies`.
    """
    num_codes, grid = prior.space.num_codes, prior.space.grid
    tokens_per_image = prior.space.groups * math.prod(grid)
    by_frequency = unigram_bits(floor, test)
    fields: dict[str, Any] = {
        "unigram_bits_per_token": by_frequency,
        "unigram_bits_per_image": by_frequency * tokens_per_image,
        "fixed_length_bits_per_token": bits_per_image(num_codes, grid) / tokens_per_image,
    }
    found = {name: image_bits(prior, own) for name, own in batches.items()}
    means = {name: float(bits.mean()) for name, bits in found.items() if bits is not None}
    if not means:
        return fields
    per_token = {name: SplitBits(bits_per_token=mean / tokens_per_image) for name, mean in means.items()}
    return {
        **fields,
        "bits_per_image": means["test"],
        "bits_per_token": per_token["test"].bits_per_token,
        "validation": per_token["validation"],
        "train": per_token["train"],
    }


def code_frequencies(train: TokenSplit, num_codes: tuple[int, ...]) -> list[Float64[Tensor, " k"]]:
    """Per group, each code's training frequency with one added to every count: (c + 1) / (n + k)."""
    counts = [
        torch.bincount(train.indices[:, group].flatten().long(), minlength=codes).double() + 1
        for group, codes in enumerate(num_codes)
    ]
    return [count / count.sum() for count in counts]


def unigram_bits(floor: list[Float64[Tensor, " k"]], codes: Int64[Tensor, "n g h w"]) -> float:
    """Mean bits per token of images under training frequencies: the floor of a prior that ignores all context."""
    bits = [-probs[codes[:, group]].log2().mean() for group, probs in enumerate(floor)]
    return float(torch.stack(bits).mean())


def unigram_samples(
    floor: list[Float64[Tensor, " k"]], n: int, grid: tuple[int, int], generator: torch.Generator
) -> Int64[Tensor, "n g h w"]:
    """Codes drawn at each position from the training frequencies alone."""
    positions = n * grid[0] * grid[1]
    drawn = [torch.multinomial(probs, positions, replacement=True, generator=generator) for probs in floor]
    return torch.stack([codes.view(n, *grid) for codes in drawn], dim=1)


def pooled(images: UInt8[Tensor, "n 3 H W"]) -> Float64[Tensor, "n d"]:
    """Block means at `POOLED_SIDE` or below, flattened: float64 of shape (n, d), in [0, 255]."""
    side = min(POOLED_SIDE, images.shape[-1])
    return F.adaptive_avg_pool2d(images.float(), side).flatten(1).double()


class NearestImages:
    """The training image nearest to each query, by root mean squared error of block means; fed in chunks."""

    def __init__(self, queries: UInt8[Tensor, "n 3 H W"]) -> None:
        self._queries = pooled(queries)
        self._squared = torch.full((len(queries),), math.inf, dtype=torch.float64)
        self.rows = torch.zeros(len(queries), dtype=torch.int64)
        """Row of the nearest image among all that were fed."""
        self._seen = 0

    def feed(self, images: UInt8[Tensor, "m 3 H W"]) -> None:
        """Compare with further images."""
        other = pooled(images)
        norms = self._queries.square().sum(1)[:, None] + other.square().sum(1)
        best, rows = (norms - 2 * self._queries @ other.T).clamp_min(0).min(dim=1)
        closer = best < self._squared
        self._squared = torch.where(closer, best, self._squared)
        self.rows = torch.where(closer, rows + self._seen, self.rows)
        self._seen += len(images)

    @property
    def rmse(self) -> Float64[Tensor, " n"]:
        """Distance to the nearest image in [0, 255]."""
        return (self._squared / self._queries.shape[1]).sqrt()


def same_codes(queries: Int64[Tensor, "n g h w"], train: TokenSplit) -> Float64[Tensor, " n"]:
    """For each query the largest part of its codes that one training image has in the same places."""
    best = torch.zeros(len(queries), dtype=torch.float64)
    flat = queries.flatten(1).to(torch.int32)
    for part in slices(len(train.indices), TRAIN_CHUNK):
        reference = train.indices[part].flatten(1)
        for row, query in enumerate(flat):
            most = int((reference == query).sum(dim=1).max())
            best[row] = max(float(best[row]), most / flat.shape[1])
    return best


def sample_batches(
    prior: Prior, conditions: Callable[[slice], Condition], n: int
) -> Iterator[tuple[Tensor, float]]:
    """`n` samples batch by batch, tokens or latents, on the CPU, and the seconds of drawing each batch; samples are a
    function of the params, the weights and the conditions, which are asked for batch by batch."""
    config = prior.config
    for rows in track(slices(n, SAMPLE_BATCH), "samples"):
        generator, condition = torch_rng(config.seed, "prior", "samples", rows.start), conditions(rows)
        begun = time.perf_counter()
        drawn = prior.sample(condition, rows.stop - rows.start, config.sampling, generator).cpu()
        yield drawn, time.perf_counter() - begun


def measure_sets(
    sets: Mapping[str, ImageBatches],
    test: ImageBatches,
    n: int,
    compared: Int64[np.ndarray, " m"],
    features: Features,
    params: DistanceParams,
    watchers: Mapping[str, Sequence[Watcher]] | None = None,
    train: Moments | None = None,
) -> MeasuredSets:
    """The distances of each set of n images from n test images; images pass in batches.

    With too few images, the distances state why there are none.

    Args:
        sets: by name.
        test: the test images, which have a row of their own with `train`.
        compared: places of the images that are kept of each set, rising.
        watchers: see the images of the sets of these names; the test images are `test_images`.
        train: moments of the whole training split, for `fid_train`.
    """
    real = FeatureRows(n, features.dim)
    images: dict[str, Tensor] = {}
    found: dict[str, SampleDistances] = {}
    for name, batches in {"test_images": test, **sets}.items():
        rows, kept = real if name == "test_images" else FeatureRows(n, features.dim), []
        start = 0
        for batch in batches():
            own = features.extract(batch)
            rows.add(own)
            here = compared[(start <= compared) & (compared < start + len(batch))] - start
            kept.append(batch[torch.from_numpy(here)])
            for watcher in (watchers or {}).get(name, ()):
                watcher.add(name, slice(start, start + len(batch)), batch, own)
            start += len(batch)
        images[name] = torch.cat(kept)
        if name != "test_images" or train is not None:
            found[name] = sample_distances(rows.rows, real.rows, features, params, train)
    return MeasuredSets(images, found)


def crops(images: ImageSplit, rows: Int64[np.ndarray, " n"]) -> Iterator[UInt8[Tensor, "b 3 H W"]]:
    """Centre crops of some images of a split, `IMAGE_BATCH` at a time."""
    batches = slices(len(rows), IMAGE_BATCH)
    return read_ahead(lambda at: images.gather(rows[at], None, "centre", False), batches)


def decoded(
    decode: Callable[[Tensor], Float[Tensor, "b 3 H W"]], codes: Tensor, device: torch.device
) -> Iterator[UInt8[Tensor, "b 3 H W"]]:
    """Images of codes or latents as uint8 on the CPU, `IMAGE_BATCH` at a time."""
    for rows in slices(len(codes), IMAGE_BATCH):
        with torch.no_grad():
            images = decode(codes[rows].to(device))
        yield to_uint8(images).cpu()


def memorisation(
    sets: MeasuredSets, codes: Mapping[str, Int64[Tensor, "m g h w"]], tokens: TokenSplit, images: ImageSplit
) -> Memorisation:
    """Search the training images for the kept samples, and for as many reconstructed test images.

    A copied code grid decodes to a training image's reconstruction and not to the image, so samples are compared with
    reconstructions and not with test images.

    Args:
        codes: of the kept images of these sets.
    """
    names = ("samples", "reconstructions")
    nearest = {name: NearestImages(sets.kept[name]) for name in names}
    chunks = slices(len(images), TRAIN_CHUNK)
    for chunk in read_ahead(
        lambda rows: images.images(rows.start, rows.stop), track(chunks, "nearest training images")
    ):
        for search in nearest.values():
            search.feed(chunk)
    return Memorisation(nearest, {name: same_codes(codes[name], tokens) for name in names})
