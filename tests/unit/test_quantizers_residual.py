"""residual: what the stages see, start from, lose and pass back; and which params and codebooks fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import DIM, FSQ, GUMBEL, LC, VQ, VQCT, patches, residual, words
from tests.tiny import TOKENIZER
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build
from vqpipe.tokenizers.tokenizer import TokenizerParams

DATA = {**VQ, "init": "data"}


def fresh(params: dict[str, Any], codebook: Any = None) -> Quantizer:
    torch.manual_seed(0)
    return build(validate(params, "quantizer", AnyQuantizer), codebook).train()  # type: ignore[arg-type]


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_latents", [100, 12])
def test_each_stage_starts_from_residuals_of_its_own_latents(num_latents: int) -> None:
    z = latent(1, DIM, num_latents, 1)
    quantizer, other = fresh(residual(DATA)), fresh(residual(DATA))
    torch.manual_seed(3)
    out = quantizer(z)
    torch.manual_seed(3)
    other.initialise(z)
    assert all(torch.equal(a, b) for a, b in zip(quantizer.buffers(), other.buffers(), strict=True))
    left, every = z, min(16, num_latents // 3)
    errors = [float(z.square().mean())]
    for stage, (codes, theirs) in enumerate(zip(quantizer.parameters(), other.parameters(), strict=True)):
        rows = left.permute(0, 2, 3, 1).reshape(-1, DIM)[stage::3]
        found = [bool(torch.isclose(rows, code, atol=1e-6).all(1).any()) for code in codes]
        assert found == [True] * every + [False] * (16 - every)  # more codes than latents: near to them
        assert len(codes.unique(dim=0)) == 16
        torch.testing.assert_close(codes, theirs)
        left = left - codes[out.indices[:, stage]].permute(0, 3, 1, 2).detach()
        errors.append(float(left.square().mean()))
        torch.testing.assert_close(
            out.terms[f"commitment_{stage}"], left.square().mean()
        )  # to the partial sum
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(out.z_q, z - left)


def test_a_shared_codebook_is_one_and_starts_from_z() -> None:
    z = latent(4, DIM, 5, 5)
    quantizer = fresh(residual(DATA, shared=True))
    out = quantizer(z)
    (codes,) = quantizer.parameters()
    rows = z.permute(0, 2, 3, 1).reshape(-1, DIM)
    assert all((rows == code).all(1).any() for code in codes)
    assert [v.data_ptr() for v in out.vectors] == [codes.data_ptr()] * 3
    assert [book.group for book in quantizer.codebooks()] == ["code_0", "code_1", "code_2"]


@pytest.mark.parametrize(("reduce", "factor"), [("sum", 1), ("mean", 1 / 3)])
def test_the_loss_is_the_stages_and_each_moves_its_own_codes(reduce: str, factor: float) -> None:
    quantizer = fresh(residual(DATA, reduce=reduce))
    quantizer(latent(4, DIM, 5, 5, seed=5))
    z = latent(4, DIM, 5, 5).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    left, slope = z.detach(), torch.zeros_like(z)
    for stage, codes in enumerate(quantizer.parameters()):
        chosen = codes.detach()[out.indices[:, stage]].permute(0, 3, 1, 2)
        assert codes.grad is not None
        expected = torch.zeros_like(codes).index_add(
            0, out.indices[:, stage].flatten(), (chosen - left).permute(0, 2, 3, 1).reshape(-1, DIM)
        )
        torch.testing.assert_close(codes.grad, factor * 2 * expected / z.numel())
        left = left - chosen
        slope = slope + factor * 0.25 * 2 * left / z.numel()  # every stage's commitment reaches the encoder
    torch.testing.assert_close(z.grad, slope)


def test_a_base_with_its_own_gradient_is_differentiated_as_it_stands() -> None:
    base = {**FSQ, "levels": [5] * DIM}
    quantizer = fresh(residual(base, num_stages=2, stage_scale=0.25))
    single = fresh(base)
    z = latent(2, DIM, 3, 5)
    out = quantizer(z)
    first = single(z).z_q
    assert torch.equal(out.z_q, first + 0.25 * single((z - first) / 0.25).z_q)
    assert out.indices.shape == (2, 2, 3, 5)
    step = 1e-3  # straight through the rounding: d z_q = d bound(z) + d bound(4 (z - bound(z))) / 4, by differences
    bound = single.bound  # type: ignore[union-attr]
    upstream = latent(2, DIM, 3, 5, seed=2)
    wide = z.clone().requires_grad_()
    (quantizer(wide).z_q * upstream).sum().backward()

    def slope(at: Tensor) -> Tensor:
        rows = at.permute(0, 2, 3, 1).double()
        return (((bound(rows + step) - bound(rows - step)) / (2 * step)) / 2).permute(0, 3, 1, 2)

    outer = slope(z)
    inner = slope((z - first) / 0.25)
    expected = upstream * (outer + inner * (1 - outer))
    assert wide.grad is not None
    torch.testing.assert_close(wide.grad.double(), expected.double(), rtol=1e-3, atol=1e-3)


def test_every_stage_of_a_soft_base_learns_its_codes_through_z_q() -> None:
    quantizer = fresh(residual({**GUMBEL, "hard": True}))
    quantizer(latent(2, DIM, 3, 5)).z_q.square().sum().backward()
    moved = {name for name, p in quantizer.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name, _ in quantizer.named_parameters()}


def test_words_of_every_stage_keep_their_names() -> None:
    books = fresh(residual(VQCT, num_stages=2), words()).codebooks()
    assert [book.group for book in books] == ["adjective_0", "noun_0", "adjective_1", "noun_1"]
    assert books[0].names == books[2].names == words().adjectives
    assert not torch.equal(books[0].vectors, books[2].vectors)


def test_a_codebook_is_that_of_the_base() -> None:
    with pytest.raises(MismatchError, match="quantizer lc"):
        fresh(residual(LC))
    with pytest.raises(MismatchError, match="quantizer vq "):
        fresh(residual(VQ), patches())
    raw = {**TOKENIZER, "trunk": {**TOKENIZER["trunk"], "latent_channels": DIM}}
    for base, prior in ((LC, "patches"), (VQCT, "words"), (VQ, "none"), (GUMBEL, "none")):
        data = {**raw, "quantizer": residual(base), "codebook": prior}
        assert validate(data, "tokenizer", TokenizerParams).quantizer.dim == DIM
    wrong = {**raw, "quantizer": residual(LC), "codebook": "none"}
    with pytest.raises(
        ParamsError, match="quantizer residual over lc needs codebook patches, but codebook is none"
    ):
        validate(wrong, "tokenizer", TokenizerParams)


def test_residual_of_residual_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"quantizer\.base\.kind: there is no such kind\n.*'residual'"):
        fresh(residual(residual(VQ)))


def test_mistakes_in_the_base_are_named_with_their_place() -> None:
    with pytest.raises(ParamsError, match=r"quantizer\.base\.num_codes is missing"):
        fresh(residual({name: value for name, value in VQ.items() if name != "num_codes"}))
    with pytest.raises(
        ParamsError, match=r"quantizer\.base\.temperature\.start: Input should be greater than 0"
    ):
        fresh(residual({**GUMBEL, "temperature": {"kind": "cosine", "start": 0.0, "end": 1.0}}))
    with pytest.raises(ParamsError, match=r"quantizer\.base\.sharp is not a field"):
        fresh(residual({**VQ, "sharp": True}))
