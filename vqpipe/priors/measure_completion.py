"""Completion: what a prior draws into a hole of real images' tokens, compared with the images themselves.

Next to the prior's completions are the floor (the hole is filled with codes drawn by frequency), chance (with the codes
of another test image) and the ceiling (the image's own codes). Completions may differ from the image and still be
right, so that PSNR favours the mean of all completions; the distance between sets does not.

Letters: n b images, g groups, h w the token grid, H W pixels, d channels of a feature.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.images import encode_png
from vqpipe.evaluation.reconstructions import BatchFeatures, MetricNetworks
from vqpipe.metrics.distances import DistanceParams, FeatureRows, Features
from vqpipe.metrics.images import l1, psnr
from vqpipe.models.perceptual import ClipPerceptual
from vqpipe.priors.contract import UNKNOWN, Condition, Prior
from vqpipe.priors.measure_distances import SampleDistances, sample_distances
from vqpipe.runtime.batches import slices
from vqpipe.vision.clip import Clip

HoleName = Literal["lower_half", "upper_half", "inner_square"]
NUM_PICTURES, NUM_COMPLETIONS = 4, 5
"""Images that are shown with their completions, and completions of each."""
PERCEPTUAL = "clip_distance"


@dataclass(frozen=True)
class Hole:
    """A rectangle of a token grid whose codes are drawn; rows and columns from the first to before the last."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    def mask(self, grid: tuple[int, int]) -> Bool[Tensor, "h w"]:
        """True where codes are drawn."""
        out = torch.zeros(grid, dtype=torch.bool)
        out[slice(*self.rows), slice(*self.columns)] = True
        return out

    def cut(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """The part of maps (..., H, W) of any resolution that is inside the hole, borders rounded."""
        height, width = maps.shape[-2:]
        rows, columns = (
            slice(*(round(at * length / cells) for at in ends))
            for ends, length, cells in ((self.rows, height, grid[0]), (self.columns, width, grid[1]))
        )
        return maps[..., rows, columns]


def holes(grid: tuple[int, int], known_tokens: Literal["none", "prefix", "any"]) -> dict[HoleName, Hole]:
    """The holes that a prior can fill: none, the lower half, or also the upper half and the inner square.

    The inner square leaves a quarter of the rows and columns at each border. On a small grid, holes that would leave
    nothing to draw or nothing to know are left out.
    """
    if known_tokens == "none":
        return {}
    height, width = grid
    top, left = max(1, height // 4), max(1, width // 4)
    found: dict[HoleName, Hole] = {"lower_half": Hole((height // 2, height), (0, width))}
    if known_tokens == "any":
        found["upper_half"] = Hole((0, height // 2), (0, width))
        found["inner_square"] = Hole((top, height - top), (left, width - left))
    return {name: hole for name, hole in found.items() if 0 < int(hole.mask(grid).sum()) < height * width}


class CompletedImages(Metrics):
    """One way to fill the hole of test images."""

    psnr: float
    """Inside the hole against the true image, mean over images in dB; higher is better."""
    l1: float
    """Mean absolute error inside the hole on the scale [-1, 1]; lower is better."""
    clip_distance: float | None = None
    """Distance of the run's CLIP's activations inside the hole, [0, 4]; lower is better. Absent without a ViT."""
    distances: SampleDistances
    """Of the whole images from the true ones."""


class CompletionMetrics(Metrics):
    """Completions of drawn test images, with one hole. The known codes are of the whole image: near the hole the
    encoder saw a part of what is inside, as in the completions of VQGAN."""

    num_images: int
    """Images in each set."""
    hole_share: float
    """Part of the tokens that are drawn."""
    samples: CompletedImages
    """Filled by the prior, with the images' own conditions."""
    unigram_samples: CompletedImages
    """The floor: filled with codes drawn by frequency."""
    another_image: CompletedImages
    """Filled with the codes of another test image: chance inside the hole; of the whole images each part is real."""
    reconstructions: CompletedImages
    """The ceiling: the image's own codes."""


@dataclass(frozen=True)
class CompletedPictures:
    """One image with several completions; images are uint8 of shape (3, H, W)."""

    image_id: str
    hole: HoleName
    original: UInt8[Tensor, "3 H W"]
    reconstruction: UInt8[Tensor, "3 H W"]
    mask: UInt8[Tensor, "H W"]
    """255 inside the hole, 0 where tokens are known."""
    completions: UInt8[Tensor, "k 3 H W"]
    label: int
    """The image's class, where the prior is given it; else -1."""
    caption: str
    """The image's caption, where the prior is given it; else ""."""


def completed_row(pictures: CompletedPictures, classes: Sequence[str]) -> dict[str, Any]:
    """A row of `COMPLETIONS`."""
    images = {"original": pictures.original, "reconstruction": pictures.reconstruction}
    return {
        "image_id": pictures.image_id,
        "hole": pictures.hole,
        "mask": encode_png(pictures.mask.numpy()),
        **{name: _png(image) for name, image in images.items()},
        "completions": [_png(image) for image in pictures.completions],
        "label": pictures.label,
        "label_name": "" if pictures.label < 0 else classes[pictures.label],
        "caption": pictures.caption,
    }


def _png(image: UInt8[Tensor, "3 H W"]) -> bytes:
    return encode_png(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def known_outside(
    codes: Int64[Tensor, "n g h w"], hole: Bool[Tensor, "h w"], condition: Condition
) -> Condition:
    """A condition with the codes outside the hole."""
    return Condition(**{**condition.parts, "tokens": codes.masked_fill(hole, UNKNOWN)})


class _Filled:
    """What is measured of one way to fill one hole, batch by batch."""

    def __init__(self, count: int, dim: int) -> None:
        self.features = FeatureRows(count, dim)
        self.errors: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, errors: Iterable[tuple[str, np.ndarray]], features: Tensor | None) -> None:
        for name, values in errors:
            self.errors[name].append(values)
        if features is not None:
            self.features.add(features)

    def metrics(self, real: FeatureRows, features: Features, params: DistanceParams) -> CompletedImages:
        means = {name: float(np.concatenate(own).mean()) for name, own in self.errors.items()}
        distances = sample_distances(self.features.rows, real.rows, features, params)
        return CompletedImages(**means, distances=distances)


def metric_networks(features: Features, clip: Clip, device: torch.device) -> MetricNetworks:
    """The features of the distances, and the perceptual distance of all blocks of the run's CLIP."""
    blocks = range(clip.num_blocks)
    return MetricNetworks(features, ClipPerceptual(clip, blocks) if clip.num_blocks else None, device)


@torch.no_grad()
def measure_completion(
    fillings: Mapping[HoleName, Mapping[str, Int64[Tensor, "n g h w"]]],
    own: Int64[Tensor, "n g h w"],
    shapes: Mapping[HoleName, Hole],
    images: Callable[[slice], UInt8[Tensor, "b 3 H W"]],
    decode: Callable[[Int64[Tensor, "b g h w"]], UInt8[Tensor, "b 3 H W"]],
    networks: MetricNetworks,
    params: DistanceParams,
    batch: int,
) -> dict[HoleName, CompletionMetrics]:
    """Errors inside the holes and distances of the whole images; images pass in batches.

    Args:
        fillings: for each hole, whole grids by the name of how they were filled.
        own: the true images' codes.
        shapes: the holes.
        images: the true images.
        decode: images of codes, on the CPU.
        networks: of the distances.
        batch: images that are decoded at once.
    """
    features = networks.features
    assert features is not None
    count, grid = len(own), (own.shape[2], own.shape[3])
    make = partial(_Filled, count, features.dim)
    ways = ["samples", "unigram_samples", "another_image", "reconstructions"]
    found = {hole: {way: make() for way in ways} for hole in shapes}
    real = FeatureRows(count, features.dim)
    for rows in slices(count, batch):
        true = images(rows)
        of_true = networks.features_of(true.to(networks.device), True)
        assert of_true.for_sets is not None
        real.add(of_true.for_sets)
        again = decode(own[rows])
        of_again = networks.features_of(again.to(networks.device), True)
        for name, hole in shapes.items():
            for way in ways:
                made, of_made = again, of_again
                if way != "reconstructions":
                    made = decode(fillings[name][way][rows])
                    of_made = networks.features_of(made.to(networks.device), True)
                errors = _errors_inside(hole, grid, true, made, of_true, of_made, networks)
                found[name][way].add(errors, of_made.for_sets)
    return {
        name: CompletionMetrics(
            num_images=count,
            hole_share=float(hole.mask(grid).double().mean()),
            **{way: found[name][way].metrics(real, features, params) for way in ways},
        )
        for name, hole in shapes.items()
    }


def _errors_inside(
    hole: Hole,
    grid: tuple[int, int],
    true: UInt8[Tensor, "b 3 H W"],
    made: UInt8[Tensor, "b 3 H W"],
    true_features: BatchFeatures,
    made_features: BatchFeatures,
    networks: MetricNetworks,
) -> Iterator[tuple[str, np.ndarray]]:
    """Per-image errors inside the hole by name."""
    pixels = hole.cut(true, grid).contiguous(), hole.cut(made, grid).contiguous()
    yield "psnr", psnr(*pixels)
    yield "l1", l1(*pixels)
    perceptual = networks.perceptual
    if isinstance(perceptual, ClipPerceptual):
        patches = perceptual.clip.patch_grid
        inside = [
            [
                hole.cut(layer.transpose(1, 2).reshape(len(true), -1, *patches), grid)
                .flatten(2)
                .transpose(1, 2)
                for layer in own.perceptual
            ]
            for own in (true_features, made_features)
        ]
        if inside[0][0].shape[1]:  # a hole smaller than one of CLIP's patches has none inside
            yield PERCEPTUAL, perceptual.compare(*inside).double().cpu().numpy()


@torch.no_grad()
def draw_completions(
    prior: Prior,
    codes: Int64[Tensor, "n g h w"],
    hole: Bool[Tensor, "h w"],
    condition: Condition,
    generator: torch.Generator,
    each: int = 1,
) -> Int64[Tensor, "m g h w"]:
    """`each` completions of every image, one image after the other; on the CPU.

    Args:
        codes: the images' own codes; those in the hole are not used.
        condition: what else is known about each image.
    """
    repeated = Condition(
        **{name: part.repeat_interleave(each, dim=0) for name, part in condition.parts.items()}
    )
    codes = codes.repeat_interleave(each, dim=0)
    known = known_outside(codes, hole, repeated)
    return prior.sample(known, len(codes), prior.config.sampling, generator).cpu()
