"""The GPT's loss over many codes: in blocks of positions, equal to the whole, with few logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.small_priors import GRID, ONE, PLAIN, TWO, images, labels, model
from vqpipe.priors import cross_entropy
from vqpipe.priors.contract import Condition
from vqpipe.runtime.seeds import torch_rng

GROUPS = pytest.mark.parametrize("num_codes", [ONE, TWO], ids=["one stream", "two streams"])
POSITIONS = GRID[0] * GRID[1]


class Largest(TorchDispatchMode):
    """The largest tensor that an operation inside gives, in elements."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        own = [x.numel() for x in tree_leaves(given) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *own])
        return given


def loss_and_gradient(num_codes: tuple[int, ...], count: int) -> tuple[Tensor, list[Tensor], int]:
    prior = model(num_codes).train()
    torch.manual_seed(0)  # of dropout and dropped labels
    with Largest() as largest:
        loss = prior.loss(images(num_codes, count), Condition(labels=labels(count)))
        loss.backward()
    gradients = [p.grad for p in prior.parameters() if p.grad is not None]
    assert len(gradients) == len(list(prior.parameters()))
    return loss.detach(), gradients, largest.elements


@GROUPS
@pytest.mark.parametrize("images_at_once", [1, 3])
def test_blocks_give_the_loss_and_the_gradient_of_the_whole(
    num_codes: tuple[int, ...], images_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, gradients, _ = loss_and_gradient(num_codes, 8)
    monkeypatch.setattr(cross_entropy, "LOGITS", images_at_once * POSITIONS * max(num_codes))
    blocks, own, _ = loss_and_gradient(num_codes, 8)
    torch.testing.assert_close(blocks, whole)
    for found, expected in zip(own, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@GROUPS
@torch.no_grad()
def test_one_block_is_the_plain_cross_entropy_bit_for_bit(num_codes: tuple[int, ...]) -> None:
    prior, batch = model(num_codes), images(num_codes, 7)
    found = prior.log_likelihood(batch, Condition(labels=labels(7))).flatten(2)
    for group, logits in enumerate(prior(batch.flatten(2), Condition(labels=labels(7)))):
        plain = F.cross_entropy(logits.flatten(0, 1), batch[:, group].flatten(), reduction="none")
        assert torch.equal(found[:, group].flatten(), -plain)


def head_gradient(precision: torch.dtype) -> Tensor:
    prior, batch = model(ONE).train(), images(ONE, 64)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = prior.loss(batch, Condition(labels=labels(64)))
    loss.backward()
    gradient = prior.network.heads[0].weight.grad
    assert gradient is not None
    return gradient


def test_in_half_precision_the_gradients_of_blocks_are_added_up_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact, whole = head_gradient(torch.float32), head_gradient(torch.bfloat16)
    monkeypatch.setattr(
        cross_entropy, "LOGITS", 5 * ONE[0]
    )  # 154 blocks, whose sum in half precision is off by several times
    blocks = head_gradient(torch.bfloat16)
    assert float((blocks - exact).norm()) < 1.3 * float((whole - exact).norm())


@GROUPS
@torch.no_grad()
def test_blocks_give_the_likelihood_of_the_whole(
    num_codes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, batch, condition = model(num_codes), images(num_codes, 7), Condition(labels=labels(7))
    whole = prior.log_likelihood(batch, condition)
    monkeypatch.setattr(cross_entropy, "LOGITS", 2 * POSITIONS * min(num_codes))
    torch.testing.assert_close(prior.log_likelihood(batch, condition), whole)


@torch.no_grad()
def test_sampling_has_the_logits_of_its_passes_in_memory_and_no_more() -> None:
    codes, count = 3000, 40
    prior, condition = model((codes,)), Condition(labels=labels(count))
    found = {}
    for batch in (4, None):
        sampling = PLAIN.model_copy(update={"batch": batch, "guidance": 2.0, "top_k": 100, "top_p": 0.9})
        with Largest() as largest:
            prior.sample(condition, count, sampling, torch_rng(0, "s"))
        found[batch] = largest.elements
    assert found == {4: 16 * codes, None: count * codes}  # of 4 images the weights of the head are more


def test_the_logits_of_a_batch_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, count = 3000, 16
    monkeypatch.setattr(cross_entropy, "LOGITS", 2 * POSITIONS * codes)
    _, _, largest = loss_and_gradient((codes,), count)
    assert largest == 2 * POSITIONS * codes  # above codes x width, the weights of the head
    monkeypatch.setattr(cross_entropy, "LOGITS", 1 << 26)
    assert loss_and_gradient((codes,), count)[2] == count * POSITIONS * codes
