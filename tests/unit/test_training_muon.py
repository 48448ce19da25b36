"""Muon: orthogonal steps for the matrices inside a network, AdamW's for all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small_training import make, params, train
from tests.unit.test_training_loop import run
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.models.transformer import StackedLinear, hidden_matrices
from vqpipe.training import muon
from vqpipe.training.checkpoint import load_optimizer, optimizer_tensors
from vqpipe.training.muon import Muon, orthogonalised

RATE, DECAY, BETAS = 0.02, 0.1, (0.9, 0.95)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 12), nn.GELU(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 3))


def descend(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    rng = torch.Generator().manual_seed(1)
    for _ in range(steps):
        model.zero_grad()
        x = torch.randn(32, 5, generator=rng)
        (model(x) - x[:, :3].sin()).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_singular_values_become_about_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float(values.max() / values.min()) > 2
    turned = left.mT @ orthogonalised(matrix) @ right.mT
    assert turned.diagonal().min() > 0.6
    assert turned.diagonal().max() < 1.25
    assert float((turned - torch.diag(turned.diagonal())).abs().max()) < 1e-3


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert not orthogonalised(torch.zeros(3, 4)).any()


def test_it_takes_the_steps_of_torch_s_muon_and_of_adamw() -> None:
    ours, theirs = network(), network()
    groups: list[dict[str, Any]] = [{"params": list(ours.parameters()), "weight_decay": DECAY}]
    middle = theirs[2].weight
    assert isinstance(middle, nn.Parameter)
    others = [p for p in theirs.parameters() if p is not middle]
    peers = [
        torch.optim.Muon([middle], lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=RATE, weight_decay=DECAY, betas=BETAS),
    ]
    descend(ours, [Muon(groups, hidden_matrices([ours[2]]), RATE, BETAS)], 1)
    descend(theirs, peers, 1)
    start = dict(network().named_parameters())
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name != "2.weight":
            assert torch.equal(one, two)
            continue
        kept = start[name].detach() * (1 - RATE * DECAY)
        step, peer = (one - kept).detach(), (two - kept).detach()
        # The peer's is in bfloat16.
        assert float(nn.functional.cosine_similarity(step.flatten(), peer.flatten(), dim=0)) > 0.99
        assert float(step.norm()) == pytest.approx(float(peer.norm()), rel=0.05)
        assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * RATE, rel=0.25)


def test_hidden_matrices_can_have_a_rate_of_their_own() -> None:
    plain, slow = network(), network()
    for model, scale in ((plain, 1.0), (slow, 0.25)):
        groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "weight_decay": DECAY}]
        descend(model, [Muon(groups, hidden_matrices([model[2]]), RATE, BETAS, scale)], 1)
    start = dict(network().named_parameters())
    for (name, one), two in zip(plain.named_parameters(), slow.parameters(), strict=True):
        share = 0.25 if name == "2.weight" else 1.0
        torch.testing.assert_close(two - start[name], share * (one - start[name]), rtol=1e-4, atol=1e-7)
    given = {"optimizer": "muon", "hidden_learning_rate": 1e-3, "learning_rate": 4e-3}
    assert params(training=given).training.hidden_scale == 0.25
    assert params(training={"optimizer": "muon"}).training.hidden_scale == 1.0
    with pytest.raises(ParamsError, match="hidden_learning_rate needs optimizer: muon"):
        params(training={"hidden_learning_rate": 1e-3})


def test_a_kernel_moves_as_a_matrix_with_a_row_per_channel() -> None:
    kernel = nn.Parameter(torch.zeros(4, 3, 2, 2))
    kernel.grad = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    optimizer = Muon([{"params": [kernel], "weight_decay": 0.0}], {kernel: 1}, RATE, BETAS)
    expected = -RATE * 0.2 * 12**0.5 * orthogonalised((0.05 * 0.95 + 0.05) * kernel.grad.flatten(1))
    optimizer.step()
    torch.testing.assert_close(kernel.detach().flatten(1), expected)


def test_each_of_several_stacked_matrices_moves_on_its_own() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6, bias=False) for _ in range(3)]
    stacked = StackedLinear(4, 18, 3, bias=False)
    attention = nn.MultiheadAttention(4, 2)
    assert hidden_matrices([attention]) == {attention.in_proj_weight: 3, attention.out_proj.weight: 1}
    for layer in layers:
        layer.weight.grad = torch.randn(6, 4)
    with torch.no_grad():
        stacked.weight.copy_(torch.cat([layer.weight for layer in layers]))
    stacked.weight.grad = torch.cat([torch.as_tensor(layer.weight.grad) for layer in layers])
    for modules in (layers, [stacked]):
        hidden = hidden_matrices(modules)
        Muon([{"params": list(hidden), "weight_decay": DECAY}], hidden, RATE, BETAS).step()
    assert torch.equal(stacked.weight, torch.cat([layer.weight for layer in layers]))


@pytest.mark.parametrize(
    ("at_once", "expected"), [(1, [1] * 12), (48, [2] * 6), (muon.AT_ONCE["cuda"], [2, 10])]
)
def test_matrices_of_one_shape_move_as_one_batch_as_each_would_alone(
    at_once: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = {(12, 6): 3, (4, 6): 1, (6, 4): 1, (4, 3, 2, 1): 1}
    start = [torch.randn(shape, generator=rng) for shape in shapes] * 2
    gradients = [torch.randn(one.shape, generator=rng) for one in start]
    hidden = {nn.Parameter(one.clone()): shapes[tuple(one.shape)] for one in start}
    for own, gradient in zip(hidden, gradients, strict=True):
        own.grad = gradient
    sizes: list[int] = []
    plain = muon.orthogonalised
    monkeypatch.setitem(muon.AT_ONCE, "cpu", at_once)
    monkeypatch.setattr(muon, "orthogonalised", lambda part: sizes.append(len(part)) or plain(part))
    Muon([{"params": list(hidden), "weight_decay": DECAY}], hidden, RATE, BETAS).step()
    # (4, 6): 2 x 3 + 2 matrices of 24 elements; (6, 4): 2; the kernels, (4, 6) too: 2.
    assert sorted(sizes) == expected
    for own, before, gradient in zip(hidden, start, gradients, strict=True):
        alone = [plain((0.05 * 0.95 + 0.05) * part) for part in gradient.flatten(1).chunk(hidden[own])]
        moved = (1 - RATE * DECAY) * before.flatten(1) - RATE * 0.2 * 6**0.5 * torch.cat(alone)
        torch.testing.assert_close(own.detach().flatten(1), moved, rtol=1e-5, atol=1e-6)


def test_a_model_without_hidden_matrices_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"optimizer is muon(?s:.*)ModuleDict(?s:.*)optimizer: adamw"):
        run(tmp_path, optimizer="muon")
    config = params(training={"optimizer": "muon"})
    assert not make(config).hidden("ae")
    with pytest.raises(MismatchError, match="optimizer: adamw, or a prior"):
        train(config, tmp_path / "tokenizer")


def test_a_gradient_that_overflows_in_fp16_moves_no_matrix() -> None:
    model = network()
    optimizer = Muon(
        [{"params": list(model.parameters()), "weight_decay": 0.0}], hidden_matrices([model[2]]), RATE, BETAS
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scaler.scale(model(torch.full((2, 5), torch.inf)).sum()).backward()  # type: ignore[no-untyped-call]
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert scaler.get_scale() == 0.5


def test_what_a_checkpoint_keeps_gives_the_same_next_step() -> None:
    model = network()
    hidden = hidden_matrices([model[2]])
    optimizer = Muon([{"params": list(model.parameters()), "weight_decay": 0.0}], hidden, RATE, BETAS)
    descend(model, [optimizer], 2)
    state: dict[str, Tensor] = optimizer.state[next(iter(hidden))]
    assert set(state) == {"momentum", "step"}
    again = network()
    same = Muon(
        [{"params": list(again.parameters()), "weight_decay": 0.0}], hidden_matrices([again[2]]), RATE, BETAS
    )
    again.load_state_dict(model.state_dict())
    load_optimizer(
        "main", same, {name: t.clone() for name, t in optimizer_tensors("main", optimizer).items()}
    )
    descend(model, [optimizer], 1)
    descend(again, [same], 1)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
