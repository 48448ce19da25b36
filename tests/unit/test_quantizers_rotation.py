"""The rotation trick against the rotation as an explicit matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.recipes import VQ, residual
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, build
from vqpipe.quantizers.estimators import rotation


def matrix(z: Tensor, q: Tensor) -> Tensor:
    """The rotation in the plane of z and q that takes the direction of z to that of q, by angle, in float64."""
    a, b = (v.double() / v.double().norm() for v in (z, q))
    cosine = (a @ b).clamp(-1, 1)
    side = b - cosine * a
    if side.norm() < 1e-12:
        assert cosine > 0
        return torch.eye(len(a), dtype=torch.float64)
    side = side / side.norm()
    sine = (1 - cosine.square()).sqrt()
    plane = cosine * (torch.outer(a, a) + torch.outer(side, side)) + sine * (
        torch.outer(side, a) - torch.outer(a, side)
    )
    return torch.eye(len(a), dtype=torch.float64) - torch.outer(a, a) - torch.outer(side, side) + plane


@pytest.mark.parametrize("d", [2, 3, 8, 64])
def test_the_gradient_is_turned_as_z_is_turned_into_its_code(d: int) -> None:
    draw = torch.Generator().manual_seed(d)
    z = torch.randn(50, d, generator=draw).requires_grad_()
    q = torch.randn(50, d, generator=draw) * 3
    q[0] = 2 * z.detach()[0]  # parallel
    weight = torch.randn(50, d, generator=draw)
    out = rotation(z, q)
    assert torch.equal(out, q)
    (out * weight).sum().backward()
    assert z.grad is not None
    for row in range(50):
        turn = matrix(z.detach()[row], q[row])
        torch.testing.assert_close(turn @ turn.T, torch.eye(d, dtype=torch.float64))
        scale = q[row].norm().double() / z.detach()[row].norm().double()
        torch.testing.assert_close(
            scale * turn @ z.detach()[row].double(), q[row].double(), rtol=1e-5, atol=1e-5
        )
        expected = scale * turn.T @ weight[row].double()
        torch.testing.assert_close(z.grad[row].double(), expected, rtol=1e-3, atol=1e-4 * float(scale))


def test_no_gradient_reaches_the_code() -> None:
    q = torch.randn(4, 3, requires_grad=True)
    out = rotation(torch.randn(4, 3, requires_grad=True), q)
    out.sum().backward()
    assert q.grad is None


@pytest.mark.parametrize("d", [1, 2, 5])
def test_opposite_vectors_take_some_rotation_by_half_a_turn(d: int) -> None:
    z = torch.randn(20, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    q = -2 * z.detach()
    jacobian = torch.autograd.functional.jacobian(lambda x: rotation(x, q).sum(0), z).movedim(1, 0)
    assert torch.equal(rotation(z, q), q)
    for row in range(20):
        turn = jacobian[row] / 2
        torch.testing.assert_close(turn @ turn.T, torch.eye(d), rtol=0, atol=1e-5)
        torch.testing.assert_close(2 * turn @ z.detach()[row], q[row], rtol=1e-4, atol=1e-5)
        if d > 1:  # on a line there is only the reflection
            assert torch.linalg.det(turn).item() == pytest.approx(1, abs=1e-4)


def test_where_there_is_no_direction_the_gradient_goes_straight_through() -> None:
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [1e-30, 0.0], [3.0, 4.0]]).requires_grad_()
    q = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [-3.0, -4.0]])
    weight = torch.tensor([[1.0, -2.0]]).expand(5, 2)
    out = rotation(z, q)
    assert torch.equal(out, q)
    (out * weight).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert torch.equal(z.grad[:4], weight[:4])


def test_the_angle_between_gradient_and_code_is_kept() -> None:
    z, q, weight = (torch.randn(30, 6) for _ in range(3))
    z.requires_grad_()
    (rotation(z, q) * weight).sum().backward()
    before = torch.cosine_similarity(weight, q)
    torch.testing.assert_close(torch.cosine_similarity(z.grad, z.detach()), before)  # type: ignore[arg-type]


def test_residual_turns_once_from_z_to_the_sum_of_its_stages() -> None:
    torch.manual_seed(0)
    params = residual({**VQ, "estimator": "rotation", "init": "data"}, num_stages=3)
    quantizer = build(validate(params, "quantizer", AnyQuantizer), None).train()  # type: ignore[arg-type]
    z = torch.randn(2, 8, 3, 4, requires_grad=True)
    weight = torch.randn_like(z)
    quantizer.initialise(z)
    out = quantizer(z)
    (out.z_q * weight).sum().backward()
    other = z.detach().movedim(1, -1).requires_grad_()
    (rotation(other, out.z_q.detach().movedim(1, -1)) * weight.movedim(1, -1)).sum().backward()
    assert other.grad is not None
    torch.testing.assert_close(z.grad, other.grad.movedim(-1, 1))
    assert torch.equal(quantizer.decode(out.indices), out.z_q)
