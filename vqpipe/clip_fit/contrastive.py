"""A small CLIP in training: symmetric InfoNCE of images and captions (Radford et al. 2021, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from vqpipe.engine.trainable import NoHooks
from vqpipe.vision.towers import encode_ids


@dataclass(frozen=True)
class Pairs:
    """One batch: normalised images of the tower's size and the token ids of one caption each."""

    images: Float[Tensor, "b 3 s s"]
    ids: Int[Tensor, "b t"]


class ContrastiveFit(NoHooks):
    """A `Trainable` with one phase, `main`.

    With several ranks, the features of all ranks stand against each other, so that the loss is that of the
    global batch.
    """

    phases: tuple[str, ...] = ("main",)

    def __init__(self, model: nn.Module, max_logit_scale: float) -> None:
        self.module = model
        self.max_log_scale = float(torch.tensor(max_logit_scale).log())

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        """Matrices decay; gains, biases, embeddings and the temperature do not."""
        decay: list[nn.Parameter] = []
        keep: list[nn.Parameter] = []
        for name, parameter in self.module.named_parameters():
            (keep if parameter.ndim < 2 or "embedding" in name else decay).append(parameter)
        return [{"params": decay}, {"params": keep, "weight_decay": 0.0}]

    def active(self, phase: str, progress: float) -> bool:
        return True

    def networks(self) -> list[nn.Module]:
        """The towers' blocks."""
        return [self.module.visual.transformer, self.module.transformer]  # type: ignore[list-item, union-attr]

    def loss(self, phase: str, batch: Pairs, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """InfoNCE, and the accuracy of picking a batch's own caption for each image."""
        image = normalize(self.module.encode_image(batch.images), dim=-1)  # type: ignore[operator]
        text = normalize(encode_ids(self.module, batch.ids), dim=-1)
        image, text, ids = _gather(image), _gather(text), _gather(batch.ids)
        scale = self.module.logit_scale.clamp(max=self.max_log_scale).exp()  # type: ignore[operator]
        loss, accuracy = info_nce(image, text, scale, same_text(ids))
        return loss, {"accuracy": accuracy, "temperature": 1 / scale.detach()}


def info_nce(
    image: Float[Tensor, "b e"],
    text: Float[Tensor, "b e"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "b b"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean of the image-to-text and the text-to-image cross-entropy, and the image-to-text accuracy.

    Args:
        image, text: unit vectors; row i of one belongs to row i of the other.
        scale: inverse temperature.
        same: pairs of rows with the same caption. Off the diagonal they are no negatives, and are left out.
    """
    logits = scale * image @ text.T
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = logits.masked_fill(same & ~own, float("-inf"))
    target = torch.arange(len(image), device=image.device)
    loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    return loss, (logits.detach().argmax(dim=1) == target).float().mean()


def same_text(ids: Int[Tensor, "b t"]) -> Bool[Tensor, "b b"]:
    """Which pairs of rows hold the same token ids."""
    _, groups = torch.unique(ids, dim=0, return_inverse=True)
    return groups[:, None] == groups[None, :]


def _gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, in rank order; gradients flow back to the rank that a row came from."""
    if not dist.is_initialized():
        return rows
    if not rows.requires_grad:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(rows)))  # type: ignore[no-untyped-call]
