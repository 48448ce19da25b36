"""Classification: which class an image has, by a vision transformer over its codes.

Paper: VQGAN-LC, arXiv 2406.11837, section 3.3 and Figure 1b: a ViT-B pretrained with MAE is trained on the token maps
of ImageNet, and its top-1 accuracy compares the tokenizers. Its schedule is not stated: ours is `training`.

Letters: n images, b batch, c classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import CLASSIFICATION_PICTURES
from vqpipe.errors import DataError
from vqpipe.metrics.measured import DIGITS, Interval, text_digest
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.seeds import derive
from vqpipe.tasks.heads import HeadParams
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.task import Album, Examples, HeadResult, Row, Task, TaskMetrics, TaskParams, TaskProtocol
from vqpipe.tasks.vit import code_vit, load_mae, need_weights, tokens_of

FEW = 5
"""k of the second measure; it means something where there are more classes."""


class ClassificationParams(TaskParams):
    """A vision transformer over frozen codes."""

    kind: Literal["classification"]
    """The task."""
    head: HeadParams
    """The transformer; ViT-B has 768 channels, 12 layers and 12 heads."""
    init: Annotated[str, Field(min_length=1)] | None
    """Weights that it starts from: a file of an MAE in timm's layout (`vqpipe.tasks.vit.load_mae`); null: none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of the target that is spread evenly over all classes in training; MAE's own fine-tuning has 0.1."""
    num_predictions: Annotated[int, Field(ge=1, le=10)]
    """Likeliest classes of an image that are kept in the pictures."""


class ClassificationMetrics(Metrics):
    """A head's accuracy; shares are in [0, 1]."""

    num_classes: int
    """c, classes of the dataset."""
    top1: Interval
    """Share of the test images whose likeliest class is right; higher is better."""
    top5: Interval | None = None
    """Share whose class is among the five likeliest; None for five classes or fewer."""
    other_image: Interval
    """`top1` with the codes of another image: what the head says without looking. A perfect head has the share of the
    images whose other image is of the same class."""
    majority: float
    """`top1` of the training images' most frequent class for all."""
    majority5: float | None = None
    """`top5` of the training images' five most frequent classes."""
    chance: float
    """`top1` of a class drawn evenly, 1 / c."""
    chance5: float | None = None
    """`top5` of five different classes drawn evenly, 5 / c."""
    per_class: dict[str, float]
    """`top1` of the test images of each class that has some, by name in the order of the dataset."""
    confusion: dict[str, dict[str, int]]
    """Number of test images by their class, then by the likeliest one; pairs without an image are left out."""


class ClassificationProtocol(TaskProtocol):
    """What was measured, in words and counts."""

    num_without_class: int
    """Test images without a class; they are left out."""
    num_train: int
    """Training images with a class."""
    num_train_without_class: int
    """Training images without a class; they are left out."""
    num_unknown: int
    """Test images of a class that no training image has; they count, and cannot be right but by chance."""
    init: str
    """`fresh`, or the beginning of the SHA-256 of the file of weights that the head started from."""


class ClassificationTaskMetrics(TaskMetrics[ClassificationMetrics]):
    """The metrics of a pair of this task."""

    protocol: ClassificationProtocol
    """What was measured."""


@dataclass(frozen=True)
class Labelled(Examples):
    """Images with a class; `targets` are their numbers, int64 (n)."""

    num_without: int = field(kw_only=True)
    """Images that were left out, as they have none."""

    @property
    def labels(self) -> Int64[np.ndarray, " n"]:
        """The class of each image."""
        return np.asarray(self.targets.numpy())

    def names(self) -> list[str]:
        """The dataset's classes."""
        return list(self.split.class_names)

    def digests(self) -> dict[str, str]:
        names = self.names()
        return {"labels": text_digest([names[label] for label in self.labels.tolist()])}


class Classification(Task):
    """The task: cross-entropy over the classes of the dataset."""

    kind = "classification"
    question = "which class an image has"
    Params = ClassificationParams
    Metrics = ClassificationTaskMetrics
    picture_spec = CLASSIFICATION_PICTURES
    config: ClassificationParams

    def examples(self, split: str) -> Examples:
        images, positions = self.images(split)
        labels = images.labels[positions]
        known = labels >= 0
        found = np.unique(labels[known])
        if len(images.class_names) < 2 or not len(found) or (split == "train" and len(found) < 2):
            raise DataError(
                f"{self.where(split)}: no classes to tell apart",
                found=f"{len(images.class_names)} classes, {int(known.sum())} of {len(labels)} images with one",
                expected="images of two classes or more, such as a folder for each class",
            )
        if self.config.init is not None:
            need_weights(Path(self.config.init))  # refused before anything is trained
        return Labelled(
            images, positions[known], torch.from_numpy(labels[known].astype(np.int64)),
            num_without=int((~known).sum()),
        )  # fmt: skip

    def known(self, train: Examples) -> dict[str, Any]:
        assert isinstance(train, Labelled)
        return {"classes": train.names()}

    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.config.seed, "task", "head"))
            return code_vit(space, self.config.head, len(known["classes"]))

    def stored_params(self) -> dict[str, Any]:
        return super().stored_params() | {"init": None}

    def started(self, head: nn.Module, space: CodeSpace) -> nn.Module:
        assert isinstance(head, VisionTransformer)
        if self.config.init is not None:
            load_mae(head, Path(self.config.init), tokens_of(head, space))
        return head

    def answers(
        self, head: nn.Module, known: Mapping[str, Any], seen: Quantized, texts: Sequence[str]
    ) -> list[str]:
        return [str(known["classes"][at]) for at in head(seen.z_q).argmax(dim=1).tolist()]

    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        logits = head(inputs.z_q)
        accuracy = (logits.detach().argmax(dim=1) == batch).float().mean()
        return cross_entropy(logits, batch, label_smoothing=self.config.label_smoothing), {
            "accuracy": accuracy
        }

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        assert isinstance(test, Labelled)
        assert isinstance(train, Labelled)
        names, labels = test.names(), test.labels
        logits = self._logits(head, inputs)
        order = logits.argsort(dim=1, descending=True, stable=True).numpy()
        other = self._logits(head, inputs.of_other_images(self.config.seed)).argmax(dim=1).numpy()
        hits = order == labels[:, None]
        values: dict[str, Float64[np.ndarray, " n"]] = {
            "top1": hits[:, 0].astype(np.float64),
            "other_image": (other == labels).astype(np.float64),
        }
        counts = np.bincount(train.labels, minlength=len(names))
        frequent = np.argsort(-counts, kind="stable")
        several = len(names) > FEW
        if several:
            values["top5"] = hits[:, :FEW].any(axis=1).astype(np.float64)
        metrics = ClassificationMetrics(
            num_classes=len(names),
            top1=self.config.interval(values["top1"]),
            top5=self.config.interval(values["top5"]) if several else None,
            other_image=self.config.interval(values["other_image"]),
            majority=float((labels == frequent[0]).mean()),
            majority5=float(np.isin(labels, frequent[:FEW]).mean()) if several else None,
            chance=1 / len(names),
            chance5=FEW / len(names) if several else None,
            per_class={
                names[at]: float(values["top1"][labels == at].mean()) for at in np.unique(labels).tolist()
            },
            confusion=confusion(labels, order[:, 0], names),
        )
        return HeadResult(metrics, values, logits)

    def _logits(self, head: nn.Module, inputs: FrozenInputs) -> Float[Tensor, "n c"]:
        """On the CPU."""
        return torch.cat([head(seen.z_q).float().cpu() for _, seen in self.batches(inputs)])

    def describe(self, inputs: FrozenInputs, test: Examples, train: Examples) -> TaskProtocol:
        assert isinstance(test, Labelled)
        assert isinstance(train, Labelled)
        return ClassificationProtocol(
            **dict(super().describe(inputs, test, train)), num_without_class=test.num_without,
            num_train=len(train), num_train_without_class=train.num_without,
            num_unknown=int((~np.isin(test.labels, train.labels)).sum()),
            init=self._start(),
        )  # fmt: skip

    def recorded(self) -> dict[str, Any]:
        return super().recorded() | {"init": self._start()}

    def _start(self) -> str:
        """As `ClassificationProtocol.init`."""
        if self.config.init is None:
            return "fresh"
        with need_weights(Path(self.config.init)).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        assert isinstance(test, Labelled)
        names, rows = test.names(), []
        for row in self.shown(test):
            found = (
                result.kept[row].double().softmax(dim=0).topk(min(self.config.num_predictions, len(names)))
            )
            best = found.indices.tolist()
            rows.append({
                "image_id": test.ids[row], "picture": album.picture(row), "label": names[test.labels[row]],
                "predictions": [names[at] for at in best], "chances": found.values.tolist(),
                "right": [at == test.labels[row] for at in best],
            })  # fmt: skip
        return rows


def confusion(
    labels: Int64[np.ndarray, " n"], found: Int64[np.ndarray, " n"], names: list[str]
) -> dict[str, dict[str, int]]:
    """Images by class and by the class that was found, without pairs of no image; both in the order of `names`."""
    table: dict[str, dict[str, int]] = {}
    pairs, counts = np.unique(np.stack([labels, found], axis=1), axis=0, return_counts=True)
    for (label, other), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        table.setdefault(names[label], {})[names[other]] = count
    return table
