"""Grounding: the box of the object that an expression refers to, from the image's codes and the expression.

The setting is RefCOCOg's, as LG-VQ has it (arXiv 2405.14206, section 4.4.3 and appendix A.1): codes and words are the
tokens of one transformer with a coordinate regression. The head is TransVG's (arXiv 2104.08541, sections 3.2 to 3.4): a
regression token before both, and from its state an MLP of three layers with a sigmoid that gives the box; trained by l1
of the box and GIoU. A box is right where its IoU with the true one is at least a half.

Letters: b batch, n expressions, m boxes, t words, s image tokens, d dimension of the latent, h w its grid, e width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import box_convert, box_iou

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import GROUNDING_PICTURES
from vqpipe.data.annotations import things_of
from vqpipe.data.asked import Expression, expressions_of
from vqpipe.data.records import Thing
from vqpipe.errors import DataError
from vqpipe.metrics.boxes import box_scores, grounding_loss, to_corners
from vqpipe.metrics.measured import Interval, text_digest
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.seeds import derive, numpy_rng
from vqpipe.tasks.heads import HeadParams, JointTransformer, Standardise
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.task import (
    Album,
    Examples,
    HeadResult,
    Row,
    Task,
    TaskMetrics,
    TaskParams,
    TaskProtocol,
)
from vqpipe.tasks.words import PAD, UNKNOWN, Vocabulary, has_word

Scores = dict[str, Float64[np.ndarray, " n"]]
"""`accuracy` and `iou` of each expression."""
CANDIDATES = 512
"""Training boxes among which the best constant one is looked for."""


WORDS_STD = 0.5
"""Standard deviation of the words' first embeddings: about the length of the image's tokens, so that both are read."""


class GroundingHeadParams(HeadParams):
    """A transformer over codes and words, with convolutions in front of the codes."""

    channels: Annotated[int, Field(ge=1)]
    """Channels of the first convolution. TransVG has a ResNet and a transformer of the image alone before both meet; in
    their place is a convolution at the resolution of the codes and one of stride 2 for each halving down to `side`, the
    channels doubled each time, up to the width (3 x 3, GELU)."""


class GroundingParams(TaskParams):
    """A box from codes and an expression."""

    kind: Literal["grounding"]
    """The task."""
    head: GroundingHeadParams
    """The transformer (256 wide, 6 layers and 8 heads in TransVG)."""
    max_words: Annotated[int, Field(ge=1)]
    """Words of an expression that the head reads (40 on RefCOCOg in TransVG); longer ones are cut and counted."""
    l1_weight: Annotated[float, Field(ge=0)]
    """Of the l1 distance of the boxes' centres, widths and heights, summed over the four (1 in TransVG's code)."""
    giou_weight: Annotated[float, Field(ge=0)]
    """Of 1 - GIoU (1)."""
    inside_weight: Annotated[float, Field(ge=0)]
    """Of the cross-entropy, a mean over image tokens, of a linear layer on each token's last state against the share of
    its cell that the true box covers; 0 for none, as in TransVG. It says where to look from the first steps on; without
    it a head of a few hundred steps learns little but the mean box of a text."""

    @model_validator(mode="after")
    def _a_loss_has_weight(self) -> GroundingParams:
        if self.l1_weight == self.giou_weight == 0:
            raise ValueError("l1_weight and giou_weight are both 0: the head would not be trained")
        return self


class BoxMetrics(Metrics):
    """How well one box for each expression fits; both means are over the expressions, in [0, 1]."""

    num_expressions: int
    """Expressions."""
    accuracy: Interval
    """Share of the boxes whose intersection over union with the true one is at least .5; higher is better."""
    iou: Interval
    """Mean intersection over union with the true box; higher is better."""


class GroundingMetrics(BoxMetrics):
    """A head's boxes, and those of rules that do not see the codes."""

    alike: BoxMetrics | None
    """The same where another object in the image has the same name, so that the words around it decide; None for no
    such expression."""
    other_image: BoxMetrics
    """The same head with the codes of another image, which can mislead it: it may be below a head without images."""
    any_object: BoxMetrics
    """An object of the same image drawn evenly, its box exact, as the expectation over the draw: what a detector has
    that does not read the expression."""
    name_box: BoxMetrics
    """The mean training box of objects with the same name, which the annotation gives; of all objects for a name that
    the training split lacks."""
    best_box: BoxMetrics
    """For each measure the one box, of `CANDIDATES` training boxes, that is best by it on all of them."""
    mean_box: BoxMetrics
    """The mean of all training boxes."""


class GroundingProtocol(TaskProtocol):
    """What was measured, in words and counts."""

    num_expressions: int
    """Expressions of those images."""
    num_train_expressions: int
    """Expressions that the head was trained on."""
    num_left_out: dict[str, int]
    """Expressions of the whole test split that cannot be used, by reason."""
    num_train_left_out: dict[str, int]
    """The same of the training split."""
    num_clipped: int
    """Test expressions whose box reaches out of the crop; the part inside is the truth."""
    num_train_clipped: int
    """The same of the training expressions."""
    num_cut: int
    """Test expressions of more than `max_words` words."""
    num_unknown: int
    """Test expressions with a word that no training expression has."""
    num_without_words: int | None = None
    """Test expressions without a word, such as signs alone; they count. None in metrics from before it was counted."""
    num_train_cut: int | None = None
    """Training expressions of more than `max_words` words; None as above."""
    num_train_without_words: int | None = None
    """Training expressions without a word; None as above."""
    num_words: int
    """Different words of the training expressions."""


class GroundingTaskMetrics(TaskMetrics[GroundingMetrics]):
    """The metrics of one pair."""

    protocol: GroundingProtocol
    """What was measured."""


@dataclass(frozen=True)
class Referring(Examples):
    """Expressions of a split; `targets` of the training split are words (n, t) and boxes (n, 4)."""

    found: list[Expression] = field(kw_only=True)
    left_out: Counter[str] = field(kw_only=True)
    things: list[list[Thing]] = field(kw_only=True)
    """The objects in each image of the split."""
    vocabulary: Vocabulary | None = field(default=None, kw_only=True)
    """The training expressions' words; None for another split."""
    num_cut: int = field(default=0, kw_only=True)
    """Training expressions that are cut."""

    @property
    def ids(self) -> list[str]:
        """The image's id and the expression's number in the image."""
        count: Counter[int] = Counter()
        found = []
        for at in self.positions.tolist():
            found.append(f"{self.split.ids[at]}/{count[at]}")
            count[at] += 1
        return found

    @property
    def texts(self) -> list[str]:
        """The expressions."""
        return [own.text for own in self.found]

    @property
    def corners(self) -> Float[Tensor, "n 4"]:
        """Left, top, right and bottom of the boxes, as shares of the side."""
        return torch.tensor([own.box for own in self.found], dtype=torch.float32)

    def digests(self) -> dict[str, str]:
        return {"expressions": text_digest(f"{own.text} {own.box}" for own in self.found)}


class ConvTokens(nn.Module):
    """A latent as tokens: convolutions, and a learned vector of each place that begins as sines of its coordinates."""

    def __init__(self, space: CodeSpace, params: GroundingHeadParams) -> None:
        super().__init__()
        channels, width, grid = params.channels, params.width, space.grid
        layers: list[nn.Module] = [nn.Conv2d(space.dim, channels, 3, padding=1), nn.GELU()]
        while params.side is not None and max(grid) > params.side:
            wider = min(2 * channels, width)
            layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.GELU()]
            channels, grid = wider, ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        self.grid = grid
        self.standardise = Standardise(space.dim)
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(channels, width, 1))
        self.places = nn.Parameter(sines(grid, width))

    def forward(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b s e"]:
        return self.convolutions(self.standardise(z_q)).flatten(2).transpose(1, 2) + self.places


class GroundingHead(nn.Module):
    """Codes and words to a box, and which cells of the image are in it."""

    def __init__(self, space: CodeSpace, params: GroundingHeadParams, num_words: int, max_words: int) -> None:
        super().__init__()
        width = params.width
        image = ConvTokens(space, params)
        self.joint, self.grid = JointTransformer(space, params, num_words, max_words, image), image.grid
        with torch.no_grad():
            self.joint.words.weight.normal_(std=WORDS_STD)[PAD] = 0
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )
        self.inside = nn.Linear(width, 1)

    def forward(
        self, z_q: Float[Tensor, "b d h w"], words: Int64[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b 4"], Float[Tensor, "b s"]]:
        """Centre, width and height as shares of the side, and a logit for each image token."""
        states = self.joint.states(z_q, words)
        count = self.grid[0] * self.grid[1]
        return self.box(states[:, 0]).sigmoid(), self.inside(states[:, 1 : 1 + count]).squeeze(-1)


class Grounding(Task):
    """The task. Expressions without a usable box are left out and counted (`vqpipe.data.asked`)."""

    kind = "grounding"
    asks = "an expression"
    question = "the box of the object that an expression refers to"
    Params = GroundingParams
    Metrics = GroundingTaskMetrics
    picture_spec = GROUNDING_PICTURES
    config: GroundingParams

    def examples(self, split: str) -> Referring:
        images, positions = self.images(split)
        every = expressions_of(self.dataset, split, self.resolution)
        used = set(positions.tolist())
        found = [own for own in every.found if own.position in used]
        if not found:
            raise DataError(
                f"{self.where(split)}: no expression of the images that are measured",
                found=f"{len(every.found)} expressions of other images", expected="a larger num_images",
            )  # fmt: skip
        own = Referring(
            images, np.array([own.position for own in found]), found=found, left_out=every.left_out,
            things=things_of(self.dataset, split, self.resolution),
        )  # fmt: skip
        if split != "train":
            return own
        vocabulary = Vocabulary.of(own.texts)
        words, cut = vocabulary.encode(own.texts, self.config.max_words)
        targets = words, box_convert(own.corners, "xyxy", "cxcywh")
        return replace(own, targets=targets, vocabulary=vocabulary, num_cut=cut)

    def known(self, train: Examples) -> dict[str, Any]:
        return {"words": list(_vocabulary(train).words)}

    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        words = len(Vocabulary(tuple(known["words"])))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.config.seed, "head"))
            return GroundingHead(space, self.config.head, words, self.config.max_words)

    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        words, boxes = batch
        assert isinstance(head, GroundingHead)
        found, inside = head(inputs.z_q, words)
        loss = grounding_loss(found, boxes, self.config.l1_weight, self.config.giou_weight)
        if not self.config.inside_weight:
            return loss, {}
        cells = binary_cross_entropy_with_logits(inside, covered(boxes, head.grid))
        return loss + self.config.inside_weight * cells, {"box": loss.detach(), "inside": cells.detach()}

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        assert isinstance(test, Referring)
        assert isinstance(train, Referring)
        words, _ = _vocabulary(train).encode(test.texts, self.config.max_words)
        found = self._boxes(head, inputs, words)
        boxes, seen = test.corners, train.corners
        names = name_boxes(train)
        rules = {
            "": found,
            "other_image": self._boxes(head, inputs.of_other_images(self.config.seed), words),
            "name_box": torch.stack([names.get(own.name, seen.mean(dim=0)) for own in test.found]),
            "mean_box": seen.mean(dim=0).expand_as(boxes),
        }
        values = {name: _scores(own, boxes) for name, own in rules.items()}
        values["best_box"] = {
            name: _scores(box.expand_as(boxes), boxes)[name]
            for name, box in best_boxes(seen, self.config.seed).items()
        }
        values["any_object"] = any_object(test, self.resolution)
        alike = np.array([_alike(test, own) for own in test.found])
        values["alike"] = {name: np.where(alike, own, np.nan) for name, own in values[""].items()}
        parts: dict[str, Any] = {name: self._part(own) for name, own in values.items()}
        whole = dict(parts.pop(""))
        flat = {
            f"{part}.{name}".lstrip("."): own for part, both in values.items() for name, own in both.items()
        }
        return HeadResult(GroundingMetrics(**whole, **parts), flat, found)

    def _boxes(
        self, head: nn.Module, inputs: FrozenInputs, words: Int64[Tensor, "n t"]
    ) -> Float[Tensor, "n 4"]:
        """The corners of the boxes that a head finds, on the CPU."""
        parts = []
        for rows, seen in self.batches(inputs):
            found, _ = head(seen.z_q, words[torch.from_numpy(rows)].to(seen.z_q.device))
            parts.append(found.float().cpu())
        return to_corners(torch.cat(parts))

    def _part(self, values: Scores) -> BoxMetrics | None:
        count = int(np.isfinite(values["iou"]).sum())
        if not count:
            return None
        found = {name: self.config.interval(own) for name, own in values.items()}
        return BoxMetrics(num_expressions=count, **found)

    def answers(
        self, head: nn.Module, known: Mapping[str, Any], seen: Quantized, texts: Sequence[str]
    ) -> list[str]:
        words, notes = Vocabulary(tuple(known["words"])).asked(texts, self.config.max_words)
        found, _ = head(seen.z_q, words.to(seen.z_q.device))
        names = ("left", "top", "right", "bottom")
        return [
            ", ".join(f"{name} {100 * side:.0f} %" for name, side in zip(names, box, strict=True)) + note
            for box, note in zip(to_corners(found).clamp(0, 1).tolist(), notes, strict=True)
        ]

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        assert isinstance(test, Referring)
        return [
            {
                "image_id": test.split.ids[int(test.positions[row])], "picture": album.picture(row),
                "expression": test.found[row].text, "box": list(test.found[row].box),
                "predicted": result.kept[row].tolist(), "iou": float(result.values["iou"][row]),
            }
            for row in self.shown(test)
        ]  # fmt: skip

    def describe(self, inputs: FrozenInputs, test: Examples, train: Examples) -> TaskProtocol:
        assert isinstance(test, Referring)
        assert isinstance(train, Referring)
        vocabulary = _vocabulary(train)
        words, cut = vocabulary.encode(test.texts, self.config.max_words)
        return GroundingProtocol(
            **dict(super().describe(inputs, test, train)), num_expressions=len(test),
            num_train_expressions=len(train), num_left_out=dict(test.left_out),
            num_train_left_out=dict(train.left_out), num_cut=cut,
            num_clipped=sum(own.clipped for own in test.found),
            num_train_clipped=sum(own.clipped for own in train.found),
            num_unknown=int((words == UNKNOWN).any(dim=1).sum()), num_words=len(vocabulary.words),
            num_without_words=_without_words(test), num_train_cut=train.num_cut,
            num_train_without_words=_without_words(train),
        )  # fmt: skip


def covered(boxes: Float[Tensor, "b 4"], grid: tuple[int, int]) -> Float[Tensor, "b s"]:
    """The share of each cell of a grid that a box covers, row by row; boxes as centres and sizes."""
    corners = to_corners(boxes)

    def along(low: Tensor, high: Tensor, count: int) -> Tensor:
        start = torch.arange(count, device=boxes.device) / count
        ends = torch.minimum(high[:, None], start + 1 / count)
        return (ends - torch.maximum(low[:, None], start)).clamp_min(0) * count

    across = along(corners[:, 0], corners[:, 2], grid[1])
    return (along(corners[:, 1], corners[:, 3], grid[0])[:, :, None] * across[:, None]).flatten(1)


def sines(grid: tuple[int, int], width: int) -> Float[Tensor, "s e"]:
    """Sines and cosines of the coordinates of a grid's places at wavelengths from twice the side down to an eighth."""
    rows, columns = ((torch.arange(count) + 0.5) / count for count in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = torch.pi * places[:, :, None] * 2 ** torch.linspace(0, 4, -(-width // 4))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def best_boxes(boxes: Float[Tensor, "m 4"], seed: int) -> dict[str, Float[Tensor, " 4"]]:
    """For each measure the best of `CANDIDATES` drawn boxes as the prediction for all of them; corners."""
    draws = numpy_rng(seed, "best box").permutation(len(boxes))[:CANDIDATES]
    found = torch.cat([box_iou(boxes[at : at + 1], boxes) for at in draws.tolist()])
    means = {"iou": found.mean(dim=1), "accuracy": (found >= 0.5).double().mean(dim=1)}
    return {name: boxes[int(draws[int(own.argmax())])] for name, own in means.items()}


def name_boxes(train: Referring) -> dict[str, Float[Tensor, " 4"]]:
    """The mean box of each name's expressions; corners."""
    rows: dict[str, list[int]] = {}
    for row, own in enumerate(train.found):
        rows.setdefault(own.name, []).append(row)
    corners = train.corners
    return {name: corners[own].mean(dim=0) for name, own in rows.items()}


def any_object(test: Referring, resolution: int) -> Scores:
    """For each expression the means over the objects of its image, their boxes exact."""
    pairs = [
        (row, thing.box, own.box) for row, own in enumerate(test.found) for thing in test.things[own.position]
    ]
    rows, boxes, truth = (np.array(part) for part in zip(*pairs, strict=True))
    corners = box_convert(torch.from_numpy(boxes), "xywh", "xyxy") / resolution
    count = np.bincount(rows)
    scores = _scores(corners, torch.from_numpy(truth))
    return {name: np.bincount(rows, weights=own) / count for name, own in scores.items()}


def _alike(test: Referring, own: Expression) -> bool:
    """Whether another object in the expression's image has the same name."""
    return sum(thing.name == own.name for thing in test.things[own.position]) > 1


def _scores(found: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"]) -> Scores:
    scores = box_scores(found, boxes)
    return {"accuracy": scores.is_found.double().numpy(), "iou": scores.iou.numpy()}


def _without_words(examples: Referring) -> int:
    return sum(not has_word(text) for text in examples.texts)


def _vocabulary(train: Examples) -> Vocabulary:
    assert isinstance(train, Referring)
    assert train.vocabulary is not None
    return train.vocabulary
