"""What is evaluated: a dataset's test split (the stage), images in an array, or a user's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vqpipe.data.loader import ImageSplit, drawn_positions
from vqpipe.data.records import Bad, count_by_reason
from vqpipe.data.stream import IMAGES_LAYOUT, squares
from vqpipe.data.walk import images_below, no_images
from vqpipe.evaluation.measure import EvaluateParams, Evaluation, EvaluationMetrics, evaluate
from vqpipe.evaluation.pictures import ExampleParams
from vqpipe.evaluation.reconstructions import Images, MetricNetworks, TokenizerLike
from vqpipe.metrics.distances import DistanceParams
from vqpipe.metrics.floors import FloorsParams
from vqpipe.metrics.measured import Interval
from vqpipe.models.perceptual import ClipPerceptualParams, NoPerceptual
from vqpipe.runtime.batches import large_array
from vqpipe.runtime.device import device
from vqpipe.runtime.terminal import track
from vqpipe.tokenizers.identity import tokenizer_digest
from vqpipe.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip


@dataclass(frozen=True)
class SplitImages:
    """Some images of a split, centre-cropped: all of it, or `positions` of it."""

    split: ImageSplit
    positions: np.ndarray

    @classmethod
    def draw(cls, split: ImageSplit, count: int | None, seed: int) -> SplitImages:
        """`count` images drawn at random, in the split's order; all of them for None or a smaller split."""
        return cls(split, drawn_positions(len(split), count, seed))

    @property
    def ids(self) -> list[str]:
        return [self.split.ids[i] for i in self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: np.ndarray) -> UInt8[Tensor, "n 3 r r"]:
        return self.split.gather(self.positions[positions], None, "centre", False)


@dataclass(frozen=True)
class ArrayImages:
    """Images in one array, in memory or mapped from a file."""

    ids: Sequence[str]
    pixels: UInt8[Tensor, "n 3 r r"]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, positions: np.ndarray) -> UInt8[Tensor, "n 3 r r"]:
        return self.pixels[torch.from_numpy(np.asarray(positions, dtype=np.int64))]


def evaluate_dataset(dataset: Path, clip: Path, tokenizer: Path, config: EvaluateParams) -> Evaluation | None:
    """Measure a published tokenizer on the test split of a published dataset; see `measure.evaluate`. None on all ranks
    but the first.

    Raises:
        ArtifactError: an input that is missing or of another version.
        SetupError: weights that the params ask for and that are not on disk.
    """
    from vqpipe.vision.clip import Clip

    where = device()
    networks = MetricNetworks.load(config.distances, config.perceptual, Clip.load(clip, where), where)
    model = Tokenizer.from_pretrained(tokenizer, where)
    test = ImageSplit.open(dataset, "test", model.resolution)
    train = ImageSplit.open(dataset, "train", model.resolution)
    drawn = SplitImages.draw(test, config.num_images, config.seed)
    measured = evaluate(model, drawn, config, networks, SplitImages.draw(train, None, config.seed))
    return None if measured is None else replace(measured, metrics=_named(measured.metrics, model))


def _named(metrics: EvaluationMetrics, tokenizer: Tokenizer) -> EvaluationMetrics:
    """The metrics with the digest of the tokenizer that they are of."""
    return metrics.model_copy(update={"sha256": tokenizer_digest(tokenizer)})


def evaluate_images(
    images: Images, tokenizer: TokenizerLike, clip: Clip | None, where: torch.device
) -> Evaluation:
    """Measure a tokenizer on images of its resolution with the settings of `folder_params`: no training
    images, so no k-means floor and no reference; without a CLIP no distances and no perceptual distance."""
    config = folder_params(len(images), clip.num_blocks if clip is not None else 0)
    networks = MetricNetworks(None, None, where)
    if clip is not None:
        networks = MetricNetworks.load(config.distances, config.perceptual, clip, where)
    measured = evaluate(tokenizer, images, config, networks, split="images")
    assert measured is not None, "one process"
    return measured


def evaluate_folder(images: Path, tokenizer: Tokenizer, clip: Path | None = None) -> dict[str, Any]:
    """Metrics of a tokenizer on a folder of images (with its sub-folders), as plain JSON content; on its device.

    Of one image, means have no interval: `low` and `high` are absent.

    Images are scaled so that the shorter side is the tokenizer's resolution (Lanczos, antialiased) and
    centre-cropped. Files that are not usable images are left out, counted by reason under `left_out`.

    Raises:
        DataError: no such folder, or no usable image in it.
        ArtifactError: the CLIP cannot be read.
    """
    from vqpipe.vision.clip import Clip

    where = tokenizer.latent_scale.device
    network = Clip.load(clip, where) if clip is not None else None
    loaded, left_out = read_folder(images, tokenizer.resolution)
    metrics = _named(evaluate_images(loaded, tokenizer, network, where).metrics, tokenizer)
    plain = metrics.plain()
    return {**(without_intervals(plain) if len(loaded.ids) == 1 else plain), "left_out": left_out}


def without_intervals(plain: Any) -> Any:
    """Metrics as plain data in which means have no `low` and `high`: one image, resampled, is always itself."""
    if not isinstance(plain, dict):
        return plain
    kept = {"mean"} if plain.keys() == Interval.model_fields.keys() else plain.keys()
    return {name: without_intervals(plain[name]) for name in plain if name in kept}


def read_folder(folder: Path, resolution: int) -> tuple[ArrayImages, dict[str, int]]:
    """All usable images under a folder, scaled and centre-cropped; and counts of what is left out by reason.

    The files, their order and the reasons are those of `vqpipe tokenize`: see `vqpipe.data.walk`.

    Many images are not in memory: see `vqpipe.runtime.batches.large_array`.

    Raises:
        DataError: no such folder, or no usable image in it.
        SetupError: too little disk space in the scratch folder.
    """
    count = sum(isinstance(entry, str) for entry in images_below(folder)) if folder.is_dir() else 0
    what = f"{count} images of {resolution} x {resolution}"
    pixels = large_array((count, 3, resolution, resolution), np.uint8, what)
    ids, bad = list[str](), list[Bad]()
    for entry in track(squares(folder, resolution), "read images"):
        if isinstance(entry, Bad):
            bad.append(entry)
            continue
        pixels[len(ids)] = entry[1].transpose(2, 0, 1)
        ids.append(entry[0])
    if not ids:
        raise no_images(
            str(folder), bad, IMAGES_LAYOUT, "vqpipe evaluate with the folder that contains the images"
        )
    return ArrayImages(ids, torch.from_numpy(pixels[: len(ids)])), count_by_reason(bad)


def folder_params(num_images: int, num_blocks: int) -> EvaluateParams:
    """The settings for images outside a pipeline: every block of the CLIP, subsets of the
    usual size (at most 1,000 images), no examples."""
    blocks = tuple(range(num_blocks))
    subset = max(2, min(1000, num_images // 2))
    return EvaluateParams(
        seed=0, num_images=None, batch_size=32, num_bootstrap=1000,
        perceptual=ClipPerceptualParams(kind="clip", layers=blocks) if blocks else NoPerceptual(kind="none"),
        distances=DistanceParams(
            features="clip", num_subsets=50, subset_images=subset, num_neighbours=3, seed=0
        ),
        floors=FloorsParams(num_patches=8, num_iterations=1, max_num_codes=2),
        examples=ExampleParams(num_images=0, num_codes=0, num_patches=0),
    )  # fmt: skip
