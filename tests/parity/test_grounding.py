"""Boxes and their loss against recorded numbers of TransVG (tests/data/README.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vqpipe.metrics.boxes import box_scores, grounding_loss, paired_iou, to_corners

RECORDED = dict(np.load(Path(__file__).parent.parent / "data/parity/grounding.npz", allow_pickle=False))


def recorded(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(RECORDED[name]).to(dtype)


PRECISIONS = pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])


@PRECISIONS
def test_the_loss_and_its_two_terms_are_the_recorded_ones(dtype: torch.dtype, rtol: float) -> None:
    predicted, target = recorded("pred_cxcywh", dtype), recorded("gt_cxcywh", dtype)
    for weights, name in (((1.0, 0.0), "loss_bbox"), ((0.0, 1.0), "loss_giou"), ((1.0, 1.0), "loss_total")):
        torch.testing.assert_close(
            grounding_loss(predicted, target, *weights), recorded(name, dtype), rtol=rtol, atol=0.0
        )


@PRECISIONS
def test_iou_and_giou_of_pairs_are_the_recorded_ones(dtype: torch.dtype, rtol: float) -> None:
    predicted, target = recorded("pred_cxcywh", dtype), recorded("gt_cxcywh", dtype)
    every = torch.arange(len(target))
    for shift in range(len(target)):
        rows = every.roll(-shift)
        iou = paired_iou(to_corners(predicted), to_corners(target[rows]))
        losses = [grounding_loss(predicted[at : at + 1], target[rows[at : at + 1]], 0.0, 1.0) for at in every]
        for found, name in ((iou, "pairwise_iou"), (1 - torch.stack(losses), "giou_pairwise")):
            torch.testing.assert_close(found, recorded(name, dtype)[every, rows], rtol=rtol, atol=rtol)


def test_mean_iou_and_accuracy_are_the_recorded_ones() -> None:
    scores = box_scores(recorded("pred_xyxy"), to_corners(recorded("gt_cxcywh")))
    torch.testing.assert_close(scores.iou, recorded("eval_iou"), rtol=1e-6, atol=1e-12)
    assert float(scores.iou.mean()) == pytest.approx(float(RECORDED["eval_mean_iou"]), rel=1e-6)
    assert float(scores.is_found.double().mean()) == float(RECORDED["eval_acc50"])
    assert int(scores.is_found.sum()) == int(RECORDED["eval_test_count50"])
