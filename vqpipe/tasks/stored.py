"""A task's trained head in its artifact, and how it is read again.

task, head = load_head(Path("artifacts/task/lc-captioning"), tokenizer, clip)
seen = head.see(images)  # uint8 RGB of shape (b, 3, r, r)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from vqpipe.artifacts.intact import reads_whole
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.task import HEAD_WEIGHTS, TASK
from vqpipe.artifacts.tensors import check_tensors, read_tensors, write_tensors
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.metrics.floors import PatchKmeans
from vqpipe.params.base import validate
from vqpipe.quantizers.contract import Quantized
from vqpipe.tasks import TASKS
from vqpipe.tasks.inputs import PatchCodes, View, view_of
from vqpipe.tasks.task import Task, TaskParams
from vqpipe.tokenizers.identity import identity_text, tokenizer_identity
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip, StoredClip

HEAD = "head.safetensors"
CENTROIDS = "view.centroids"


@dataclass(frozen=True)
class FreshHead:
    """A head that was trained on a frozen input."""

    network: nn.Module
    """In eval mode."""
    known: Mapping[str, Any]
    """What it is built from, as `Task.known`."""
    view: View
    """What it sees of an image."""

    @torch.no_grad()
    def see(self, images: UInt8[Tensor, "b 3 r r"]) -> Quantized:
        """What the head sees of images of the tokenizer's resolution, on the tokenizer's device."""
        values = self.view.values(images).to(self.view.tokenizer.device)
        return self.view.quantized(values if values.is_floating_point() else values.long())


def write_head(folder: Path, task: Task, head: FreshHead) -> None:
    """Write a head into a task's folder; the same bytes for equal content."""
    view, tensors = head.view, dict(head.network.state_dict())
    facts: dict[str, Any] = {
        "params": task.stored_params(), "known": dict(head.known), "view": view.name,
        "space": asdict(view.space), "resolution": task.resolution,
        "tokenizer": tokenizer_identity(view.tokenizer), "clip": task.clip_id,
    }  # fmt: skip
    if isinstance(view, PatchCodes):
        tensors[CENTROIDS], facts["wanted"] = view.codebook.centroids, view.codebook.wanted
    write_tensors(folder / HEAD, HEAD_WEIGHTS, tensors, facts)


def read_task_params(folder: Path) -> TaskParams:
    """The params that a task was solved with.

    Raises:
        ArtifactError: no task artifact there, or a damaged one.
    """
    read_manifest(folder, TASK)
    facts = check_tensors(folder / HEAD, HEAD_WEIGHTS).facts
    found: TaskParams = validate(facts["params"], "params", TASKS.params(), str(folder))
    return found


@reads_whole
def load_head(folder: Path, tokenizer: Tokenizer, clip: Clip | StoredClip) -> tuple[Task, FreshHead]:
    """A task and its head, in eval mode and without gradients, on the tokenizer's device.

    Args:
        folder: a task artifact.
        tokenizer: the one that it was solved from, in eval mode.
        clip: the CLIP of that run, on the same device.

    Raises:
        ArtifactError: no task artifact there, a damaged one, or weights that do not fit the params.
        MismatchError: another tokenizer or CLIP.
    """
    read_manifest(folder, TASK)
    tensors, facts = read_tensors(folder / HEAD, HEAD_WEIGHTS)
    for what, own in (("tokenizer", tokenizer_identity(tokenizer)), ("clip", clip.id)):
        if facts[what] != own:
            shown = [identity_text(one) if isinstance(one, dict) else one for one in (own, facts[what])]
            raise MismatchError(f"{folder} was solved with another {what}", found=shown[0], expected=shown[1])
    config = validate(facts["params"], "params", TASKS.params(), str(folder))
    task = TASKS[config.kind](config, folder, clip, facts["resolution"], None)
    if (centroids := tensors.pop(CENTROIDS, None)) is not None:
        view: View = PatchCodes(tokenizer, PatchKmeans(centroids, tokenizer.grid, facts["wanted"]))
    else:
        view = view_of(config.input, tokenizer, clip)
    network = task.head(view.space, facts["known"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArtifactError(f"{folder}: the weights do not fit the head's params: {error}") from error
    network.to(tokenizer.device).eval().requires_grad_(False)
    return task, FreshHead(network, facts["known"], view)
