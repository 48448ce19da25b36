"""Where each loss's gradient lands and with what weight, against the formula written out.

With n rows of dimension d and code e_k of row i, the commitment w |z - sg(e)|^2 gives row i the gradient
2 w (z_i - e_k) / (n d), and the codebook term v |sg(z) - e|^2 gives code k the sum over its rows of
2 v (e_k - z_i) / (n d).

At the end: the rotation trick against the rotation as an explicit matrix.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import CVQ, DIM, EMA, FC, LC, REG_VQ, SIM_VQ, VQ, VQCT, patches, residual, words
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantized, build
from vqpipe.quantizers.estimators import rotation
from vqpipe.quantizers.nearest import NearestCodeQuantizer

N = 2 * 3 * 5
ORDERS = [("commitment", 0.3, 1.0), ("codebook", 1.0, 0.3)]
"""beta_on, and the weights of commitment and codebook term at beta 0.3."""
orders = pytest.mark.parametrize(("beta_on", "commitment", "codebook"), ORDERS)


def passed(params: dict[str, Any], codebook: Any = None) -> tuple[NearestCodeQuantizer, Tensor, Quantized]:
    """A quantizer with codes that are spread out, latents, and one pass whose loss has gone backwards."""
    from vqpipe.quantizers import build

    torch.manual_seed(0)
    quantizer = build(validate(params, "quantizer", AnyQuantizer), codebook).train()  # type: ignore[arg-type]
    assert isinstance(quantizer, NearestCodeQuantizer)
    if "codes" in quantizer.state_dict():
        with torch.no_grad():
            quantizer.state_dict()["codes"].copy_(torch.randn(params["num_codes"], DIM))
    z = torch.randn(2, DIM, 3, 5, requires_grad=True)
    out = quantizer(z)
    out.loss.backward()
    return quantizer, z, out


def rows(z: Tensor | None) -> Tensor:
    assert z is not None
    return z.detach().permute(0, 2, 3, 1).reshape(-1, z.shape[1])


def on_latents(z: Tensor, out: Quantized, weight: float) -> Tensor:
    """Commitment's gradient of one group's rows."""
    return 2 * weight * (rows(z) - out.vectors[0].detach()[out.indices.flatten()]) / (N * DIM)


def on_codes(z: Tensor, codes: Tensor, indices: Tensor, weight: float) -> Tensor:
    """The codebook term's gradient of a group's codes, code by code."""
    latents, codes, grad = rows(z), codes.detach(), torch.zeros_like(codes)
    for row, k in zip(latents, indices.flatten().tolist(), strict=True):
        grad[k] += 2 * weight * (codes[k] - row) / latents.numel()
    return grad


def close(a: Tensor | None, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@orders
def test_vq(beta_on: str, commitment: float, codebook: float) -> None:
    quantizer, z, out = passed({**VQ, "beta": 0.3, "beta_on": beta_on})
    close(rows(z.grad), on_latents(z, out, commitment))
    close(quantizer.get_parameter("codes").grad, on_codes(z, out.vectors[0], out.indices, codebook))


def test_ema_moves_the_encoder_alone() -> None:
    quantizer, z, out = passed({**EMA, "beta": 0.3})
    close(rows(z.grad), on_latents(z, out, 0.3))
    assert not list(quantizer.parameters())
    assert not out.vectors[0].requires_grad


@orders
def test_fc_without_normalisation_is_vq(beta_on: str, commitment: float, codebook: float) -> None:
    changes = {"beta": 0.3, "beta_on": beta_on}
    quantizer, z, out = passed({**FC, "normalise": False, **changes})
    other, same_z, same = passed({**VQ, **changes})
    assert torch.equal(z, same_z)
    assert torch.equal(out.indices, same.indices)
    assert torch.equal(out.z_q, same.z_q)
    assert torch.equal(rows(z.grad), rows(same_z.grad))
    assert torch.equal(quantizer.get_parameter("codes").grad, other.get_parameter("codes").grad)  # type: ignore[arg-type]


@orders
def test_fc_on_the_sphere(beta_on: str, commitment: float, codebook: float) -> None:
    quantizer, z, out = passed({**FC, "beta": 0.3, "beta_on": beta_on})

    def through_normalisation(raw: Tensor, grad: Tensor) -> Tensor:
        """(I - u u^T) / |raw| times the gradient of u = raw / |raw|."""
        length = raw.norm(dim=1, keepdim=True)
        u = raw / length
        return (grad - u * (u * grad).sum(1, keepdim=True)) / length

    sphere = torch.nn.functional.normalize(z.detach(), dim=1)
    close(rows(z.grad), through_normalisation(rows(z), on_latents(sphere, out, commitment)))
    codes = quantizer.get_parameter("codes")
    grad = on_codes(sphere, out.vectors[0], out.indices, codebook)
    close(codes.grad, through_normalisation(codes.detach(), grad))


@orders
def test_cvq_is_trained_at_the_codes_as_they_were(beta_on: str, commitment: float, codebook: float) -> None:
    quantizer, z, out = passed({**CVQ, "beta": 0.3, "beta_on": beta_on})
    codes = quantizer.get_parameter("codes")
    assert not torch.equal(codes, out.vectors[0])  # they have moved since
    close(rows(z.grad), on_latents(z, out, commitment))
    close(codes.grad, on_codes(z, out.vectors[0], out.indices, codebook))


def test_the_contrastive_term_of_cvq_moves_codes_alone() -> None:
    contrastive = {"weight": 0.5, "temperature": 0.7}
    quantizer, z, out = passed({**CVQ, "contrastive": contrastive})
    close(rows(z.grad), on_latents(z, out, 0.25))
    codes = out.vectors[0].detach().requires_grad_()
    total = torch.zeros(())
    for code in codes:
        scores = (-(rows(z) - code).square().sum(1)).sort().values / 0.7
        positive = scores[-(N // len(codes)) :].mean()
        total = total - positive + torch.cat([positive[None], scores[: N // 2]]).logsumexp(0)
    mean = total / len(codes)
    torch.testing.assert_close(out.terms["contrastive"], mean.detach())
    mean.backward()
    assert codes.grad is not None
    expected = 0.5 * codes.grad + on_codes(z, codes, out.indices, 1.0)
    torch.testing.assert_close(quantizer.get_parameter("codes").grad, expected, rtol=1e-3, atol=1e-5)


@orders
def test_reg_vq_adds_the_divergence_from_even_use(beta_on: str, commitment: float, codebook: float) -> None:
    quantizer, z, out = passed({**REG_VQ, "beta": 0.3, "beta_on": beta_on, "prior_weight": 0.2})
    latents, codes = rows(z).double().requires_grad_(), out.vectors[0].detach().double().requires_grad_()
    mean = (-torch.cdist(latents, codes).square() / 0.5).softmax(1).mean(0)  # 0.5: the temperature at the end
    uniform = torch.full_like(mean, 1 / len(codes))
    divergence = (uniform * (uniform / mean).log()).sum()
    divergence.backward()
    torch.testing.assert_close(out.terms["prior"].double(), divergence.detach(), rtol=1e-5, atol=0)
    assert latents.grad is not None
    assert codes.grad is not None
    close(rows(z.grad), 0.2 * latents.grad.float() + on_latents(z, out, commitment))
    expected = 0.2 * codes.grad.float() + on_codes(z, out.vectors[0], out.indices, codebook)
    close(quantizer.get_parameter("codes").grad, expected)


@orders
@pytest.mark.parametrize("kind", ["lc", "sim_vq"])
def test_a_linear_map_gets_the_gradient_of_all_codes(
    kind: str, beta_on: str, commitment: float, codebook: float
) -> None:
    changes = {"beta": 0.3, "beta_on": beta_on}
    if kind == "lc":
        quantizer, z, out = passed({**LC, **changes}, patches())
        name, frozen = "projector", quantizer.get_buffer("centroids")
    else:
        quantizer, z, out = passed({**SIM_VQ, **changes, "bias": True})
        name, frozen = "map", quantizer.get_buffer("frozen")
    close(rows(z.grad), on_latents(z, out, commitment))
    grad = on_codes(z, out.vectors[0], out.indices, codebook)
    close(quantizer.get_parameter(f"{name}.weight").grad, grad.T @ frozen)
    close(quantizer.get_parameter(f"{name}.bias").grad, grad.sum(0))
    assert {n for n, _ in quantizer.named_parameters()} == {f"{name}.weight", f"{name}.bias"}


@orders
def test_vqct_sums_the_losses_of_its_halves(beta_on: str, commitment: float, codebook: float) -> None:
    quantizer, z, out = passed({**VQCT, "beta": 0.3, "beta_on": beta_on}, words())
    grads = []
    for group, (half, codes) in enumerate(zip(z.chunk(2, 1), out.vectors, strict=True)):
        indices = out.indices[:, group]
        chosen = codes.detach()[indices.flatten()]
        expected = 2 * commitment * (rows(half) - chosen) / (N * DIM / 2)
        assert z.grad is not None
        close(rows(z.grad.chunk(2, 1)[group]), expected)
        grads.append(on_codes(half, codes, indices, codebook))
    # On from the codes to the transfer network, which both halves train.
    parameters = dict(quantizer.named_parameters())
    expected_grads = torch.autograd.grad(quantizer.live_codes(), list(parameters.values()), grads)
    for (name, parameter), grad in zip(parameters.items(), expected_grads, strict=True):
        assert name.startswith("transfer.")
        close(parameter.grad, grad)


@pytest.mark.parametrize(
    ("params", "codebook"),
    [(VQ, None), (EMA, None), (CVQ, None), (SIM_VQ, None), (LC, patches()), (VQCT, words())],
    ids=["vq", "ema", "cvq", "sim_vq", "lc", "vqct"],
)
def test_beta_zero_takes_the_commitment_away(params: dict[str, Any], codebook: Any) -> None:
    _, z, out = (
        passed({**params, "beta": 0.0}, codebook) if params is not EMA else passed({**params, "beta": 0.0})
    )
    assert z.grad is not None
    assert not z.grad.any()
    assert (out.loss > 0) == (params is not EMA)


# the rotation trick


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
