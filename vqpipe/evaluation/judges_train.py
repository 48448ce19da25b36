"""The `judges` stage: training the judges on a dataset's real images, and measuring each on the test split.

The measures on real test images are the ceilings of the same measures on samples: no sample can be expected to be
judged better. Those with another image's class, map or caption are chance.

Letters: n images, b of a batch, t objects of an image (padded), r side of the crops, h w the grid of the heatmap, a
adjectives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.annotations import LabelMaps, things_of
from vqpipe.data.loader import ImageSplit, drawn_positions, epoch_order
from vqpipe.data.records import Thing
from vqpipe.errors import MismatchError
from vqpipe.evaluation.judges import STRIDE, JudgeParams, Judges, Subjects
from vqpipe.evaluation.judges_captions import stated
from vqpipe.evaluation.judges_measure import (
    CaptionAgreement,
    ClassAgreement,
    DetectionAgreement,
    MapAgreement,
    class_agreement,
    detection,
    facts_agreement,
    map_agreement,
)
from vqpipe.metrics.measured import ImagesDigest, Measured, measured_with
from vqpipe.models.transformer import WITH_CONVOLUTIONS, decay_groups
from vqpipe.runtime.distributed import is_main, own_share, rank
from vqpipe.runtime.seeds import derive, numpy_rng, seed_everything
from vqpipe.training.loop import run_training, write_curves
from vqpipe.training.objective import Objective, TrainingResult

PROTOCOL = 1
"""Number of the measuring protocol in the code: raise it when a change alters what a number means."""
ADJECTIVE_WEIGHT = 0.5
"""Weight of the adjectives' cross-entropy, a sum over adjectives and a mean over objects."""
SPEED = {"log_every", "checkpoint_every", "channels_last", "compile", "deterministic"}
"""Params of training that change no result but its rounding."""


class JudgesMetrics(Metrics):
    """What the `judges` stage measures on real test images; None for a judge that is absent."""

    classes: ClassAgreement | None = None
    """The classifier with the true classes."""
    other_classes: ClassAgreement | None = None
    """Chance: the same images with their classes in an order that was drawn."""
    maps: MapAgreement | None = None
    """The segmenter with the true label maps."""
    other_maps: MapAgreement | None = None
    """Chance: the same images with their maps in that order."""
    objects: DetectionAgreement | None = None
    """The detector with the true boxes."""
    captions: CaptionAgreement | None = None
    """All judges with each image's first caption; None unless the dataset is the scenes."""
    other_captions: CaptionAgreement | None = None
    """Chance: the same images with these captions in that order."""
    num_train_images: int
    """Images that the judges were trained on; 0 where there is nothing to judge."""
    num_images: int
    """Test images that were drawn."""
    num_parameters: int
    """Weights."""
    num_steps: int
    """Optimiser steps."""
    num_rollbacks: int
    """How often the training went back to a checkpoint because a loss was not finite."""
    weights: Literal["ema", "last"]
    """Which weights are published and measured."""
    measured: Measured
    """What the numbers were measured on, and how."""


@dataclass(frozen=True)
class JudgeBatch:
    """Training images and what is true of them; None where a head is absent."""

    images: UInt8[Tensor, "b 3 r r"]
    labels: Int64[Tensor, " b"] | None
    """Classes, -1 for none."""
    maps: Int64[Tensor, "b r r"] | None
    """Classes of pixels, -1 for none."""
    heat: Float[Tensor, "b h w"] | None
    """1 at an object's centre, falling off around it."""
    places: Int64[Tensor, "b t"] | None
    """The place of each object's centre in raster order, -1 for padding."""
    names: Int64[Tensor, "b t"] | None
    """Numbers of their names, -1 for padding."""
    boxes: Float[Tensor, "b t 4"] | None
    """As in `Read`."""
    adjectives: Float[Tensor, "b t a"] | None
    """1 for those that are true."""


@dataclass(frozen=True)
class Known:
    """A split with all that is known of its images."""

    images: ImageSplit
    maps: LabelMaps
    things: list[list[Thing]]

    @classmethod
    def open(cls, dataset: Path, split: str, config: JudgeParams) -> Known:
        """Read a split; errors as `ImageSplit.open`."""
        return cls(
            ImageSplit.open(dataset, split, config.crop),
            LabelMaps.open(dataset, split, config.crop),
            things_of(dataset, split, config.crop, config.min_visible),
        )

    def subjects(self, kind: str) -> Subjects:
        """What there is to judge where this is the training split of a dataset of the kind."""
        things = Counter(thing.name for own in self.things for thing in own)
        words = {word for own in self.things for thing in own for word in thing.adjectives}
        return Subjects(
            classes=tuple(self.images.class_names) if (self.images.labels >= 0).any() else (),
            categories=self.maps.classes if any(png is not None for png in self.maps.pngs) else (),
            things=tuple(sorted(things)),
            adjectives=tuple(sorted(words)),
            reads_captions=kind == "scenes",
        )

    def batch(self, rows: Int64[np.ndarray, " b"], mirrored: np.ndarray, judges: Judges) -> JudgeBatch:
        """Images and targets, those where `mirrored` from right to left."""
        flips = torch.from_numpy(mirrored)[:, None, None]
        images = self.images.gather(rows, None, "centre", False)
        images = torch.where(flips[:, None], images.flip(-1), images)
        labels = torch.from_numpy(self.images.labels[rows]) if judges.classes else None
        maps = None
        if judges.categories:
            maps = self.maps.get(rows.tolist())
            maps = torch.where(flips, maps.flip(-1), maps)
        objects: dict[str, Tensor] = {}
        if judges.things:
            objects = self._objects(rows, mirrored, judges)
        return JudgeBatch(
            images, labels, maps, *map(objects.get, ("heat", "places", "names", "boxes", "adjectives"))
        )

    def _objects(
        self, rows: Int64[np.ndarray, " b"], mirrored: np.ndarray, judges: Judges
    ) -> dict[str, Tensor]:
        """The detector's targets. The spread of a peak is a sixth of the box, at least half a place, per axis; the
        paper's is round and follows from the overlap of shifted boxes."""
        grid, most = judges.config.resolution // STRIDE, max(map(len, self.things))
        names = {name: at for at, name in enumerate(judges.things)}
        words = {word: at for at, word in enumerate(judges.adjectives)}
        scale, axis = grid / judges.config.crop, np.arange(grid)
        heat = np.zeros((len(rows), grid, grid), dtype=np.float32)
        places, kinds = (np.full((len(rows), most), -1, dtype=np.int64) for _ in range(2))
        boxes = np.zeros((len(rows), most, 4), dtype=np.float32)
        adjectives = np.zeros((len(rows), most, len(words)), dtype=np.float32)
        for at, row in enumerate(rows.tolist()):
            for number, thing in enumerate(self.things[row]):
                x, y, w, h = (side * scale for side in thing.box)
                x, y = (grid - x - w / 2 if mirrored[at] else x + w / 2), y + h / 2
                column, line = min(int(x), grid - 1), min(int(y), grid - 1)
                across, down = (
                    np.exp(-0.5 * ((axis - centre) / max(side / 6, 0.5)) ** 2)
                    for centre, side in ((column, w), (line, h))
                )
                np.maximum(heat[at], down[:, None] * across, out=heat[at])
                places[at, number], kinds[at, number] = line * grid + column, names[thing.name]
                boxes[at, number] = (x - column, y - line, *np.log(np.maximum((w, h), 0.25)))
                adjectives[at, number, [words[word] for word in thing.adjectives]] = 1.0
        found = {"heat": heat, "places": places, "names": kinds, "boxes": boxes} | (
            {"adjectives": adjectives} if words else {}
        )
        return {name: torch.from_numpy(values) for name, values in found.items()}


class JudgeTraining(Objective):
    """The judges in the training loop: one phase, the sum of the heads' losses."""

    def __init__(self, judges: Judges) -> None:
        self.module: nn.Module = judges
        self.judges = judges

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """The weights of layers decay, nothing else does."""
        return decay_groups(self.module, WITH_CONVOLUTIONS)

    def networks(self) -> list[nn.Module]:
        """The whole network."""
        return [self.module]

    def unused(self, phase: str) -> bool:
        """Every head takes part in every step."""
        return False

    def loss(
        self, phase: str, batch: JudgeBatch, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The heads' losses; one without a target in the batch is 0."""
        seen = self.judges(batch.images)
        terms: dict[str, Tensor] = {}
        if seen.classes is not None and batch.labels is not None:
            terms["class"] = _entropy(seen.classes, batch.labels)
        if seen.maps is not None and batch.maps is not None:
            coarse = F.interpolate(batch.maps[:, None].float(), seen.maps.shape[2:], mode="nearest-exact")
            terms["map"] = _entropy(seen.maps, coarse[:, 0].long())
        if seen.heat is not None and seen.points is not None and batch.heat is not None:
            assert batch.places is not None
            assert batch.names is not None
            assert batch.boxes is not None
            real = (batch.places >= 0)[..., None].float()
            count = real.sum().clamp_min(1.0)
            terms["heat"] = focal_loss(seen.heat, batch.heat) / count
            read = self.judges.at_places(seen.points, batch.places.clamp_min(0))
            terms["name"] = _entropy(read.names.flatten(0, 1), batch.names.flatten())
            terms["box"] = ((read.boxes - batch.boxes).abs() * real).sum() / count
            if read.adjectives is not None and batch.adjectives is not None:
                errors = F.binary_cross_entropy_with_logits(
                    read.adjectives.float(), batch.adjectives, reduction="none"
                )
                # A sum over all adjectives is several times the other terms.
                terms["adjective"] = ADJECTIVE_WEIGHT * (errors * real).sum() / count
        return torch.stack([term.float() for term in terms.values()]).sum(), terms


def focal_loss(logits: Float[Tensor, "b h w"], target: Float[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """The penalty-reduced focal loss of "Objects as Points", equation 1 (alpha 2, beta 4), a sum over all places."""
    logits = logits.float()
    chance, positive = logits.sigmoid(), target == 1
    right = (1 - chance).square() * F.logsigmoid(logits)
    wrong = (1 - target) ** 4 * chance.square() * F.logsigmoid(-logits)
    return -torch.where(positive, right, wrong).sum()


def _entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the targets that are not -1; 0 where all are."""
    total = F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum")
    return total / (target >= 0).sum().clamp_min(1)


@dataclass(frozen=True)
class TrainedJudges:
    """Judges and what was measured."""

    judges: Judges
    averaged: bool
    metrics: JudgesMetrics

    def save(self, folder: Path) -> None:
        """Publish the judges artifact."""
        self.judges.save(folder, self.averaged)


def train_judges(
    config: JudgeParams,
    dataset: Path,
    kind: str,
    *,
    scratch: Path,
    curves: Path,
    device: torch.device,
) -> TrainedJudges | None:
    """Train judges on the training split and measure them on the test split; None on all ranks but the first.

    A dataset without classes, label maps and objects gives judges without a head, and no training.

    Args:
        config: the section `judges`.
        dataset: the dataset artifact.
        kind: the dataset's kind, of its facts.
        scratch: folder of the checkpoint, from which a killed run resumes.
        curves: where the training curves are published.

    Raises:
        MismatchError: images smaller than the crops, or fewer training images than one batch.
        TrainingError: the loss does not stay finite.
    """
    train = Known.open(dataset, "train", config)
    subjects = train.subjects(kind)
    seed_everything(config.seed, "judges", "weights")
    judges = Judges(config, subjects).to(device)
    result = _train(judges, train, scratch, curves, device) if subjects else None
    judges.eval().requires_grad_(False)
    if result is None and is_main():
        write_curves(curves, [])
    if not is_main():
        return None
    metrics = JudgesMetrics(
        **measure_judges(judges, Known.open(dataset, "test", config)),
        num_train_images=len(train.images) if result is not None else 0,
        num_parameters=sum(p.numel() for p in judges.parameters()),
        num_steps=result.num_steps if result is not None else 0,
        num_rollbacks=result.num_rollbacks if result is not None else 0,
        weights="ema" if result is not None and result.averaged else "last",
    )
    return TrainedJudges(judges, result is not None and result.averaged, metrics)


def _train(judges: Judges, train: Known, scratch: Path, curves: Path, device: torch.device) -> TrainingResult:
    """Train in place."""
    config = judges.config
    count, size, order = len(train.images), config.training.batch_size, derive(config.seed, "judges", "order")
    if count < size:
        raise MismatchError(
            "fewer training images than one batch of the judges", found=f"{count} images",
            expected=f"judges.training.batch_size of {size} or less",
        )  # fmt: skip

    def batch_at(step: int) -> JudgeBatch:
        rows = epoch_order(count, size, order, step)[own_share(size)]
        draws = numpy_rng(config.seed, "judges", "flip", step, rank()).random(len(rows))
        return train.batch(rows, draws < (0.5 if config.flip else 0.0), judges)

    seed_everything(config.seed, "judges", "training", rank())
    result = run_training(
        JudgeTraining(judges.train()), batch_at, config.training,
        scratch=scratch, curves=curves, device=device, title="judges",
    )  # fmt: skip
    judges.load_state_dict(result.weights)
    return result


def measure_judges(judges: Judges, test: Known) -> dict[str, Any]:
    """The fields of `JudgesMetrics` that are measured on the test split."""
    config = judges.config
    rows = drawn_positions(len(test.images), config.num_images, config.seed)
    n, images = len(rows), test.images.gather(rows, None, "centre", False)
    digest = ImagesDigest()
    digest.add(images)
    found: dict[str, Any] = {}
    # Images are often in the order of their classes, so the next image's would be no chance.
    judged, other = judges.judge(images), numpy_rng(config.seed, "judges", "other").permutation(n)
    if judged.classes is not None:
        labels = torch.from_numpy(test.images.labels[rows])
        found["classes"], found["other_classes"] = (
            class_agreement(judged.classes, own) for own in (labels, labels[other])
        )
    if judged.maps is not None:
        maps, k = test.maps.get(rows.tolist()), len(judges.categories)
        found["maps"], found["other_maps"] = (
            map_agreement(judged.maps, own, k) for own in (maps, maps[other])
        )
    if judged.objects is not None:
        found["objects"] = detection(
            judged.objects, [test.things[at] for at in rows], config.adjective_threshold
        )
    if judges.reads_captions:
        truths = [
            stated(test.images.captions[at][0], judges.things, judges.adjectives, judges.classes)
            for at in rows
        ]
        found["captions"], found["other_captions"] = (
            facts_agreement(judges, judged, own) for own in (truths, [truths[at] for at in other])
        )
    protocol = {
        "version": PROTOCOL,
        **config.model_dump(mode="json", exclude={"training", "batch_size"}, exclude_none=True),
        "training": config.training.model_dump(mode="json", exclude=SPEED, exclude_none=True),
    }
    measured = measured_with(digest.images("test"), protocol)
    return {**found, "num_images": n, "measured": measured}
