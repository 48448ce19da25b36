"""What the priors over latents share, for both kinds and both networks: conditions, guidance, passes, decoding."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.latent_priors import BOTH, NETWORKS, TEXT, latent_params, latent_prior
from tests.recipes import DIM, example, make_tokenizer
from tests.tiny import write_tokenizer
from tests.unit.test_training_syncs import reads
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.models.conditioning import TextContext
from vqpipe.models.unet import UNet, UNetParams
from vqpipe.params.base import validate
from vqpipe.priors.contract import Condition
from vqpipe.priors.latent import LatentPrior, guided
from vqpipe.priors.measure import decoded, sample_batches
from vqpipe.priors.measure_prior import _draw
from vqpipe.priors.train import to_codes, to_latents
from vqpipe.runtime.seeds import torch_rng
from vqpipe.tokenizers.tokenizer import Tokenizer

KINDS = pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.kind)
NETS = pytest.mark.parametrize("network", NETWORKS)
CONDITIONS = pytest.mark.parametrize("condition", ["none", "class", "text"])


def with_network(kind: type[LatentPrior], network: str, **changes: Any) -> LatentPrior:
    return latent_prior(kind, network=NETWORKS[network], **changes)


def given(condition: str, count: int) -> Condition:
    rng = torch_rng(2, "condition")
    if condition == "class":
        return Condition(labels=torch.arange(count) % 3)
    if condition == "text":
        ids = torch.tensor([5, 6, 7, -1]).repeat(count, 1)
        return Condition(text=torch.randn(count, *TEXT, generator=rng), text_ids=ids)
    return Condition()


def sample(prior: LatentPrior, condition: Condition, n: int, **changes: Any) -> Tensor:
    """Samples in float64: random weights make much of a rounding error."""
    prior, sampling = prior.double(), prior.config.sampling
    sampling = sampling.model_copy(update=changes)
    return prior.sample(condition, n, sampling, torch_rng(0, "samples"))


@KINDS
@NETS
@CONDITIONS
def test_every_parameter_gets_a_gradient_without_a_read_of_the_device(
    kind: type[LatentPrior], network: str, condition: str
) -> None:
    drop = 0.0 if condition == "none" else 0.2
    prior = with_network(kind, network, condition=condition, condition_drop=drop).train()
    with reads() as found:
        loss = prior.loss(torch.randn(6, 4, 2, 3), given(condition, 6))
    assert not found
    loss.backward()
    names = [name for name, p in prior.named_parameters() if p.grad is None]
    assert names == []
    trained = {id(p) for group in prior.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in prior.parameters()}


@KINDS
@NETS
@pytest.mark.parametrize("condition", ["class", "text"])
@torch.no_grad()
def test_conditions_change_samples_and_dropped_ones_do_not(
    kind: type[LatentPrior], network: str, condition: str
) -> None:
    prior = with_network(kind, network, condition=condition, condition_drop=0.2)
    known = given(condition, 3)
    own, null = sample(prior, known, 3), sample(prior, Condition(), 3)
    assert not torch.allclose(own, null, atol=1e-3)
    if condition == "class":
        absent = Condition(labels=torch.full((3,), -1))
    else:
        absent = Condition(text=known.text, text_ids=torch.full((3, TEXT[0]), -1))
        after = torch.cat([known.text[:, :3], torch.randn(3, 1, TEXT[1])], dim=1)  # type: ignore[index]
        other = Condition(text=after, text_ids=known.text_ids)
        torch.testing.assert_close(sample(prior, other, 3), own)
    torch.testing.assert_close(sample(prior, absent, 3), null)
    torch.testing.assert_close(sample(prior, known, 3, guidance=0.0), null)
    assert not torch.allclose(sample(prior, known, 3, guidance=3.0), own, atol=1e-3)


@KINDS
@NETS
@torch.no_grad()
def test_guidance_is_of_all_channels_and_is_zero_for_the_null(kind: type[LatentPrior], network: str) -> None:
    prior = with_network(kind, network, condition="class", condition_drop=0.2)
    x, times, known = torch.randn(3, 4, 2, 3), torch.tensor([0.1, 0.5, 0.9]), given("class", 3)
    own, null = (prior.network(x, times, labels)[:, :4] for labels in (known.labels, torch.full((3,), -1)))
    found = prior._guided(known, 3, 2.5)(x, times)[:, :4]
    torch.testing.assert_close(found, null + 2.5 * (own - null), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        prior._guided(Condition(), 3, 2.5)(x, times)[:, :4], null, rtol=1e-4, atol=1e-5
    )


@KINDS
@NETS
def test_samples_do_not_depend_on_passes_or_on_how_many_are_drawn(
    kind: type[LatentPrior], network: str
) -> None:
    prior, known = with_network(kind, network, condition="class", condition_drop=0.2), given("class", 5)
    whole = sample(prior, known, 5, guidance=2.0)
    for batch in (1, 2, 5, 9):
        found = sample(prior, known, 5, guidance=2.0, batch=batch)
        torch.testing.assert_close(found, whole)
    few = sample(prior, known.rows(slice(0, 2)), 2, guidance=2.0)
    torch.testing.assert_close(few, whole[:2])
    assert sample(prior, known.rows(slice(0, 0)), 0).shape == (0, 4, 2, 3)


@KINDS
def test_what_is_wrong_is_refused(kind: type[LatentPrior]) -> None:
    prior = latent_prior(kind, condition="class")
    with pytest.raises(MismatchError, match="null condition"):
        sample(prior, given("class", 2), 2, guidance=2.0)
    with pytest.raises(MismatchError, match="null condition"):
        sample(prior, Condition(), 2)
    with pytest.raises(MismatchError, match=r"latents of another shape.*\n.*\(2, 4, 3, 3\)"):
        prior.loss(torch.zeros(2, 4, 3, 3), given("class", 2))
    with pytest.raises(ParamsError, match="guidance other than 1"):
        latent_params(kind, sampling={"guidance": 2.0})
    with pytest.raises(MismatchError, match="does not divide the latent's grid"):
        latent_prior(kind, network={**NETWORKS["dit"], "patch": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 12, "num_heads": 5}, "not a multiple of num_heads"),
        ({"width": 10}, "multiple of 4"),
        ({"kind": "mlp"}, "no such kind\n.*'mlp'\n  choices:  dit, unet"),
    ],
)
def test_networks_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        latent_params(BOTH[1], network={**NETWORKS["dit"], **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"attention_levels": [2]}, "do not exist"), ({"num_heads": 3}, "not a multiple of num_heads")],
)
def test_unets_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        validate({**NETWORKS["unet"], **change}, "network", UNetParams)


@KINDS
@NETS
@torch.no_grad()
def test_networks_start_at_zero_and_take_any_grid(kind: type[LatentPrior], network: str) -> None:
    prior = with_network(kind, network, std=0.0, grid=(5, 3), condition="text", condition_drop=0.1)
    x, known = torch.randn(2, 4, 5, 3), given("text", 2)
    assert not prior.network(x, torch.rand(2), torch.full((2,), -1), known.text, known.text_ids).any()


@torch.no_grad()
def test_a_text_is_seen_up_to_its_end_and_an_absent_one_is_one_vector() -> None:
    context = TextContext(8, 16)
    text, ids = torch.randn(2, 4, 8), torch.tensor([[5, 6, -1, -1], [-1] * 4])
    states, mask = context(text, ids)
    assert mask[:, 0, 0].tolist() == [[True, True, False, False], [True, False, False, False]]
    assert torch.equal(states[1, 0], context.null)
    torch.testing.assert_close(states[0], context.linear(text[0]))


def test_guidance_can_leave_channels_out() -> None:
    own, null = torch.ones(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    assert guided(own, null, 3.0)[0, :, 0, 0].tolist() == [3, 3, 3, 3]
    assert guided(own, null, 3.0, 3)[0, :, 0, 0].tolist() == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("shape", "classes", "text", "millions"),
    [
        ((192, [1, 2, 3, 5], [1, 2, 3], 1, 512, 3), 1000, 0, 400.92),
        ((320, [1, 2, 4, 4], [0, 1, 2], 8, 768, 4), 0, 768, 859.52),
    ],
    ids=["LDM-4 on ImageNet", "text"],
)
def test_published_sizes_of_unets(shape: tuple[Any, ...], classes: int, text: int, millions: float) -> None:
    channels, multipliers, levels, heads, context, latent = shape
    params = {
        "kind": "unet", "channels": channels, "channel_multipliers": multipliers, "num_blocks": 2,
        "attention_levels": levels, "num_heads": heads, "context_width": context, "dropout": 0.0,
    }  # fmt: skip
    with torch.device("meta"):
        made = UNet(validate(params, "network", UNetParams), (32, 32), latent, latent, classes, text)
    # The papers count the condition's own parameters apart.
    found = [p.numel() for name, p in made.named_parameters() if name.split(".")[0] not in ("labels", "text")]
    assert sum(found) / 1e6 == pytest.approx(millions, abs=0.005)


def test_latents_are_decoded_with_and_without_quantising(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "tokenizer"))
    prior = latent_prior(BOTH[1], channels=tokenizer.config.quantizer.dim, grid=tokenizer.grid)
    std = torch.linspace(0.5, 2, prior.space.latent_channels)
    object.__setattr__(prior.space, "latent_std", tuple(std.tolist()))
    codes = torch.arange(3 * tokenizer.grid[0] * tokenizer.grid[1]) % tokenizer.num_codes[0]
    codes = codes.view(3, 1, *tokenizer.grid)
    drawn = tokenizer.quantizer.decode(codes) / std.view(1, -1, 1, 1)
    assert torch.equal(to_codes(prior, drawn, tokenizer), codes)
    cpu = torch.device("cpu")
    expected = torch.cat(list(decoded(tokenizer.decode, codes, cpu)))
    exact = torch.cat(list(decoded(tokenizer.decode_latent, to_latents(prior, drawn, tokenizer), cpu)))
    assert (exact.int() - expected.int()).abs().max() <= 1
    moved = torch.cat(list(decoded(tokenizer.decode_latent, to_latents(prior, drawn + 0.5, tokenizer), cpu)))
    assert (moved.int() - expected.int()).abs().max() > 1


@pytest.mark.parametrize("kind", ["fsq", "vq", "gumbel"])
def test_the_samples_that_are_not_quantised_are_what_the_quantizer_rounds(kind: str) -> None:
    tokenizer = make_tokenizer(example(kind))
    prior = latent_prior(BOTH[1], channels=DIM, grid=tokenizer.grid, condition="none", condition_drop=0.0)
    run: Any = SimpleNamespace(prior=prior, conditions=lambda rows: Condition(), n=3, tokenizer=tokenizer)
    codes, latents, _ = _draw(run)
    if kind == "gumbel":
        assert latents is None
        return
    assert latents is not None
    drawn = torch.cat([one for one, _ in sample_batches(prior, run.conditions, 3)])
    plain = to_latents(prior, drawn, tokenizer)
    assert torch.equal(latents, plain) == (kind == "vq")
    off = [(one - tokenizer.quantizer.decode(codes)).abs().max() for one in (latents, plain)]
    assert kind == "vq" or off[0] <= 0.5 + 1e-6 < off[1], "half of the widest level"
