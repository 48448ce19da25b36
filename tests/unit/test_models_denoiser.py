"""The bidirectional network over tokens: what each input changes, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vqpipe.models.conditioning import Attention
from vqpipe.models.denoiser import Denoiser, sinusoid
from vqpipe.runtime.seeds import seed_everything

GRID, TEXT = (2, 3), (4, 5)


def network(num_codes: tuple[int, ...] = (7,), **parts: Any) -> Denoiser:
    """A network whose logits are far from uniform, in eval mode."""
    seed_everything(0, "test")
    made = Denoiser(num_codes, GRID, 16, 2, 2, 0.1, **parts)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def tokens(num_codes: tuple[int, ...] = (7,), count: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(k + 1, (count, 6), generator=rng) for k in num_codes], dim=1)


@pytest.mark.parametrize("num_codes", [(7,), (3, 5)])
def test_every_position_sees_every_other_and_its_mask(num_codes: tuple[int, ...]) -> None:
    model, batch = network(num_codes), tokens(num_codes)
    before = model(batch)
    assert [tuple(one.shape) for one in before] == [(3, 6, k) for k in num_codes]
    for group, k in enumerate(num_codes):
        changed = batch.clone()
        changed[:, group, 5] = torch.where(batch[:, group, 5] == k, 0, k)
        for old, new in zip(before, model(changed), strict=True):
            assert ((old - new).abs().amax(dim=(0, 2)) > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize(
    "parts", [{"num_classes": 3}, {"text_length": TEXT[0], "text_dim": TEXT[1]}], ids=str
)
def test_features_with_and_without_the_condition_from_one_pass(parts: dict[str, int]) -> None:
    made, batch = network(**parts), tokens()
    lengths = torch.tensor([[4], [2], [0]])
    text = {"text": torch.randn(3, *TEXT), "text_mask": torch.arange(4) < lengths}
    given = text if "text_dim" in parts else {"rows": torch.arange(3)}
    found = made.features(batch.repeat(2, 1, 1), **made.with_null(given))
    torch.testing.assert_close(found[:3], made.features(batch, **given), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[3:], made.features(batch), rtol=1e-6, atol=1e-6)
    assert float((found[:2] - found[3:5]).abs().max()) > 1e-2


@torch.no_grad()
def test_a_row_and_a_column_have_their_own_position() -> None:
    same = torch.zeros(1, 1, 6, dtype=torch.int64)
    (found,) = network()(same)
    distances = torch.cdist(found[0], found[0]) + torch.eye(6)
    assert float(distances.min()) > 1e-3


def test_the_time_the_class_and_the_text_change_the_logits() -> None:
    model = network(num_times=10, num_classes=3, text_dim=TEXT[1], text_length=TEXT[0])
    batch, text = tokens(), torch.randn(3, *TEXT)
    rows, time = torch.tensor([0, 1, 3]), torch.tensor([0, 4, 9])
    (whole,) = model(batch, time, rows, text)
    for other in (
        model(batch, (time + 1) % 10, rows, text),
        model(batch, time, (rows + 1) % 4, text),
        model(batch, time, rows, -text),
    ):
        assert ((whole - other[0]).abs().amax(dim=(1, 2)) > 1e-4).all()
    torch.testing.assert_close(model(batch, time, None, text)[0][2], whole[2])


def test_what_follows_a_text_is_not_read_and_no_text_is_the_null() -> None:
    model = network(text_dim=TEXT[1], text_length=TEXT[0])
    batch, text = tokens(), torch.randn(3, *TEXT)
    mask = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    (found,) = model(batch, text=text, text_mask=mask)
    (other,) = model(batch, text=text.masked_fill(~mask[..., None], 9.0), text_mask=mask)
    torch.testing.assert_close(found, other)
    torch.testing.assert_close(found[1], model(batch, text=text)[0][1])
    torch.testing.assert_close(found[2], model(batch)[0][2])
    assert not torch.allclose(found[0], model(batch)[0][0], atol=1e-4)


@pytest.mark.parametrize("given", [True, False])
def test_every_weight_gets_a_gradient_with_and_without_conditions(given: bool) -> None:
    model = network((3, 5), num_times=10, num_classes=3, text_dim=TEXT[1], text_length=TEXT[0]).train()
    parts = {"rows": torch.tensor([0, 1, 2]), "text": torch.randn(3, *TEXT)} if given else {}
    logits = model(tokens((3, 5)), torch.tensor([0, 4, 9]), **parts)
    sum(one.square().sum() for one in logits).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert not any("text" in name or "class" in name for name, _ in network(num_times=10).named_parameters())


def test_the_sinusoid_has_the_speeds_of_its_definition() -> None:
    found = sinusoid(torch.tensor([0.0, 2.0]), 6)
    assert found[0].tolist() == [0, 0, 0, 1, 1, 1]
    expected = torch.tensor([2.0, 2 / 100, 2 / 10_000])
    torch.testing.assert_close(found[1], torch.cat([expected.sin(), expected.cos()]))


@pytest.mark.parametrize("context", [0, 5])
def test_attention_drops_in_training_alone_and_draws_nothing_without_dropout(context: int) -> None:
    seed_everything(0, "test")
    plain, dropping = Attention(8, 2, context), Attention(8, 2, context, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(3, 6, 8)
    given = torch.randn(3, 4, context) if context else None
    state = torch.get_rng_state()
    expected = plain.train()(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(dropping.eval()(x, given), expected)
    first, second = dropping.train()(x, given), dropping(x, given)
    assert not torch.equal(first, second)
    share = (first == 0).float().mean().item()
    assert 0.2 < share < 0.8
