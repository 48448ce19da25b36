from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqpipe.errors import MismatchError
from vqpipe.metrics.boxes import box_scores, grounding_loss, paired_iou, to_corners


def boxes(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@given(st.lists(st.tuples(*[st.floats(0.01, 0.99)] * 8), min_size=1, max_size=130))
def test_iou_of_pairs_is_the_area_of_the_intersection_over_the_union(rows: list[tuple[float, ...]]) -> None:
    both = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2, 2, 2)
    corners = torch.cat([both.min(dim=2).values, both.max(dim=2).values + 0.01], dim=-1)
    found = paired_iou(corners[:, 0], corners[:, 1])
    for value, ((ax, ay, bx, by), (cx, cy, dx, dy)) in zip(found.tolist(), corners.tolist(), strict=True):
        inside = max(min(bx, dx) - max(ax, cx), 0) * max(min(by, dy) - max(ay, cy), 0)
        union = (bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - inside
        assert value == pytest.approx(inside / union, abs=1e-12)


def test_giou_is_negative_for_boxes_apart() -> None:
    loss = grounding_loss(boxes([0.125, 0.5, 0.25, 1.0]), boxes([0.875, 0.5, 0.25, 1.0]), 0.0, 1.0)
    assert 1 - float(loss) == pytest.approx(-0.5)


def test_a_prediction_is_cut_at_the_image_and_the_truth_is_not() -> None:
    scores = box_scores(boxes([-1.0, 0.0, 0.5, 1.0]), boxes([0.0, 0.0, 0.5, 1.0]))
    assert scores.iou.tolist() == [1.0]
    assert box_scores(boxes([0.0, 0.0, 1.0, 1.0]), boxes([0.0, 0.0, 2.0, 1.0])).iou.tolist() == [0.5]


@pytest.mark.parametrize("wrong", [[0.6, 0.6, 0.2, 0.2], [0.5, 0.1, 0.5, 0.9], [2.0, 2.0, 3.0, 3.0]])
def test_swapped_corners_no_area_and_a_box_outside_overlap_nothing(wrong: list[float]) -> None:
    scores = box_scores(boxes(wrong), boxes([0.1, 0.1, 0.9, 0.9]))
    assert scores.iou.tolist() == [0.0]
    assert scores.is_found.tolist() == [False]


def test_two_boxes_without_area_have_finite_values() -> None:
    point = boxes([0.5, 0.5, 0.5, 0.5])
    assert paired_iou(point, point).tolist() == [0.0]
    still = boxes([0.5, 0.5, 0.0, 0.0])
    assert torch.isfinite(grounding_loss(still, still, 0.0, 1.0))


def test_scores_of_no_boxes_are_empty() -> None:
    empty = torch.zeros(0, 4)
    assert len(box_scores(empty, empty).iou) == 0


def test_the_loss_is_zero_for_equal_boxes_and_has_a_gradient_for_others() -> None:
    target = boxes([0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.1, 0.1])
    assert float(grounding_loss(target, target, 1.0, 1.0)) == pytest.approx(0.0, abs=1e-9)
    moved = (target + 0.3).requires_grad_()
    loss = grounding_loss(moved, target, 5.0, 2.0)
    (slope,) = torch.autograd.grad(loss, moved)
    assert math.isfinite(float(loss.detach()))
    assert torch.isfinite(slope).all()
    assert (slope != 0).all()


def test_a_box_of_size_zero_has_a_finite_loss_and_gradient() -> None:
    point = torch.tensor([[0.5, 0.5, 0.0, 0.0]], requires_grad=True)
    loss = grounding_loss(point, torch.tensor([[0.5, 0.5, 0.2, 0.2]]), 1.0, 1.0)
    (slope,) = torch.autograd.grad(loss, point)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()


def test_corners_of_a_centre_and_a_size() -> None:
    assert to_corners(boxes([0.5, 0.5, 0.5, 1.0])).tolist() == [[0.25, 0.0, 0.75, 1.0]]


@pytest.mark.parametrize(
    ("predicted", "target"),
    [
        (torch.zeros(2, 4), torch.zeros(3, 4)),
        (torch.zeros(2, 5), torch.zeros(2, 5)),
        (torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.float64)),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64)),
    ],
)
def test_batches_that_are_no_pairs_of_boxes_are_refused(
    predicted: torch.Tensor, target: torch.Tensor
) -> None:
    with pytest.raises(MismatchError, match="found:"):
        box_scores(predicted, target)
    with pytest.raises(MismatchError, match="expected:"):
        grounding_loss(predicted, target, 1.0, 1.0)


def test_the_loss_of_no_boxes_is_refused() -> None:
    with pytest.raises(MismatchError, match="0 boxes"):
        grounding_loss(torch.zeros(0, 4), torch.zeros(0, 4), 1.0, 1.0)
