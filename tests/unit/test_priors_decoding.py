"""The decoder of the GPT: its caches, its step that is the same at every position, half precision."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.small_priors import GRID, LLAMA, ONE, PLAIN, TWO, given, images, labels, model, params, space
from vqpipe.models.causal import FixedCache, GrowingCache, Place, Stack
from vqpipe.priors import gpt
from vqpipe.priors.contract import Condition
from vqpipe.priors.decoding import WARM_UP, Decoder
from vqpipe.priors.gpt import GPT, GPTSampling
from vqpipe.runtime.seeds import torch_rng

GROUPS = pytest.mark.parametrize("num_codes", [ONE, TWO], ids=["one stream", "two streams"])
GUIDED = PLAIN.model_copy(update={"guidance": 2.0, "top_k": 6, "top_p": 0.9})
FIRST = PLAIN.model_copy(update={"guidance": 2.0, "guided_positions": 4})
NUCLEUS = PLAIN.model_copy(update={"top_p": 0.9})

FORMS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"condition": "text", "model": {"prefix_attention": "full"}},
        {"condition": "label_map", "model": {"block": LLAMA, "learned_positions": False}},
        {
            "condition": "label_map",
            "map_scale": 2,
            "model": {"rotary_base": None, "prefix_attention": "full"},
        },
        {"condition": "label_map", "condition_as": "added", "map_scale": 2},
        {"condition": "class", "condition_as": "added"},
    ],
    ids=["class", "text", "label map", "fine label map", "added label map", "added class"],
)
"""Prefixes of one vector, of several, and of as many as there are codes and more; in blocks of both kinds."""


def stack() -> Stack:
    torch.manual_seed(0)
    return Stack(2, params().model).eval()


@torch.no_grad()
@pytest.mark.parametrize("prefix", [1, 4])
@pytest.mark.parametrize("fixed", [True, False])
def test_cached_tokens_see_what_they_see_in_the_whole_sequence(fixed: bool, prefix: int) -> None:
    blocks, x = stack(), torch.randn(3, 9, 16, generator=torch_rng(0, "x"))
    whole, shape = blocks(x), (2, 3, 2, 9, 8)
    place = Place(9, x)
    caches = [FixedCache(shape, x, place) if fixed else GrowingCache(shape, x) for _ in blocks.blocks]
    for _ in range(2):  # a second sequence finds what the first has left
        place.begin(prefix)
        for cache in caches:
            if isinstance(cache, GrowingCache):
                cache.clear()
        torch.testing.assert_close(blocks(x[:, :prefix], caches), whole[:, :prefix])
        for at in range(prefix, 9):
            place.advance()
            torch.testing.assert_close(blocks(x[:, at : at + 1], caches), whole[:, at : at + 1])
        assert int(place.index) == 8


def test_more_tokens_than_a_cache_takes_are_our_own_bug() -> None:
    cache, pairs = GrowingCache((2, 1, 1, 4, 4), torch.zeros(())), torch.zeros(2, 1, 1, 2, 4)
    cache.add(pairs)
    with pytest.raises(AssertionError, match="one token"):
        cache.add(pairs)
    for _ in range(2):
        cache.add(pairs[:, :, :, :1])
    with pytest.raises(AssertionError, match="full"):
        cache.add(pairs[:, :, :, :1])


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A graph that takes the step again, since a CPU can capture none; counts its replays."""
    replays: list[int] = []

    def capture(decoder: Any) -> None:
        for _ in range(WARM_UP):
            decoder.step()
        decoder.graph = SimpleNamespace(replay=lambda: (replays.append(1), decoder.step()))

    monkeypatch.setattr(Decoder, "_capture", capture)
    return replays


def test_a_captured_step_serves_later_calls_until_the_weights_change(
    replayed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, made = model(ONE), []

    def decoder(*own: Any) -> Decoder:
        made.append(Decoder(*own, fixed=True))
        return made[-1]

    def drawn() -> Tensor:
        return prior.sample(Condition(labels=labels()), 5, GUIDED, torch_rng(0, "s"))

    expected = drawn()
    monkeypatch.setattr(gpt, "Decoder", decoder)
    assert torch.equal(drawn(), expected)
    assert torch.equal(drawn(), expected)
    assert len(made) == 1
    assert len(replayed) == 2 * 11 - WARM_UP
    assert deepcopy(prior)._last is None  # no graph can be copied
    assert torch.equal(prior.sample(Condition(labels=labels(2)), 2, GUIDED, torch_rng(0, "s")), expected[:2])
    assert len(made) == 2
    with torch.no_grad():
        prior.network.heads[0].weight.neg_()
    assert not torch.equal(drawn(), expected)
    assert len(made) == 3


def draw_all(
    num_codes: tuple[int, ...], sampling: GPTSampling, fixed: bool, known: int, changes: dict[str, Any]
) -> Tensor:
    prior, size, count = model(num_codes, **changes), 3, 5
    condition = given(prior.config.condition, count)
    decoder = Decoder(prior, size, known, sampling, fixed)
    tokens = images(num_codes, count).flatten(2)
    uniform = torch.rand(tokens.shape, generator=torch_rng(0, "uniform"))
    with torch.no_grad():
        parts = [
            decoder.draw(condition.rows(part), tokens[part], uniform[part])
            for part in (slice(start, start + size) for start in range(0, count, size))
        ]
    return torch.cat(parts)


@GROUPS
@pytest.mark.parametrize("known", [0, 1, 5, 11])
@pytest.mark.parametrize("sampling", [PLAIN, GUIDED, FIRST], ids=["plain", "guided", "guided first"])
@FORMS
def test_fixed_caches_give_the_codes_of_growing_ones(
    changes: dict[str, Any],
    num_codes: tuple[int, ...],
    sampling: GPTSampling,
    known: int,
    replayed: list[int],
) -> None:
    fixed, growing = (draw_all(num_codes, sampling, own, known, changes) for own in (True, False))
    assert torch.equal(fixed, growing)
    later = 12 - known - 1
    assert len(replayed) == (2 * later - WARM_UP if later > WARM_UP else 0)  # of two passes
    assert torch.equal(fixed[..., :known], images(num_codes).flatten(2)[..., :known])


class Operations(TorchDispatchMode):
    """Operations that run inside, with the shapes and strides of what they get and give."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        values = [
            (tuple(x.shape), x.stride(), x.dtype) if isinstance(x, Tensor) else x
            for x in tree_leaves((args, kwargs, given))
        ]
        self.found.append((str(func), *values))
        return given


@GROUPS
@pytest.mark.parametrize(
    "sampling", [PLAIN, GUIDED, FIRST, NUCLEUS], ids=["plain", "guided", "guided first", "nucleus"]
)
@FORMS
@torch.no_grad()
def test_on_a_gpu_every_step_is_the_same_work_and_waits_for_nothing(
    changes: dict[str, Any], num_codes: tuple[int, ...], sampling: GPTSampling
) -> None:
    """With tensors without values, of which reading one to the host, or mixing devices, is an error."""
    with FakeTensorMode(), torch.device("cuda"):
        prior = GPT(params(**changes), space(num_codes)).eval()._in_precision("bf16")
        decoder = Decoder(prior, 3, 0, sampling)
        assert decoder.fixed
        decoder._begin(prior.prefix(Condition(), 3), prior.prefix.added(Condition(), 3))
        steps = []
        for _ in range(3):
            with Operations() as operations:
                decoder.step()
            steps.append(operations.found)
        assert decoder.tokens.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            int(decoder.place.index)
    assert all(step == steps[0] for step in steps)
    assert len(steps[0]) > 50


@torch.no_grad()
def test_half_precision_is_in_the_weights_the_cache_and_little_of_the_result() -> None:
    prior, half = model(ONE), PLAIN.model_copy(update={"precision": "bf16"})
    copied = prior._in_precision("bf16")
    assert prior._in_precision("fp32") is prior
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in prior.parameters()} == {torch.float32}
    assert not copied.training
    decoder = Decoder(copied, 2, 0, half)
    assert {cache.pairs.dtype for caches in decoder.caches for cache in caches} == {torch.bfloat16}
    tokens, condition = images(ONE).flatten(2), Condition(labels=labels())
    rough = copied(tokens, condition)[0]
    torch.testing.assert_close(rough.float(), prior(tokens, condition)[0], rtol=0.1, atol=0.3)
    drawn = [
        prior.sample(Condition(labels=labels(200)), 200, own, torch_rng(0, "s")) for own in (PLAIN, half)
    ]
    assert drawn[1].shape == (200, 1, *GRID)
    # The first code differs only where a number falls between the two cumulative distributions.
    assert float((drawn[0] == drawn[1])[..., 0, 0].float().mean()) > 0.9
