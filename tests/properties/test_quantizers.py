"""What every entry of QUANTIZERS must do; a new entry is tested by the example of its class."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.recipes import DIM, Recipe, every_recipe, example, words
from vqpipe.errors import MismatchError
from vqpipe.params.base import validate
from vqpipe.quantizers import QUANTIZERS, AnyQuantizer, Quantizer, build, from_state
from vqpipe.quantizers.residual import ResidualParams, ResidualQuantizer
from vqpipe.quantizers.vqct import CodebookTransferQuantizer, VqctParams

CASES = [pytest.param(recipe, id=name) for name, recipe in every_recipe().items()]


WITH_WEIGHTS = [case for case in CASES if case.values[0].trained]


def config_of(recipe: Recipe) -> Any:
    return validate(recipe.params, "quantizer", AnyQuantizer)  # type: ignore[arg-type]


def fresh(recipe: Recipe) -> Quantizer:
    torch.manual_seed(0)
    return build(config_of(recipe), recipe.codebook)


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unused() -> torch.nn.Parameter:
    """An optimiser needs a parameter; not every method has one."""
    return torch.nn.Parameter(torch.zeros(()))


def take_step(quantizer: Quantizer, z: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    out = quantizer(z.requires_grad_())
    (out.loss + out.z_q.square().mean()).backward()
    optimiser.step()


def together(quantizer: Quantizer, parts: list[Tensor]) -> Tensor:
    """The codes of all groups as one latent, channels last: groups side by side, ranks averaged, stages added up."""
    config = (
        quantizer.config if isinstance(quantizer, ResidualQuantizer | CodebookTransferQuantizer) else None
    )
    stages = config.num_stages if isinstance(config, ResidualParams) else 1
    base = config.base if isinstance(config, ResidualParams) else config
    ranks = base.topk_adjectives if isinstance(base, VqctParams) else 1
    groups = len(parts) // stages
    own = [parts[s * groups : (s + 1) * groups] for s in range(stages)]
    sides = [torch.cat([torch.stack(part[:ranks]).mean(0), *part[ranks:]], -1) for part in own]
    return torch.stack(sides).sum(0)


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_an_example_is_valid_and_trains_all_its_parameters(kind: str) -> None:
    assert QUANTIZERS[kind].kind == kind
    recipe = example(kind)
    quantizer = fresh(recipe).train()
    out = quantizer(latent(2, DIM, 4, 4).requires_grad_())
    (out.loss + out.z_q.square().mean()).backward()
    assert all(p.grad is not None and p.grad.any() for p in quantizer.parameters())
    assert config_of(recipe).trains_codes == any(v.requires_grad for v in out.vectors)


@pytest.mark.parametrize("recipe", CASES)
def test_the_facts_of_the_params_are_those_of_the_quantizer(recipe: Recipe) -> None:
    config = config_of(recipe)
    with pytest.raises(MismatchError, match="codebook"):
        build(config, words() if config.codebook == "none" else None)
    out = fresh(recipe).train()(latent(2, DIM, 4, 4))
    assert config.trains_codes == any(v.requires_grad for v in out.vectors)
    assert config.label.startswith(config.kind)


@pytest.mark.parametrize("recipe", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_shapes_ranges_and_dtypes_on_a_grid_that_is_not_square(recipe: Recipe, training: bool) -> None:
    quantizer: Quantizer = fresh(recipe).train(training)
    out = quantizer.forward(latent(2, DIM, 3, 5), progress=0.5)
    assert out.z_q.shape == (2, DIM, 3, 5)
    assert out.z_q.dtype == torch.float32
    assert out.indices.shape == (2, quantizer.groups, 3, 5)
    assert out.indices.dtype == torch.int64
    assert len(quantizer.num_codes) == quantizer.groups
    for group, count in enumerate(quantizer.num_codes):
        assert 0 <= int(out.indices[:, group].min()) <= int(out.indices[:, group].max()) < count
    assert out.loss.ndim == 0
    assert out.loss.isfinite()
    assert all(term.ndim == 0 and term.isfinite() and not term.requires_grad for term in out.terms.values())


@pytest.mark.parametrize("recipe", CASES)
def test_decoded_indices_are_z_q_in_eval(recipe: Recipe) -> None:
    quantizer = fresh(recipe)
    quantizer.train()(latent(2, DIM, 4, 4))  # those that start from data have now done so
    quantizer.eval()
    for z in (latent(2, DIM, 3, 5), latent(1, DIM, 2, 7) * 100 + 3):
        with torch.no_grad():
            out = quantizer(z)
            assert torch.equal(quantizer.decode(out.indices), out.z_q)
        with_grad = quantizer(z.requires_grad_())
        assert torch.equal(with_grad.indices, out.indices)
        torch.testing.assert_close(quantizer.decode(out.indices), with_grad.z_q, rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", CASES)
def test_gradients_reach_the_encoder_and_the_trained_parameters(recipe: Recipe) -> None:
    quantizer = fresh(recipe).train()
    weight = latent(2, DIM, 4, 4, seed=2)
    z = latent(2, DIM, 4, 4).requires_grad_()
    (quantizer(z).z_q * weight).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().amax(dim=(0, 2, 3)).gt(0).all()
    if not quantizer.own_gradient:
        if recipe.identity:
            torch.testing.assert_close(z.grad, weight)  # straight through: the identity
        assert all(p.grad is None or not p.grad.any() for p in quantizer.parameters())

    z = latent(2, DIM, 4, 4, seed=7).requires_grad_()  # not the batch that codes may have started from
    out = quantizer(z)
    if quantizer.own_gradient:  # z_q and the loss may train different parts
        (out.loss + (out.z_q * weight).sum()).backward()
    else:
        out.loss.backward()
    assert z.grad is not None
    assert z.grad.abs().amax(dim=(0, 2, 3)).gt(0).all()
    moved = {name for name, p in quantizer.named_parameters() if p.grad is not None and p.grad.any()}
    names = {name for name, _ in quantizer.named_parameters()}
    assert moved == names == (names if recipe.trained is None else recipe.trained)


@pytest.mark.parametrize("recipe", CASES)
def test_live_vectors_carry_the_gradient_of_losses_on_codes(recipe: Recipe) -> None:
    quantizer = fresh(recipe).train()
    out = quantizer(latent(2, DIM, 4, 4))
    if not out.vectors:
        assert not config_of(recipe).trains_codes
        return
    gathered = [v[out.indices[:, g]] for g, v in enumerate(out.vectors)]
    assert any(v.requires_grad for v in out.vectors) == bool(list(quantizer.parameters()))
    if out.vectors[0].requires_grad:
        sum(g.square().sum() for g in gathered).backward()  # type: ignore[union-attr]
        assert any(p.grad is not None and p.grad.any() for p in quantizer.parameters())
    out = quantizer.eval()(latent(2, DIM, 4, 4))  # in training z_q may be a mixture of codes
    gathered = [v[out.indices[:, g]] for g, v in enumerate(out.vectors)]
    torch.testing.assert_close(together(quantizer, gathered).permute(0, 3, 1, 2), out.z_q)


@pytest.mark.parametrize("recipe", CASES)
def test_what_is_quantised_is_z_or_nearer_to_z_q(recipe: Recipe) -> None:
    quantizer = fresh(recipe).train()
    quantizer(latent(2, DIM, 4, 4))
    quantizer.eval()
    for z in (latent(3, DIM, 3, 5), latent(2, DIM, 2, 7).bfloat16() * 2):
        before, own = state_of(quantizer), quantizer.continuous(z.requires_grad_())
        assert same_state(before, state_of(quantizer))
        config = config_of(recipe)
        base = getattr(config, "base", config)
        base = getattr(base, "base", base)
        assert (own is None) == (base.kind == "gumbel"), "logits of z alone decide there"
        if own is None:
            continue
        with torch.no_grad():
            z_q = quantizer(z).z_q
        assert own.shape == z_q.shape
        assert own.dtype == torch.float32
        plain = z.detach().float()
        if base.kind in ("fsq", "bsq") or getattr(base, "normalise", False):
            assert (own - z_q).abs().mean() < (plain - z_q).abs().mean()
        elif config.kind == "residual":  # a sum of codes and of what is left
            torch.testing.assert_close(own, plain)
        else:
            assert torch.equal(own, plain)


@pytest.mark.parametrize("recipe", CASES)
def test_indices_are_those_of_a_pass_in_eval_and_change_no_state(recipe: Recipe) -> None:
    quantizer = fresh(recipe).train()
    quantizer(latent(2, DIM, 4, 4))
    quantizer.eval()
    for z in (latent(3, DIM, 3, 5), latent(1, DIM, 2, 7).bfloat16() * 100 + 3):
        before, generator = state_of(quantizer), torch.get_rng_state()
        found = quantizer.indices(z.requires_grad_())
        assert same_state(before, state_of(quantizer))
        assert torch.equal(generator, torch.get_rng_state())
        with torch.no_grad():
            assert torch.equal(found, quantizer(z).indices)
    before = state_of(quantizer.train())
    quantizer.indices(z)
    assert same_state(before, state_of(quantizer))
    with pytest.raises(MismatchError):
        quantizer.indices(latent(1, DIM + 1, 2, 2))
    with pytest.raises(MismatchError, match="not finite"):
        quantizer.indices(latent(1, DIM, 2, 2) / 0)


@pytest.mark.parametrize("recipe", CASES)
def test_eval_changes_no_state_and_repeats(recipe: Recipe) -> None:
    quantizer = fresh(recipe).eval()
    before, generator = state_of(quantizer), torch.get_rng_state()
    first, second = quantizer(latent(2, DIM, 3, 3)), quantizer(latent(2, DIM, 3, 3))
    quantizer.decode(first.indices)
    quantizer.codebooks()
    assert same_state(before, state_of(quantizer))
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.z_q, second.z_q)


@pytest.mark.parametrize("recipe", CASES)
def test_a_checkpoint_is_complete(recipe: Recipe, tmp_path: Path) -> None:
    quantizer = fresh(recipe).train()
    take_step(quantizer, latent(2, DIM, 4, 4), torch.optim.SGD([unused(), *quantizer.parameters()], lr=0.1))
    quantizer.eval()
    save_file(
        {name: t.contiguous().clone() for name, t in quantizer.state_dict().items()},
        tmp_path / "q.safetensors",
    )
    torch.manual_seed(99)
    names = [book.names for book in quantizer.codebooks()]
    other = from_state(config_of(recipe), load_file(tmp_path / "q.safetensors"), names)
    assert not other.training
    assert same_state(state_of(quantizer), state_of(other))
    assert other.num_codes == quantizer.num_codes
    assert [book.names for book in other.codebooks()] == names
    with torch.no_grad():
        a, b = quantizer(latent(2, DIM, 3, 5)), other(latent(2, DIM, 3, 5))
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.z_q, b.z_q)
    assert torch.equal(a.loss, b.loss)


@pytest.mark.parametrize("recipe", WITH_WEIGHTS)
def test_codes_made_once_in_eval_follow_the_weights(recipe: Recipe) -> None:
    quantizer = fresh(recipe).eval()
    z = latent(2, DIM, 4, 4)
    with torch.no_grad():
        before = quantizer(z).z_q
        for p in quantizer.parameters():
            p.mul_(1.5).add_(0.1)  # as averaged weights are copied in
        after = quantizer(z).z_q
        clone = copy.deepcopy(quantizer)(z).z_q
    assert not torch.equal(before, after)
    assert torch.equal(after, clone)
    torch.testing.assert_close(after, quantizer(z).z_q)  # with gradients the codes are made anew


@pytest.mark.parametrize("recipe", WITH_WEIGHTS)
def test_codes_follow_a_write_through_data_after_eval(recipe: Recipe) -> None:
    quantizer = fresh(recipe).eval()
    with torch.no_grad():
        quantizer(latent(2, DIM, 4, 4))
        for p in quantizer.parameters():
            p.data.mul_(1.5).add_(0.1)  # moves no version, so that nothing kept can notice it
        quantizer.eval()
        kept = quantizer.codebooks()
    for own, anew in zip(kept, copy.deepcopy(quantizer).codebooks(), strict=True):
        assert torch.equal(own.vectors, anew.vectors)


@pytest.mark.parametrize("recipe", CASES)
def test_an_image_is_coded_the_same_in_any_batch(recipe: Recipe) -> None:
    quantizer = fresh(recipe).eval()
    z = latent(5, DIM, 3, 4)
    with torch.no_grad():
        whole = quantizer(z)
        single = [quantizer(z[i : i + 1]) for i in range(5)]
    assert torch.equal(whole.indices, torch.cat([one.indices for one in single]))
    assert torch.equal(whole.z_q, torch.cat([one.z_q for one in single]))


@pytest.mark.parametrize("recipe", CASES)
def test_autocast_changes_nothing_but_the_rounding_of_z(recipe: Recipe) -> None:
    quantizer = fresh(recipe).train()
    quantizer(latent(2, DIM, 4, 4))
    quantizer.eval()
    z = latent(2, DIM, 4, 4).bfloat16()
    plain = quantizer(z.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(z.requires_grad_())
        decoded = quantizer.decode(cast.indices)
        (cast.loss + cast.z_q.sum()).backward()
    assert torch.equal(plain.indices, cast.indices)
    assert cast.z_q.dtype == cast.loss.dtype == decoded.dtype == torch.float32
    assert torch.equal(plain.z_q, cast.z_q)
    assert torch.equal(plain.loss, cast.loss)
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("recipe", CASES)
def test_codes_that_are_first_made_under_autocast_are_float32_codes(recipe: Recipe) -> None:
    plain, cast = fresh(recipe).eval(), fresh(recipe).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        books = cast.codebooks()
        in_training = cast.train().codebooks()
        cast.eval().codebooks()
    assert {book.vectors.dtype for book in (*books, *in_training)} == {torch.float32}
    for own, right in zip(books, plain.codebooks(), strict=True):
        assert torch.equal(own.vectors, right.vectors)
    indices = torch.cat([torch.randint(count, (2, 1, 3, 5)) for count in plain.num_codes], dim=1)
    with torch.no_grad():
        assert torch.equal(cast.decode(indices), plain.decode(indices))


@pytest.mark.parametrize("recipe", CASES)
def test_codebooks_hold_the_codes_that_decode_gives(recipe: Recipe) -> None:
    quantizer = fresh(recipe).eval()
    books = quantizer.codebooks()
    assert [len(book.vectors) for book in books] == list(quantizer.num_codes)
    assert all((book.names is not None) == recipe.named for book in books)
    assert not any(book.vectors.requires_grad for book in books)
    last = torch.tensor([count - 1 for count in quantizer.num_codes]).view(1, -1, 1, 1)
    torch.testing.assert_close(
        quantizer.decode(last).flatten(), together(quantizer, [book.vectors[-1] for book in books])
    )
    assert len({book.group for book in books}) == quantizer.groups


@pytest.mark.parametrize("recipe", CASES)
def test_training_is_the_same_for_the_same_seed(recipe: Recipe) -> None:
    def run() -> dict[str, Tensor]:
        quantizer = fresh(recipe).train()
        optimiser = torch.optim.Adam([unused(), *quantizer.parameters()], lr=0.01)
        for step in range(3):
            take_step(quantizer, latent(2, DIM, 4, 4, seed=step), optimiser)
        return {**state_of(quantizer), "z_q": quantizer(latent(2, DIM, 4, 4)).z_q.detach()}

    assert same_state(run(), run())
