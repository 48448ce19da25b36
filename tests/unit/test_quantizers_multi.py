"""multi: what each group sees, starts from, loses and passes back; its names; and which params and codebooks fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import (
    BSQ,
    DIM,
    FC,
    LC,
    LFQ,
    VQ,
    VQCT,
    Recipe,
    make_tokenizer,
    multi,
    patches,
    residual,
    words,
)  # fmt: skip
from tests.small_priors import PLAIN, params
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.metrics.codes import CodeUsage
from vqpipe.params.base import validate
from vqpipe.priors.contract import Condition, ImageSpace
from vqpipe.priors.gpt import GPT
from vqpipe.quantizers import AnyQuantizer, Quantizer, build

HALF = DIM // 2
DATA = {**VQ, "init": "data"}


def fresh(own: dict[str, Any], codebook: Any = None) -> Quantizer:
    torch.manual_seed(0)
    return build(validate(own, "quantizer", AnyQuantizer), codebook).train()  # type: ignore[arg-type]


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("reduce", "factor"), [("sum", 1), ("mean", 0.5)])
def test_each_group_is_the_base_on_its_own_channels(reduce: str, factor: float) -> None:
    quantizer = fresh(multi(VQ, reduce=reduce))
    z = latent(2, DIM, 3, 5).requires_grad_()
    out = quantizer(z)
    out.loss.backward()
    for group, codes in enumerate(quantizer.parameters()):
        part = z.detach()[:, group * HALF : (group + 1) * HALF].clone().requires_grad_()
        single = fresh({**VQ, "dim": HALF})
        with torch.no_grad():
            next(single.parameters()).copy_(codes)
        alone = single(part)
        (alone.loss * factor).backward()
        assert torch.equal(out.indices[:, group], alone.indices[:, 0])
        assert torch.equal(out.z_q[:, group * HALF : (group + 1) * HALF], alone.z_q)
        assert torch.equal(out.terms[f"commitment_{group}"], alone.terms["commitment"])
        assert torch.equal(out.vectors[group], alone.vectors[0])
        assert z.grad is not None
        torch.testing.assert_close(z.grad[:, group * HALF : (group + 1) * HALF], part.grad)
        torch.testing.assert_close(codes.grad, next(single.parameters()).grad)


def test_codes_start_from_the_channels_of_their_group() -> None:
    quantizer, other = fresh(multi(DATA)), fresh(multi(DATA))
    assert quantizer.waits_for_data()
    z = latent(2, DIM, 5, 5)
    torch.manual_seed(3)
    other.initialise(z)
    torch.manual_seed(3)
    quantizer(z)
    assert not quantizer.waits_for_data()
    rows = z.permute(0, 2, 3, 1).reshape(-1, DIM)
    for group, (codes, theirs) in enumerate(zip(quantizer.parameters(), other.parameters(), strict=True)):
        own = rows[:, group * HALF : (group + 1) * HALF]
        assert all((own == code).all(1).any() for code in codes)
        assert torch.equal(codes, theirs)
    assert not torch.equal(*quantizer.parameters())


def test_groups_have_names_of_their_own() -> None:
    assert [book.group for book in fresh(multi(FC)).codebooks()] == ["code_0", "code_1"]
    books = fresh(multi(VQCT), words()).codebooks()
    assert [book.group for book in books] == ["adjective_0", "noun_0", "adjective_1", "noun_1"]
    assert books[0].names == books[2].names == words().adjectives
    assert books[0].vectors.shape == (5, HALF // 2)


def test_stages_over_groups_have_the_groups_of_all_stages() -> None:
    quantizer = fresh(residual(multi(VQ), num_stages=2))
    assert (quantizer.groups, quantizer.num_codes) == (4, (16,) * 4)
    assert [book.group for book in quantizer.codebooks()] == ["code_0_0", "code_1_0", "code_0_1", "code_1_1"]


def test_two_groups_of_nine_bits_are_counted_without_a_codebook_of_all_combinations() -> None:
    groups = fresh(multi(LFQ) | {"base": {**LFQ, "dim": 9}}).eval()
    whole = fresh({**BSQ, "dim": 18}).eval()
    z = latent(4, 18, 16, 16)
    for quantizer, expected in ((groups, (512, 512)), (whole, (2**18,))):
        usage = CodeUsage(quantizer.num_codes)
        usage.add(quantizer.indices(z))
        assert quantizer.num_codes == expected
        assert [len(counts) for counts in usage.counts] == list(expected)
        assert [int(counts.sum()) for counts in usage.counts] == [1024] * len(expected)
    assert len(groups.codebooks()[0].vectors) == 512


@pytest.mark.parametrize("base", [FC, LFQ])
def test_a_prior_learns_and_samples_the_groups_of_a_tokenizer(base: dict[str, Any]) -> None:
    tokenizer = make_tokenizer(Recipe(multi(base)))
    assert tokenizer.num_codes == (16, 16)
    assert tokenizer.bits_per_image == tokenizer.grid[0] * tokenizer.grid[1] * 2 * 4
    codes = tokenizer.encode(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    torch.manual_seed(0)
    prior = GPT(params(condition="none"), ImageSpace(tokenizer.num_codes, tokenizer.grid, ())).eval()
    prior.loss(codes, Condition()).backward()
    assert all(p.grad is not None for p in prior.parameters())
    drawn = prior.sample(Condition(), 3, PLAIN, torch.Generator().manual_seed(2))
    assert drawn.shape == (3, *codes.shape[1:])
    assert tokenizer.decode(drawn).shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("own", "codebook", "says"),
    [
        (multi(LC), None, "quantizer lc"),
        (multi(VQ), patches(), "quantizer vq "),
        (multi(VQCT), None, "quantizer vqct"),
    ],
)
def test_a_codebook_is_that_of_the_base(own: dict[str, Any], codebook: Any, says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        fresh(own, codebook)


@pytest.mark.parametrize("base", [multi(VQ), residual(VQ)])
def test_methods_over_others_are_no_base(base: dict[str, Any]) -> None:
    with pytest.raises(
        ParamsError, match=rf"quantizer\.base\.kind: there is no such kind\n.*'{base['kind']}'"
    ):
        fresh({**multi(VQ), "base": base})


def test_mistakes_in_the_base_are_named_with_their_place() -> None:
    with pytest.raises(ParamsError, match=r"quantizer\.base\.sharp is not a field"):
        fresh(multi({**VQ, "sharp": True}))
    with pytest.raises(ParamsError, match=r"quantizer\.num_groups"):
        fresh(multi(VQ, num_groups=0))
