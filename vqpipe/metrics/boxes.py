"""Boxes of grounding: overlap, accuracy and the loss. `torchvision.ops` computes IoU and GIoU.

Boxes of measures are corners (x1, y1, x2, y2), those of the loss centres and sizes (x, y, width, height) as in TransVG
(Deng et al., 2021); both are shares of the image, 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vqpipe.errors import MismatchError

Boxes = Float[Tensor, "n 4"]

MIN_IOU = 0.5
"""IoU from which a box counts as found, in Acc@0.5 (Mao et al., 2016)."""

_TILE = 64
"""Boxes whose IoU with each other is computed at once, of which the diagonal is used."""
_NO_AREA = 1e-12
"""Added to areas below a fraction bar, so that two boxes without area have no NaN."""


@dataclass(frozen=True)
class BoxScores:
    """Scores of each predicted box. Their means are mean IoU and Acc@0.5."""

    iou: Float64[Tensor, " n"]
    is_found: Bool[Tensor, " n"]


def paired_iou(boxes: Boxes, others: Boxes) -> Float[Tensor, " n"]:
    """IoU of each box with the one in the same row of `others`, corners, 0..1; 0 where both have no area.

    Raises:
        MismatchError: not two floating batches (n, 4) of one length and dtype.
    """
    from torchvision.ops import box_iou

    _check(boxes, others)
    if len(boxes) == 0:
        return boxes.new_zeros(0)
    parts = zip(torch.split(boxes, _TILE), torch.split(others, _TILE), strict=True)
    return torch.cat([box_iou(own, other).diagonal() for own, other in parts]).nan_to_num(0.0)


def box_scores(predicted: Boxes, truth: Boxes) -> BoxScores:
    """IoU of each predicted box with the true one, and whether it is at least `MIN_IOU`.

    Corners; those of the prediction are first clamped to the image, those of the truth are not (as in TransVG's
    evaluation). A prediction whose corners are swapped, or that has no area, overlaps nothing.

    Raises:
        MismatchError: as `paired_iou`.
    """
    _check(predicted, truth)
    inside = predicted.double().clamp(0.0, 1.0)
    iou = paired_iou(inside, truth.double())
    iou = torch.where((inside[:, 2:] > inside[:, :2]).all(dim=1), iou, torch.zeros_like(iou))
    return BoxScores(iou, iou >= MIN_IOU)


def to_corners(boxes: Boxes) -> Boxes:
    """Centres and sizes as corners."""
    from torchvision.ops import box_convert

    return box_convert(boxes, "cxcywh", "xyxy")


def grounding_loss(
    predicted: Boxes, target: Boxes, l1_weight: float, giou_weight: float
) -> Float[Tensor, ""]:
    """L1 of centres and sizes, summed over the four, plus 1 - GIoU; mean over boxes (TransVG's code; weights 1 and 1).

    Args:
        predicted: centres and sizes, 0..1; a network's sigmoid. Nothing is clamped.
        target: the true boxes, likewise.

    Raises:
        MismatchError: as `paired_iou`, or no boxes.
    """
    from torch.nn.functional import l1_loss
    from torchvision.ops import generalized_box_iou_loss

    _check(predicted, target)
    if len(predicted) == 0:
        raise MismatchError("the loss of boxes is a mean over boxes", found="0 boxes", expected="at least 1")
    giou = generalized_box_iou_loss(to_corners(predicted), to_corners(target), "mean", _NO_AREA)
    return l1_weight * l1_loss(predicted, target, reduction="sum") / len(predicted) + giou_weight * giou


def _check(boxes: Tensor, others: Tensor) -> None:
    right = boxes.shape == others.shape and boxes.ndim == 2 and boxes.shape[1] == 4
    if not right or not boxes.is_floating_point() or boxes.dtype != others.dtype:
        raise MismatchError(
            "boxes are compared in pairs",
            found=f"{boxes.dtype} {tuple(boxes.shape)} and {others.dtype} {tuple(others.shape)}",
            expected="two floating batches (n, 4) of one dtype",
        )
