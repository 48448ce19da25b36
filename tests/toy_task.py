"""A task of its own, as a newcomer would write it: the class of an image, by a linear probe on its mean code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vqpipe.artifacts.metrics import Metrics
from vqpipe.metrics.measured import Interval
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.seeds import derive
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.task import Examples, HeadResult, Task, TaskMetrics, TaskParams


class ClassLabelParams(TaskParams):
    """A linear probe for the class label."""

    kind: Literal["class_label"]
    """The task."""


class ClassLabelMetrics(Metrics):
    """Accuracy of the probe, in [0, 1]."""

    accuracy: Interval
    """Share of the test images whose class is predicted; higher is better."""
    commonest: float
    """The same for the training images' most frequent class."""


class ClassLabel(Task):
    """The task; all classes of the training split."""

    kind, Params, Metrics = "class_label", ClassLabelParams, TaskMetrics[ClassLabelMetrics]

    def examples(self, split: str) -> Examples:
        images, positions = self.images(split)
        return Examples(images, positions, targets=torch.from_numpy(images.labels[positions]))

    def known(self, train: Examples) -> dict[str, Any]:
        return {"num_classes": int(train.targets.max()) + 1}

    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.config.seed, "head"))
            return nn.Linear(space.dim, known["num_classes"])

    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        return cross_entropy(head(inputs.z_q.mean(dim=(2, 3))), batch), {}

    def answers(
        self, head: nn.Module, known: Mapping[str, Any], seen: Quantized, texts: Sequence[str]
    ) -> list[str]:
        return [f"class {label}" for label in head(seen.z_q.mean(dim=(2, 3))).argmax(dim=1).tolist()]

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        seen = (quantized.z_q.mean(dim=(2, 3)) for _, quantized in self.batches(inputs))
        found = torch.cat([head(codes).argmax(dim=1).cpu() for codes in seen])
        right = (found == test.targets).double().numpy()
        commonest = np.bincount(train.targets.numpy()).argmax()
        metrics = ClassLabelMetrics(
            accuracy=self.config.interval(right), commonest=float((test.targets.numpy() == commonest).mean())
        )
        return HeadResult(metrics, {"accuracy": right})
