"""Solving a task from one tokenizer: train a head on its frozen tokens, and measure it on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.task import TASK, TASK_PER_IMAGE
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.data.loader import epoch_order
from vqpipe.errors import DataError, MismatchError
from vqpipe.metrics.measured import ImagesDigest, measured_with
from vqpipe.models.transformer import WITH_CONVOLUTIONS, decay_groups
from vqpipe.runtime.distributed import is_main, own_share, rank
from vqpipe.runtime.seeds import derive, seed_everything
from vqpipe.runtime.terminal import say
from vqpipe.tasks import TASKS
from vqpipe.tasks.heads import standardise
from vqpipe.tasks.inputs import FrozenInputs, PatchCodes, View, view_of
from vqpipe.tasks.stored import FreshHead, write_head
from vqpipe.tasks.task import (
    Album,
    Examples,
    HeadResult,
    HeadTrainingMetrics,
    Row,
    Task,
    TaskMetrics,
    TaskParams,
    TaskProtocol,
)
from vqpipe.tokenizers.stored import load_aligner
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.training.loop import run_training
from vqpipe.training.objective import Objective, TrainingParams, TrainingResult
from vqpipe.vision.clip import Clip, StoredClip

SPEED = {"log_every", "checkpoint_every", "channels_last", "compile", "deterministic"}
"""Params of training that change no result but its rounding."""


@dataclass(frozen=True)
class Solved:
    """A task's metrics, and its artifact's content: `tables` by file name."""

    metrics: TaskMetrics[Any]
    tables: dict[str, pa.Table]
    facts: dict[str, Any]
    task: Task
    head: FreshHead

    def write(self, folder: Path) -> Path:
        """Publish the task artifact and return its folder."""
        specs = {"per_image": TASK_PER_IMAGE, "pictures": self.task.picture_spec}
        with publish_folder(folder, TASK, self.facts) as partial:
            write_head(partial, self.task, self.head)
            for name, table in self.tables.items():
                spec = specs[name]
                assert spec is not None
                write_table(partial / f"{name}.parquet", spec, table, self.facts)
        return folder


def solve_task(
    config: TaskParams,
    tokenizer: Tokenizer,
    own: Aligner | None,
    dataset: Path,
    clip: Clip | StoredClip,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> Solved:
    """Train a fresh head on a tokenizer's frozen tokens and measure it, and the head that it was aligned with.

    Args:
        config: the pair's params, of the kind of the task.
        tokenizer: in eval mode, on `device`; it does not change.
        own: the aligner that was trained with the tokenizer, in eval mode (`own_aligner`), or None. It is measured
            where the task's input is codes, which it was trained on.
        dataset: the dataset artifact.
        clip: the run's CLIP; one that is not in memory is read only where its features are used.
        scratch: folder of the checkpoint; a run that was killed resumes from it.
        curves: where the training curves are published.
        title: names the run on the progress bar.

    Raises:
        DataError, MismatchError, SetupError: the task cannot be solved from these images and tokens, as the task says.
        MismatchError: fewer training examples than one batch.
        TrainingError: losses that do not stay finite.
    """
    task = TASKS[config.kind](config, dataset, clip, tokenizer.resolution, scratch)
    test = task.examples("test")
    _need_two_images(task, test)
    own_head = None if own is None or config.input != "codes" else task.own_head(own, test)
    digest = ImagesDigest()
    train = task.examples("train")
    view: View
    if config.input == "patches":
        assert config.patches is not None, "TaskParams checks it"
        view = PatchCodes.fit(tokenizer, train.split, config.patches, config.seed)
    else:
        view = view_of(config.input, tokenizer, clip)
    inputs = FrozenInputs.encode(view, test.split, test.positions, config.batch_size, digest)
    training = training_of(config, tokenizer)
    known = task.known(train)
    head = task.started(task.head(inputs.space, known), inputs.space).to(device)
    protocol = task.describe(inputs, test, train)
    _say_counts(title, protocol)
    fitted = _train(task, head, view, train, training, scratch, curves, device, title)
    heads = {"fresh": head} | ({} if own_head is None else {"own": own_head.to(device)})
    results: dict[str, HeadResult] = {}
    album, pictures, per_image = Album(test), list[Row](), list[Row]()
    for name, network in heads.items():
        with torch.no_grad():
            results[name] = task.measure(network, inputs, test, train)
        rows = task.pictures(network, results[name], inputs, test, album)
        pictures += [{"head": name, **row} for row in rows]
        per_image += _per_image(name, results[name], test)
    metrics = task.Metrics(
        kind=config.kind,
        **{name: result.metrics for name, result in results.items()},
        training=HeadTrainingMetrics(
            num_steps=fitted.num_steps, num_rollbacks=fitted.num_rollbacks,
            weights="ema" if fitted.averaged else "last", loss=fitted.rows[-1]["main/loss"],
            batch_size=training.batch_size, tokenizer_steps=tokenizer.config.training.num_steps,
        ),
        protocol=protocol,
        measured=measured_with(digest.images("test", test.digests()), _protocol(task, training)),
    )  # fmt: skip
    facts = {
        "kind": config.kind, "split": "test", "num_images": protocol.num_images,
        "grid": list(inputs.space.grid), "groups": len(inputs.space.num_codes), "heads": list(heads),
    }  # fmt: skip
    tables = {"per_image": to_table(TASK_PER_IMAGE, per_image, facts)}
    if task.picture_spec is not None:
        tables["pictures"] = to_table(task.picture_spec, pictures, facts)
    return Solved(metrics, tables, facts, task, FreshHead(head, known, view))


def solve_tasks(
    configs: Mapping[str, TaskParams],
    tokenizer: Tokenizer,
    own: Aligner | None,
    dataset: Path,
    clip: Clip | StoredClip,
    *,
    scratch: Path,
    device: torch.device,
    title: str,
) -> dict[str, TaskMetrics[Any]]:
    """The metrics of several tasks by the names of `configs`, such as those of a board's row; see `solve_task`."""
    found = {}
    for name, config in configs.items():
        folder = scratch / f"task-{name}"
        folder.mkdir(exist_ok=True)
        solved = solve_task(
            config, tokenizer, own, dataset, clip,
            scratch=folder, curves=None, device=device, title=f"{title}, {name}",
        )  # fmt: skip
        found[name] = solved.metrics
    return found


def _need_two_images(task: Task, test: Examples) -> None:
    """Refuse test examples of one image, before the head is trained: it is measured with another image's input too.

    Raises:
        DataError: examples of fewer than two images.
    """
    count = len(np.unique(test.positions))
    if count < 2:
        raise DataError(
            f"{task.where('test')}: a task compares images with each other",
            found=f"{count} image that {task.config.kind} can be measured on", expected="2 or more",
        )  # fmt: skip


def _say_counts(title: str, protocol: TaskProtocol) -> None:
    """State what is measured, left out, cut and unknown before the head is trained, without counts of 0."""
    if is_main():
        shown = (f"{name} {value}" for name, value in protocol.plain().items() if value not in (0, {}))
        say(f"{title}: {', '.join(shown)}", err=True)


def training_of(config: TaskParams, tokenizer: Tokenizer) -> TrainingParams:
    """How the head is trained: by the params' own block, or as the tokenizer, without its options for convolutions."""
    if config.training is not None:
        return config.training
    return tokenizer.config.training.model_copy(update={"channels_last": False, "compile": False})


def own_aligner(tokenizer: Path, clip: Clip | StoredClip) -> Aligner | None:
    """The aligner in a tokenizer's folder, in eval mode; None where it was trained without alignment.

    Raises:
        MismatchError: it was trained with another CLIP. A sentence model that has changed is refused where the head is
            measured: the params of the aligner state its SHA-256.
    """
    stored = load_aligner(tokenizer)
    if stored is None:
        return None
    if stored.aligner.config.text.kind == "clip" and stored.text != clip.id:
        raise MismatchError(
            f"the aligner of {tokenizer} was trained with another CLIP",
            found=stored.text,
            expected=clip.id,
            run=f"dvc repro tokenizer@{tokenizer.name}",
        )
    return stored.aligner


class HeadTraining(Objective):
    """A head over frozen inputs as the training loop takes it: one phase, the task's loss."""

    def __init__(self, task: Task, head: nn.Module, inputs: FrozenInputs) -> None:
        self.module: nn.Module = head
        self.task, self.inputs = task, inputs

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """The weights of layers decay, nothing else does."""
        return decay_groups(self.module, WITH_CONVOLUTIONS)

    def networks(self) -> list[nn.Module]:
        return self.task.networks(self.module)

    def loss(
        self, phase: str, batch: tuple[Tensor, Any], progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        values, own = batch
        return self.task.loss(self.module, self.inputs.quantized(values), own, progress)


def _train(
    task: Task,
    head: nn.Module,
    view: View,
    train: Examples,
    training: TrainingParams,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> TrainingResult:
    """Train a head in place; it is in eval mode afterwards, without gradients.

    Images are encoded once, centre-cropped and not mirrored. Weights, order and draws depend on the params' seed alone,
    not on the tokenizer.
    """
    if len(train) < training.batch_size:
        raise MismatchError(
            "fewer training examples than one batch of the head",
            found=f"{len(train)} examples",
            expected=f"batch_size of {len(train)} or less",
        )
    config = task.config
    inputs = FrozenInputs.encode(view, train.split, train.positions, config.batch_size)
    standardise(head, inputs)
    order = derive(config.seed, "task", "order")
    seed_everything(config.seed, "task", "training", rank())

    def batch_at(step: int) -> tuple[Tensor, Any]:
        # What belongs to the images is drawn for the whole batch, so that it does not depend on the number of ranks.
        rows = epoch_order(len(train), training.batch_size, order, step)
        share = own_share(training.batch_size)
        return inputs.rows(rows[share]), train.batch(rows, step, share)

    fitted = run_training(
        HeadTraining(task, head.train(), inputs), batch_at, training,
        scratch=scratch, curves=curves, device=device, title=title,
    )  # fmt: skip
    head.load_state_dict(fitted.weights)
    head.eval().requires_grad_(False)
    return fitted


def _protocol(task: Task, training: TrainingParams) -> dict[str, Any]:
    """What the numbers depend on besides the images and the tokenizer."""
    return task.recorded() | {
        "version": task.protocol, "crop": "centre", "clip": task.clip_id,
        "training": training.model_dump(mode="json", exclude=SPEED, exclude_none=True),
    }  # fmt: skip


def _per_image(head: str, result: HeadResult, test: Examples) -> list[Row]:
    """Each measure's values, of the examples that have one; see `TASK_PER_IMAGE`."""
    ids = test.ids
    return [
        {"head": head, "measure": name, "image_id": ids[at], "value": float(values[at])}
        for name, values in sorted(result.values.items())
        for at in np.flatnonzero(np.isfinite(values)).tolist()
    ]
