"""`diveq`: the gradient of the error's length, segments, and replacement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import DIM, DIVEQ
from vqpipe.errors import VqpipeError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, build
from vqpipe.quantizers.diveq import DiveqQuantizer

SEGMENTS = {**DIVEQ, "space_filling": True, "noise_variance": 0.0}


def fresh(params: dict[str, Any], points: Tensor | None = None) -> DiveqQuantizer:
    torch.manual_seed(0)
    quantizer = build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]
    assert isinstance(quantizer, DiveqQuantizer)
    if points is not None:
        with torch.no_grad():
            quantizer.points.copy_(points)
    return quantizer


def grid(rows: Tensor) -> Tensor:
    return rows.T[None, :, :, None]


def rows_of(z: Tensor) -> Tensor:
    return z[0, :, :, 0].T


def test_without_noise_the_code_gets_the_part_along_the_error_and_z_the_rest() -> None:
    points, z, weight = torch.randn(16, DIM), torch.randn(40, DIM, requires_grad=True), torch.randn(40, DIM)
    quantizer = fresh({**DIVEQ, "noise_variance": 0.0}, points)
    out = quantizer(grid(z))
    index = torch.cdist(z.detach(), points).argmin(1)
    assert torch.equal(out.indices.flatten(), index)
    torch.testing.assert_close(rows_of(out.z_q), points[index])
    assert out.loss == 0
    (rows_of(out.z_q) * weight).sum().backward()
    u = torch.nn.functional.normalize(points[index] - z.detach(), dim=1)
    along = u * (u * weight).sum(1, keepdim=True)
    torch.testing.assert_close(z.grad, weight - along)
    torch.testing.assert_close(quantizer.points.grad, torch.zeros(16, DIM).index_add(0, index, along))


def test_noise_turns_the_error_and_keeps_its_length() -> None:
    points, z = torch.randn(16, DIM), torch.randn(2000, DIM)
    out = fresh({**DIVEQ, "noise_variance": 0.04}, points)(grid(z))
    error = points[out.indices.flatten()] - z
    found = rows_of(out.z_q).detach() - z
    torch.testing.assert_close(found.norm(dim=1), error.norm(dim=1))
    # The noise across the error, of DIM - 1 dimensions, in units of the noisy length.
    across = torch.cosine_similarity(found, error).acos().tan() * error.norm(dim=1)
    assert across.square().mean().item() == pytest.approx(0.04 * (DIM - 1), rel=0.2)


def test_a_segment_is_the_one_whose_drawn_place_is_nearest_and_z_q_is_that_place() -> None:
    points, z = torch.randn(17, DIM), torch.randn(50, DIM, requires_grad=True)
    quantizer = fresh(SEGMENTS, points)
    torch.manual_seed(5)
    t = torch.rand(16, 1)
    torch.manual_seed(5)
    out = quantizer(grid(z))
    places = points[:-1] * (1 - t) + points[1:] * t
    index = torch.cdist(z.detach(), places).argmin(1)
    assert torch.equal(out.indices.flatten(), index)
    torch.testing.assert_close(rows_of(out.z_q), places[index])
    weight = torch.randn(50, DIM)
    (rows_of(out.z_q) * weight).sum().backward()
    z_grad, points_grad = weight.clone(), torch.zeros_like(points)
    for end, share in ((0, 1 - t), (1, t)):
        u = torch.nn.functional.normalize(points[index + end] - z.detach(), dim=1)
        along = share[index] * u * (u * weight).sum(1, keepdim=True)
        z_grad -= along
        points_grad.index_add_(0, index + end, along)
    torch.testing.assert_close(z.grad, z_grad)
    torch.testing.assert_close(quantizer.points.grad, points_grad)


def test_in_eval_a_segment_is_its_middle_and_every_index_has_one() -> None:
    points = torch.randn(17, DIM)
    quantizer = fresh({**SEGMENTS, "noise_variance": 0.5}, points).eval()
    middles = (points[:-1] + points[1:]) / 2
    assert quantizer.num_codes == (16,)
    out = quantizer(grid(middles))
    assert out.indices.flatten().tolist() == list(range(16))
    torch.testing.assert_close(rows_of(out.z_q), middles)
    torch.testing.assert_close(quantizer.codebooks()[0].vectors, middles)


def test_points_start_as_means_of_parts_of_the_batch_in_order_and_as_latents_where_it_is_small() -> None:
    z = torch.randn(17 * 3 + 2, DIM)
    quantizer = fresh({**SEGMENTS, "init": "data"})
    quantizer.initialise(grid(z))
    torch.testing.assert_close(quantizer.points.detach(), z[:51].view(17, 3, DIM).mean(1))
    quantizer = fresh({**SEGMENTS, "init": "data"})
    quantizer.initialise(grid(z[:10]))
    assert (torch.cdist(z[:10], quantizer.points.detach()).min(1).values < 1e-5).all()


def test_codes_that_are_hardly_used_become_used_ones_moved_a_little() -> None:
    points = torch.cat([torch.randn(2, DIM), torch.full((14, DIM), 50.0)])
    how = {"every": 4, "threshold": 0.5, "spread": 1e-3}
    quantizer = fresh({**DIVEQ, "replacement": how}, points)
    often, seldom = points[:1].expand(3, DIM), points[1:2]
    for number in range(4):
        assert torch.equal(quantizer.points.detach(), points)
        quantizer(grid(torch.cat([often, seldom]) if number == 0 else often))
    assert torch.equal(quantizer.points[0].detach(), points[0])  # in all passes; the second in one of four
    near = (quantizer.points.detach()[1:] - points[0]).abs().max().item()
    assert 0 < near < 5 * 1e-3 * points.std(0, correction=0).max().item()
    assert not quantizer.uses.any()
    assert quantizer.passes == 4


def test_codes_stay_where_none_or_all_are_used_enough() -> None:
    how = {"every": 1, "threshold": 1.0, "spread": 1.0}
    points = torch.randn(16, DIM)
    quantizer = fresh({**DIVEQ, "replacement": how}, points)
    quantizer(grid(points))
    assert torch.equal(quantizer.points.detach(), points)
    quantizer.eval()(grid(points[:1]))
    assert quantizer.passes == 1


def test_a_copy_of_the_state_counts_on_to_the_same_replacement() -> None:
    how = {"every": 4, "threshold": 0.5, "spread": 0.1}
    params = {**DIVEQ, "replacement": how}
    first, other = fresh(params, torch.randn(16, DIM)), fresh(params)
    z = torch.randn(4, 3, DIM)
    for number in range(3):
        first(grid(z[number]))
    before = first.points.detach().clone()
    other.load_state_dict(first.state_dict())
    for quantizer in (first, other):
        torch.manual_seed(9)
        quantizer(grid(z[3]))
    assert not torch.equal(first.points, before)
    assert torch.equal(first.points, other.points)


def test_segments_and_replacement_are_refused_together() -> None:
    how = {"every": 100, "threshold": 0.01, "spread": 0.1}
    with pytest.raises(VqpipeError, match="replacement: null"):
        validate({**SEGMENTS, "replacement": how}, "quantizer", AnyQuantizer)  # type: ignore[arg-type]


def test_the_reconstruction_alone_brings_codes_to_latents() -> None:
    centres = torch.randn(8, DIM) * 3
    z = centres.repeat(20, 1) + torch.randn(160, DIM) * 0.1
    quantizer = fresh({**DIVEQ, "num_codes": 8, "noise_variance": 1e-3}, centres + torch.randn(8, DIM))
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    before = quantizer(grid(z)).terms["distance"]
    for _ in range(100):
        optimiser.zero_grad()
        (rows_of(quantizer(grid(z)).z_q) - z).square().mean().backward()
        optimiser.step()
    assert quantizer(grid(z)).terms["distance"] < 0.05 * before
