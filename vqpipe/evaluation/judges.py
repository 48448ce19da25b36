"""Judges: networks that say what a sample shows, trained on a dataset's real images (the `judges` stage).

One convolutional trunk with a pyramid of features (Lin et al., "Feature Pyramid Networks", arXiv 1612.03144) and up to
three heads: a classifier on the coarsest level; a segmenter on the finest; a detector that finds objects as peaks in a
heatmap of centres, and reads the name, the box and the adjectives at the peak (Zhou et al., "Objects as Points",
arXiv 1904.07850, sections 3 and 4). The paper has a heatmap for each name; one for all names learns where objects are
from all of them, which a training of minutes needs. A head whose column the dataset lacks is absent.

judges = Judges.load(Path("artifacts/judges"))
shares = judges.class_of(images)

Letters: n images, H W their height and width, r side of the network's input, c classes, k classes of pixels, o names of
objects, a adjectives, h w the grid of the heatmap (r / 4), p places on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from jaxtyping import Float, Int64, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, box_convert

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.judges import JUDGES, JUDGES_WEIGHTS
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.data.loader import to_float
from vqpipe.errors import MismatchError
from vqpipe.params.base import Params, validate
from vqpipe.runtime.batches import slices
from vqpipe.training.objective import TrainingParams

STRIDE = 4
"""Pixels of the network's input per place of the heatmaps, as in the paper."""
RARE = -2.19
"""Logit from which the probabilities of centres and of adjectives start: 0.1, as the paper's centres."""
NMS_IOU = 0.5
"""Of two objects of one name whose boxes overlap by more, the one with the lower score is dropped."""


class JudgeParams(Params):
    """Networks that judge samples, and their training on the real training images."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of weights, order and mirroring."""
    crop: Annotated[int, Field(ge=16)]
    """Side of the centre crops that they are trained and measured on, pixels: the tokenizers' resolution."""
    resolution: Annotated[int, Field(ge=16, multiple_of=16)]
    """Side of what the network sees, pixels; images of another side are resized to it."""
    channels: Annotated[int, Field(ge=8, multiple_of=8)]
    """Channels of the finest of four levels; the next has twice as many, the two coarsest four times."""
    num_blocks: Annotated[int, Field(ge=1)]
    """Residual blocks of each level but the finest."""
    flip: bool
    """Whether training images are mirrored left to right with probability 1/2."""
    min_visible: Annotated[float, Field(ge=0, le=1)]
    """Objects of which a smaller share is visible are neither trained on nor expected to be found."""
    threshold: Annotated[float, Field(gt=0, lt=1)]
    """Smallest score of an object that counts as found."""
    adjective_threshold: Annotated[float, Field(gt=0, lt=1)]
    """Smallest probability of an adjective that counts as seen."""
    max_found: Annotated[int, Field(ge=1)]
    """Most objects found in an image."""
    num_images: Annotated[int, Field(ge=1)] | None
    """Test images that the judges are measured on, drawn at random; null is all."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images judged at once; results do not depend on it beyond rounding."""
    training: TrainingParams
    """The training of all heads together."""


@dataclass(frozen=True)
class Subjects:
    """What there is to judge, by the dataset's columns; a tuple is empty where its column is."""

    classes: tuple[str, ...] = ()
    """Names of the classes of images."""
    categories: tuple[str, ...] = ()
    """Names of the classes of pixels."""
    things: tuple[str, ...] = ()
    """Names of objects."""
    adjectives: tuple[str, ...] = ()
    """Adjectives of objects."""
    reads_captions: bool = False
    """Whether captions are those of the scenes, whose statements are known exactly."""

    def __bool__(self) -> bool:
        return bool(self.classes or self.categories or self.things)


@dataclass(frozen=True)
class Found:
    """An object in an image: its score in [0, 1] (the probability of a centre times that of the name), its box (x, y,
    width, height) in the image's pixels, and the probability of each adjective."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    adjectives: dict[str, float]


class Block(nn.Module):
    """A residual block: twice norm, ReLU and a 3 x 3 convolution, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.relu(self.norm2(h)))
        return out


@dataclass(frozen=True)
class Seen:
    """What the network makes of images; None for a head that is absent."""

    classes: Float[Tensor, "n c"] | None
    """Logits."""
    maps: Float[Tensor, "n k r/2 r/2"] | None
    """Logits, at half the input's resolution."""
    heat: Float[Tensor, "n h w"] | None
    """Logits of an object's centre."""
    points: Float[Tensor, "n d h w"] | None
    """What names, boxes and adjectives are read from, at each place."""


@dataclass(frozen=True)
class Read:
    """What the detector reads at places."""

    names: Float[Tensor, "n p o"]
    """Logits."""
    boxes: Float[Tensor, "n p 4"]
    """The centre's offset (x, y) within its place, and the logarithms of width and height in places."""
    adjectives: Float[Tensor, "n p a"] | None
    """Logits; None without adjectives."""


@dataclass(frozen=True)
class Judged:
    """What the judges say of images; None for a judge that is absent."""

    classes: Float[Tensor, "n c"] | None
    """The probability of each class."""
    maps: Int64[Tensor, "n H W"] | None
    """The class of each pixel."""
    objects: list[list[Found]] | None
    """The objects in each image, the surest first."""


class Judges(nn.Module):
    """The networks. All methods but `forward` and `at_places` are for eval mode; images are uint8 on any device.

    Args:
        config: the section `judges`.
        subjects: what there is to judge.
    """

    def __init__(self, config: JudgeParams, subjects: Subjects) -> None:
        super().__init__()
        self.config, self.subjects = config, subjects
        self.classes, self.categories = subjects.classes, subjects.categories
        self.things, self.adjectives = subjects.things, subjects.adjectives
        self.reads_captions = subjects.reads_captions
        widths = [config.channels * factor for factor in (1, 2, 4, 4)]
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(one, other, 3, stride=2, padding=1) for one, other in pairwise(widths)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(config.num_blocks))) for width in widths[1:]
        )
        if self.classes:
            self.classifier = nn.Sequential(
                nn.GroupNorm(8, widths[3]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                nn.Linear(widths[3], len(self.classes)),
            )  # fmt: skip
        d = widths[1]
        if self.categories or self.things:
            self.lateral = nn.ModuleList(nn.Conv2d(width, d, 1) for width in widths[1:])
            self.merged = Block(d)
        if self.categories:
            self.up = nn.Conv2d(d, widths[0], 1)
            self.segmenter = nn.Sequential(
                nn.GroupNorm(8, widths[0]), nn.ReLU(), nn.Conv2d(widths[0], widths[0], 3, padding=1), nn.ReLU(),
                nn.Conv2d(widths[0], len(self.categories), 1),
            )  # fmt: skip
        if self.things:
            self.point = nn.Sequential(
                nn.GroupNorm(8, d), nn.ReLU(), nn.Conv2d(d, d, 3, padding=1), nn.ReLU()
            )
            self.heat = nn.Conv2d(d, 1, 1)
            self.name = nn.Linear(d, len(self.things))
            self.box = nn.Linear(d, 4)
            assert self.heat.bias is not None
            nn.init.constant_(self.heat.bias, RARE)
            if self.adjectives:
                self.adjective = nn.Linear(d, len(self.adjectives))
                nn.init.constant_(self.adjective.bias, RARE)

    @staticmethod
    @reads_whole
    def load(folder: Path, device: torch.device | str = "cpu") -> Judges:
        """Read published judges, in eval mode.

        Raises:
            ArtifactError: no such artifact, or one that is damaged or of another version.
        """
        read_manifest(folder, JUDGES)
        tensors, facts = read_tensors(folder / "model.safetensors", JUDGES_WEIGHTS)
        config = validate(facts["params"], "judges", JudgeParams, str(folder))
        names = {
            name: tuple(facts[name])
            for name in ("classes", "categories", "things", "adjectives")
        }  # fmt: skip
        judges = Judges(config, Subjects(**names, reads_captions=facts["reads_captions"]))
        judges.load_state_dict(tensors)
        return judges.to(device).eval().requires_grad_(False)

    def save(self, folder: Path, averaged: bool) -> None:
        """Publish the judges, whose weights are averaged ones or the last."""
        facts: dict[str, Any] = {
            "params": self.config.model_dump(mode="json"), **asdict(self.subjects), "averaged": averaged,
        }  # fmt: skip
        with publish_folder(folder, JUDGES, facts) as partial:
            write_tensors(partial / "model.safetensors", JUDGES_WEIGHTS, self.state_dict(), facts)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.stem.weight.device

    def forward(self, images: UInt8[Tensor, "n 3 H W"]) -> Seen:
        """The logits of all heads, for images on the network's device."""
        x = to_float(images)
        side = self.config.resolution
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        features = [self.stem(F.pixel_unshuffle(x, 2))]
        for down, level in zip(self.down, self.levels, strict=True):
            features.append(level(down(F.relu(features[-1]))))
        classes = self.classifier(features[-1]) if self.classes else None
        if not (self.categories or self.things):
            return Seen(classes, None, None, None)
        merged = self.lateral[2](features[3])
        for at in (1, 0):
            merged = _doubled(merged) + self.lateral[at](features[at + 1])
        merged = self.merged(merged)
        maps = None
        if self.categories:
            maps = self.segmenter(_doubled(self.up(merged)) + features[0])
        points = self.point(merged) if self.things else None
        return Seen(classes, maps, None if points is None else self.heat(points)[:, 0], points)

    def at_places(self, points: Float[Tensor, "n d h w"], places: Int64[Tensor, "n p"]) -> Read:
        """What the detector reads at places (numbered in raster order)."""
        index = places[:, None].expand(-1, points.shape[1], -1)
        rows = points.flatten(2).gather(2, index).transpose(1, 2)
        return Read(self.name(rows), self.box(rows), self.adjective(rows) if self.adjectives else None)

    def judge(self, images: UInt8[Tensor, "n 3 H W"], threshold: float | None = None) -> Judged:
        """What all judges say, in one pass.

        Args:
            images: any number.
            threshold: smallest score of an object; None is that of the params.
        """
        height, width = images.shape[2:]
        classes = [torch.zeros(0, len(self.classes))]
        maps = [torch.zeros(0, height, width, dtype=torch.int64)]
        objects: list[list[Found]] = []
        lowest = self.config.threshold if threshold is None else threshold
        for out in self._seen(images):
            if out.classes is not None:
                classes.append(out.classes.float().softmax(1).cpu())
            if out.maps is not None:
                logits = F.interpolate(out.maps, (height, width), mode="bilinear", align_corners=False)
                maps.append(logits.argmax(1).cpu())
            if out.heat is not None:
                objects += self._objects(out, (height, width), lowest)
        return Judged(
            torch.cat(classes) if self.classes else None, torch.cat(maps) if self.categories else None,
            objects if self.things else None,
        )  # fmt: skip

    def class_of(self, images: UInt8[Tensor, "n 3 H W"]) -> Float[Tensor, "n c"]:
        """The probability of each class, on the CPU.

        Raises:
            MismatchError: there is no classifier.
        """
        return needed(self.judge(images).classes, "classes", self.subjects)

    def segment(self, images: UInt8[Tensor, "n 3 H W"]) -> Int64[Tensor, "n H W"]:
        """The class of each pixel, on the CPU.

        Raises:
            MismatchError: there is no segmenter.
        """
        return needed(self.judge(images).maps, "label maps", self.subjects)

    def find(self, images: UInt8[Tensor, "n 3 H W"], threshold: float | None = None) -> list[list[Found]]:
        """The objects in each image, the surest first; `threshold` as in `judge`.

        Raises:
            MismatchError: there is no detector.
        """
        return needed(self.judge(images, threshold).objects, "objects", self.subjects)

    def _objects(self, out: Seen, shape: tuple[int, ...], threshold: float) -> Iterator[list[Found]]:
        """The objects of one batch."""
        assert out.heat is not None
        assert out.points is not None
        heat = out.heat.float().sigmoid()
        peaks = heat * (heat == F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0])
        grid_h, grid_w = heat.shape[1:]
        centres, places = peaks.flatten(1).topk(min(self.config.max_found, grid_h * grid_w))
        read = self.at_places(out.points, places)
        chances, names = read.names.float().softmax(2).max(2)
        scores = centres * chances
        corner = torch.stack([places % grid_w, places // grid_w], dim=2)
        extent = read.boxes[..., 2:].clamp_max(math.log(max(grid_h, grid_w))).exp()
        centred = torch.cat([corner + read.boxes[..., :2], extent], dim=2)
        scale = torch.tensor([shape[1] / grid_w, shape[0] / grid_h] * 2, device=heat.device)
        limit = torch.tensor([shape[1], shape[0]] * 2, device=heat.device)
        boxes = box_convert(centred * scale, "cxcywh", "xyxy").clamp_min(0).minimum(limit)
        adjectives = None if read.adjectives is None else read.adjectives.sigmoid().cpu()
        for at in range(len(heat)):
            kept = batched_nms(boxes[at].float(), scores[at], names[at], NMS_IOU)
            kept = kept[scores[at, kept] >= threshold]
            rows = zip(
                names[at, kept].tolist(), scores[at, kept].tolist(),
                box_convert(boxes[at, kept], "xyxy", "xywh").tolist(), kept.tolist(), strict=True,
            )  # fmt: skip
            yield [
                Found(
                    self.things[name], score, (box[0], box[1], box[2], box[3]),
                    {} if adjectives is None
                    else dict(zip(self.adjectives, adjectives[at, row].tolist(), strict=True)),
                )
                for name, score, box, row in rows
            ]  # fmt: skip

    @torch.no_grad()
    def _seen(self, images: UInt8[Tensor, "n 3 H W"]) -> Iterator[Seen]:
        """The logits of the images, batch by batch."""
        for rows in slices(len(images), self.config.batch_size):
            yield self(images[rows].to(self.device))


T = TypeVar("T")


def needed(verdict: T | None, what: str, subjects: Subjects) -> T:
    """What a judge says.

    Raises:
        MismatchError: there is no such judge.
    """
    if verdict is None:
        have = {"classes": subjects.classes, "label maps": subjects.categories, "objects": subjects.things}
        raise MismatchError(
            f"no judge of {what}: the data set that the judges were trained on has none",
            found=", ".join(name for name, names in have.items() if names) or "nothing to judge",
            expected=f"a data set with {what}",
        )  # fmt: skip
    return verdict


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
