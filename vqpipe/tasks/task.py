"""The one contract of all tasks, and the params and metrics that they share.

A task is one file with a model of its params, a model of its metrics, and a class:

    class ClassLabel(Task):
        kind, Params, Metrics = "class_label", ClassLabelParams, TaskMetrics[ClassLabelMetrics]

        def examples(self, split): ...            # which images, and what belongs to each
        def known(self, train): ...               # what the head is built from: classes, words, answers
        def head(self, space, known): ...         # a fresh network over the codes
        def loss(self, head, inputs, batch): ...  # what it is trained by
        def measure(self, head, inputs, test, train): ...  # its numbers on the test split, with chance and floors

`vqpipe.tasks.solve` does the rest: it encodes the images, trains the head, measures it and publishes the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.spec import TableSpec
from vqpipe.data.images import encode_png
from vqpipe.data.loader import ImageSplit, drawn_positions
from vqpipe.errors import DataError, MismatchError
from vqpipe.metrics.floors import FloorsParams
from vqpipe.metrics.measured import Interval, Measured, interval
from vqpipe.params.base import Params, load_params, validate
from vqpipe.params.names import Name
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.runtime.terminal import track
from vqpipe.tasks import TASKS
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs, Input
from vqpipe.training.objective import TrainingParams
from vqpipe.training.step import over_tensors
from vqpipe.vision.clip import Clip, StoredClip, network_of

Row = dict[str, Any]
"""A row of a table of pictures."""


class TaskParams(Params):
    """What all tasks have: `task.common`, its block for the kind, and `task.pairs.NAME`, merged in this order."""

    kind: str
    """The task, a key of `TASKS`; each task's own params name it."""
    tokenizer: Name
    """The tokenizer variant whose frozen tokens the task is solved from."""
    input: Input = "codes"
    """What the head sees of an image: its codes, or what they are compared with: the latent before quantisation
    (`latents`), nothing (`none`), the dense features of the run's CLIP (`clip`), or k-means codes of raw pixels at the
    tokenizer's bits (`patches`)."""
    patches: FloorsParams | None = None
    """How the k-means codes of `input: patches` are fitted, as `evaluate.floors`; without effect on other inputs."""
    training: TrainingParams | None = None
    """How the head is trained; null for as the tokenizer was: as many steps and images, at its learning rate."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of the head's weights, the order of the examples, what is drawn for the measures, and the bootstrap."""
    num_images: Annotated[int, Field(ge=2)] | None = None
    """Test images that are measured, drawn at random; null measures the whole test split."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images per pass in encoding and measuring; results agree to rounding for any value."""
    num_bootstrap: Annotated[int, Field(ge=100)]
    """Bootstrap resamples of each 95 % interval."""
    num_pictures: Annotated[int, Field(ge=0)]
    """Test images that are kept as pictures for the report, drawn by the seed: the same for every tokenizer."""

    @model_validator(mode="after")
    def _patches_are_given(self) -> TaskParams:
        if self.input == "patches" and self.patches is None:
            raise ValueError(
                "input: patches needs the block patches: num_patches, num_iterations, max_num_codes"
            )
        return self

    def interval(self, values: Float64[np.ndarray, " n"]) -> Interval:
        """The mean of the finite values, with its bootstrap interval."""
        return interval(values[np.isfinite(values)], self.num_bootstrap, self.seed)


def task_entry(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The plain params of one pair; arguments and errors as `Table.entry`."""
    return TASKS.entry("task.pairs", common, own)


def load_task(path: Path, pair: str) -> TaskParams:
    """The params of one pair of a params file.

    Raises:
        ParamsError: no such pair or kind, or params that are not valid.
    """
    common, own = (
        load_params(path, section, dict[str, Any]) for section in ("task.common", f"task.pairs.{pair}")
    )
    found: TaskParams = validate(task_entry(common, own), f"task.pairs.{pair}", TASKS.params(), path.name)
    return found


def tasks_of(common: Mapping[str, Any], source: str, **own: Any) -> dict[str, TaskParams]:
    """The params of each kind that `common` has a block for, such as all tasks of a board's row, by kind.

    Entries of a block `further`, if there is one, follow by their names: the kind and what they change, such as
    `none: {kind: grounding, input: none}`.

    Args:
        common: as in `task_entry`.
        source: what messages call it.
        own: merged over it, such as `tokenizer` and `seed`.

    Raises:
        ParamsError: params that are not valid.
    """
    shared = {name: value for name, value in common.items() if name != "further"}
    further = validate(common.get("further", {}), "further", dict[str, dict[str, Any]], source)
    entries = {kind: {"kind": kind} for kind in TASKS if kind in shared} | further
    return {
        name: validate(task_entry(shared, {**entry, **own}), name, TASKS.params(), source)
        for name, entry in entries.items()
    }


class HeadTrainingMetrics(Metrics):
    """How the fresh head was trained."""

    num_steps: int
    """Optimiser steps."""
    num_rollbacks: int
    """Times that training went back to a checkpoint after a loss that was not finite."""
    weights: Literal["ema", "last"]
    """Which weights were measured: their moving average, or the last ones."""
    loss: float
    """The mean training loss over the last window of the curves; lower is better."""
    batch_size: int
    """Examples per step."""
    tokenizer_steps: int
    """Optimiser steps of the tokenizer's own training."""


class TaskProtocol(Metrics):
    """What was measured, in words and counts."""

    split: str
    """The split."""
    num_images: int
    """Its images that were measured."""
    seed: int
    """As in the params."""
    num_positions: int
    """Positions of the input's grid, h w."""
    groups: int
    """Codes per position; 0 for an input without codes."""
    input: str
    """What the head saw of an image: `View.name`."""


H = TypeVar("H", bound=Metrics)


class TaskMetrics(Metrics, Generic[H]):
    """The metrics of one pair; `H` is the model of one head's numbers."""

    kind: str
    """The task."""
    fresh: H
    """The head that was trained on the frozen input."""
    own: H | None = None
    """The head that was trained together with the tokenizer; None where it has none for the task."""
    training: HeadTrainingMetrics
    """How the fresh head was trained."""
    protocol: TaskProtocol
    """What was measured."""
    measured: Measured
    """Digests of images and protocol (`vqpipe.metrics.measured`): numbers with equal ones can be compared."""


@dataclass(frozen=True)
class Examples:
    """Examples of one split: an image each, and what belongs to it.

    A task whose examples draw something anew in each epoch, such as a caption, overrides `batch`.
    """

    split: ImageSplit
    positions: Int64[np.ndarray, " n"]
    """The image of each example, by its place in the split."""
    targets: Any = None
    """Tensors on the CPU with a row per example, in a tuple, mapping or dataclass; or None."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ids(self) -> list[str]:
        """Each example's id, by which values are paired: its image's. Override it for several examples of an image."""
        return [self.split.ids[at] for at in self.positions.tolist()]

    def batch(self, rows: Int64[np.ndarray, " b"], step: int = 0, share: slice = slice(None)) -> Any:
        """What belongs to some examples.

        Args:
            rows: examples of the batch of all ranks.
            step: number of the training step, from 0.
            share: this rank's part of the batch.
        """
        chosen = torch.from_numpy(np.array(rows[share]))
        return over_tensors(self.targets, lambda part: part[chosen])

    def digests(self) -> dict[str, str]:
        """Digests of what belongs to the images, for the record of what was measured."""
        return {}


@dataclass(frozen=True)
class HeadResult:
    """What one head was measured to do."""

    metrics: Metrics
    """As `H` of the task's `TaskMetrics`."""
    values: dict[str, Float64[np.ndarray, " n"]] = field(default_factory=dict)
    """Each measure by name with a value per example, NaN where it has none."""
    kept: Any = None
    """What `pictures` needs of it."""


class Album:
    """Images of examples as PNG, each encoded once."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._known: dict[int, bytes] = {}

    def picture(self, row: int) -> bytes:
        """The image of one example."""
        if row not in self._known:
            position = int(self._examples.positions[row])
            pixels = self._examples.split.gather([position], None, "centre", False)[0]
            self._known[row] = encode_png(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        return self._known[row]


class Task(ABC):
    """One task with its params. It keeps no state: what is trained is the head.

    Args:
        config: of the task's `Params`.
        dataset: the dataset artifact.
        clip: the run's CLIP, on its device; `Task.clip` reads it where it is not in memory yet.
        resolution: side of the images in pixels, the tokenizer's.
        scratch: folder for what a killed run need not compute again; None keeps it in memory.
    """

    kind: ClassVar[str]
    """The name in `TASKS` and in the params."""
    question: ClassVar[str] = ""
    """What is predicted from an image's codes, as the end of a sentence in the report; the kind where it is empty."""
    asks: ClassVar[str | None] = None
    """What `answers` is given next to an image, such as `a question`; None for nothing."""
    Params: ClassVar[type[TaskParams]]
    Metrics: ClassVar[Any]
    """`TaskMetrics[H]`, or a model that is derived from it."""
    protocol: ClassVar[int] = 1
    """Raise it when a change of the code alters what a number means."""
    picture_spec: ClassVar[TableSpec | None] = None
    """The table of `pictures`; None for a task without pictures."""

    def __init__(
        self, config: Any, dataset: Path, clip: Clip | StoredClip, resolution: int, scratch: Path | None
    ) -> None:
        self.config: Any = config
        self.dataset, self._clip, self.resolution, self.scratch = dataset, clip, resolution, scratch

    @property
    def clip(self) -> Clip:
        """The run's CLIP. The first use may read it, which takes seconds; `clip_id` names it without."""
        return network_of(self._clip)

    @property
    def clip_id(self) -> str:
        """The id of the run's CLIP."""
        return self._clip.id

    @abstractmethod
    def examples(self, split: str) -> Examples:
        """The examples of `train` or `test`; `images` gives the images that the params ask for.

        Called for `test` first, so that what cannot be measured is refused before anything is trained.

        Raises:
            DataError: the split lacks what the task needs.
        """

    def known(self, train: Examples) -> dict[str, Any]:
        """What a head is built from besides its input, as JSON content: words, answers, classes. It is stored with the
        head, which can be built again from it without the data."""
        return {}

    @abstractmethod
    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        """A fresh head on the CPU; its weights depend on `seed` alone, the same for every tokenizer of one shape.

        Args:
            space: of the input.
            known: as `known` gives it.

        Raises:
            MismatchError: the task cannot be solved from this input.
        """

    def stored_params(self) -> dict[str, Any]:
        """The params as they are stored with the head: without places on this machine that are not read again."""
        found: dict[str, Any] = self.config.model_dump(mode="json", by_alias=True)
        return found

    def started(self, head: nn.Module, space: CodeSpace) -> nn.Module:
        """A fresh head with the pretrained weights that the params name, before it is trained; most tasks have none."""
        return head

    @abstractmethod
    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The scalar to minimise, and named terms for the curves.

        Args:
            head: in training mode.
            inputs: what the head sees of the images (`FrozenInputs.quantized`), without gradient.
            batch: as `Examples.batch`, on the head's device.
            progress: part of the training that is done, in [0, 1).
        """

    @abstractmethod
    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        """Measure a head on the test examples, with chance and floors; `batches` goes through them in batches.

        Called without gradients. All draws come from the params' seed, the same for every tokenizer, so that values
        of one image can be compared between tokenizers.

        Args:
            head: in eval mode, on the tokenizer's device.
            inputs: of the test examples, in their order.
            train: for floors such as the most frequent answer.
        """

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        """Rows of `picture_spec` for the examples of `shown`, without the column `head`."""
        return []

    def answers(
        self, head: nn.Module, known: Mapping[str, Any], seen: Quantized, texts: Sequence[str]
    ) -> list[str]:
        """A head's answers, one line of text for each image.

        Args:
            head: in eval mode.
            known: what it is built from.
            seen: what it sees of the images.
            texts: one for each image where the task `asks` for one, else none.
        """
        raise NotImplementedError

    def need_answers(self) -> None:
        """Refuse a task without `answers`.

        Raises:
            MismatchError: it has none; the message lists the tasks that have.
        """
        if type(self).answers is Task.answers:
            raise MismatchError(
                f"{self.kind} has no answer for a single image",
                choices=[kind for kind in TASKS if TASKS[kind].answers is not Task.answers],
            )

    def own_head(self, aligner: Aligner, test: Examples) -> nn.Module | None:
        """The head for this task that the tokenizer was aligned with; None where it has none."""
        return None

    def networks(self, head: nn.Module) -> list[nn.Module]:
        """The parts of a head that `training.compile` compiles."""
        return [head]

    def recorded(self) -> dict[str, Any]:
        """The params that the numbers depend on, as plain JSON. A task with a file among them overrides it: records
        have a file's digest in the place of its path."""
        own = {"tokenizer", "num_images", "batch_size", "num_pictures"}
        own |= set() if self.config.input == "patches" else {"patches"}
        return dict(self.config.model_dump(mode="json", exclude=own, exclude_none=True))

    def describe(self, inputs: FrozenInputs, test: Examples, train: Examples) -> TaskProtocol:
        """What was measured."""
        return TaskProtocol(
            split="test", num_images=len(np.unique(test.positions)), seed=self.config.seed,
            num_positions=inputs.space.num_positions, groups=len(inputs.space.num_codes),
            input=inputs.view.name,
        )  # fmt: skip

    def images(self, name: str) -> tuple[ImageSplit, Int64[np.ndarray, " n"]]:
        """A split, and the places of its images that are used: `num_images` of the test split, else all.

        Raises:
            DataError: fewer than two images.
        """
        split = ImageSplit.open(self.dataset, name, self.resolution)
        count = self.config.num_images if name == "test" else None
        if len(split) < 2:
            raise DataError(
                "a task compares images with each other",
                found=f"{len(split)} images in {self.where(name)}",
                expected="2 or more",
            )
        return split, drawn_positions(len(split), count, self.config.seed)

    def where(self, split: str) -> str:
        """A split's name in messages."""
        return f"{self.dataset}, split {split}"

    def shown(self, test: Examples) -> list[int]:
        """The examples that are kept as pictures, rising; the same for every tokenizer."""
        count = min(self.config.num_pictures, len(test))
        draws = numpy_rng(self.config.seed, "examples")
        return sorted(draws.choice(len(test), count, replace=False).tolist())

    def batches(self, inputs: FrozenInputs) -> Iterator[tuple[Int64[np.ndarray, " b"], Quantized]]:
        """The rows of each batch of examples in order, and what the head sees of them."""
        size = self.config.batch_size
        for at in track(range(0, len(inputs), size), f"measure {self.kind}"):
            rows = np.arange(at, min(at + size, len(inputs)))
            yield rows, inputs.batch(rows)
