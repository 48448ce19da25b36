"""The three losses together: where their gradients land for every quantizer, and what changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.recipes import LC, RECIPES, Recipe, every_recipe
from tests.small_alignment import CAPTIONS, GLOBAL, LEARNED, PARTS, TEXT_DIM, captions, codes, make, params
from vqpipe.alignment.aligner import Aligner, AlignParams
from vqpipe.errors import ArtifactError, MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build
from vqpipe.tokenizers.tokenizer import check_alignment

ALL = every_recipe()
WITHOUT = {"bsq", "ema", "fsq", "lfq"}
PAPERS = [name for name in ALL if name.split("-")[0] in ("vq", "cvq", "vqct", "lc")]


def built(recipe: Recipe) -> tuple[AnyQuantizer, Quantizer]:
    torch.manual_seed(0)
    config = validate(recipe.params, "quantizer", AnyQuantizer)  # type: ignore[arg-type]
    quantizer = build(config, recipe.codebook).train()
    if "codes" in quantizer.state_dict():
        quantizer.state_dict()["codes"].normal_()  # spread out, so that more than one is used
    return config, quantizer


def code_dims(config: AnyQuantizer, quantizer: Quantizer) -> tuple[int, ...]:
    """As `Tokenizer.code_dims`."""
    return tuple(book.vectors.shape[1] for book in quantizer.codebooks()) if config.trains_codes else ()


def moved(recipe: Recipe, *losses: str) -> tuple[set[str], Tensor | None]:
    """The quantizer's parameters with a gradient from the losses alone, and z's."""
    config, quantizer = built(recipe)
    aligner = make(params(*losses), code_dims(config, quantizer), latent=quantizer.dim)
    z = torch.randn(3, quantizer.dim, 3, 4).requires_grad_()
    loss, _ = aligner(quantizer(z), captions(CAPTIONS))
    loss.backward()
    grads = {name: p.grad for name, p in quantizer.named_parameters()}
    assert all(grad is None or grad.isfinite().all() for grad in grads.values())
    return {name for name, grad in grads.items() if grad is not None and grad.abs().sum() > 0}, z.grad


@pytest.mark.parametrize("name", PAPERS)
def test_the_relationship_loss_moves_what_makes_the_codes(name: str) -> None:
    recipe = ALL[name]
    config, quantizer = built(recipe)
    if not config.trains_codes:
        assert not list(quantizer.parameters())
        return
    found, latent = moved(recipe, "relationship")
    assert found == recipe.trained
    assert found
    assert latent is None


@pytest.mark.parametrize("name", PAPERS)
def test_the_other_losses_reach_the_encoder_alone(name: str) -> None:
    """z_q's gradient goes straight through to z, and to no code."""
    for loss in ("global", "masked"):
        found, latent = moved(ALL[name], loss)
        assert not found
        assert latent is not None
        assert latent.abs().sum() > 0


def test_a_gradient_through_the_codes_reaches_them() -> None:
    """Where z_q carries the method's own gradient, all three losses move the codes."""
    for kind in ("gumbel", "ibq", "sq_vae"):
        recipe = next(r for name, r in ALL.items() if name.startswith(kind))
        assert "codes" in moved(recipe, "global")[0]
        assert "codes" in moved(recipe, "relationship")[0]


@pytest.mark.parametrize("name", list(ALL))
def test_whether_codes_take_a_gradient_is_known_from_the_params(name: str) -> None:
    config, quantizer = built(ALL[name])
    vectors = quantizer(torch.randn(3, quantizer.dim, 3, 4)).vectors
    live = bool(vectors) and all(v.requires_grad for v in vectors)
    assert config.trains_codes == live
    dims = code_dims(config, quantizer)
    assert dims == (tuple(v.shape[1] for v in vectors) if live else ())
    align = params()
    if live:
        check_alignment(align, config)
        assert make(align, dims, latent=quantizer.dim).relationship is not None
        return
    with pytest.raises(ValueError, match="none that take a gradient"):
        check_alignment(align, config)
    with pytest.raises(MismatchError, match="none that take a gradient"):
        make(align, dims, latent=quantizer.dim)
    for weightless in (None, {**PARTS["relationship"], "weight": 0.0}):
        without = params(relationship=weightless)
        check_alignment(without, config)
        loss, terms = make(without, dims, latent=quantizer.dim)(
            quantizer(torch.randn(3, quantizer.dim, 3, 4)), captions(CAPTIONS)
        )
        assert loss.isfinite()
        assert "align_relationship" not in terms


def test_frozen_codes_are_refused() -> None:
    assert {name.split("-")[0] for name in ALL} > WITHOUT
    frozen = {**LC, "projector": False, "dim": 20}
    for quantizer, expected in (
        (frozen, False), ({**frozen, "trainable": True}, True), (LC, True),
        ({**RECIPES["vqct"]["paper"].params, "transfer": {"kind": "none"}}, False),
        ({**RECIPES["vqct"]["paper"].params, "transfer": {"kind": "none"}, "trainable_words": True}, True),
    ):  # fmt: skip
        assert validate(quantizer, "quantizer", AnyQuantizer).trains_codes == expected  # type: ignore[arg-type]


def test_the_sum_is_weighted_and_the_terms_are_not() -> None:
    config = params(**{"global": {**GLOBAL, "temperature": LEARNED}})
    loss, terms = make(config)(codes(), captions(CAPTIONS))
    weighted = 0.5 * terms["align_global"] + 2 * terms["align_masked"] + 3 * terms["align_relationship"]
    torch.testing.assert_close(loss.detach(), weighted)
    assert set(terms) == {
        "align_global", "align_global_accuracy", "align_temperature", "align_masked", "align_masked_accuracy",
        "align_relationship",
    }  # fmt: skip
    assert not any(term.requires_grad for term in terms.values())


def test_padding_changes_nothing() -> None:
    aligner, text = make(params()), captions(CAPTIONS)
    real = text.real()
    others = [
        replace(text, tokens=text.tokens.masked_fill(~real, 999_999)),
        replace(text, words=text.words.masked_fill(~real, 0)),
        captions(CAPTIONS, width=77),
    ]
    torch.manual_seed(1)
    before, terms = aligner(codes(), text)
    for other in others:
        torch.manual_seed(1)
        loss, found = aligner(codes(), other)
        assert torch.equal(loss, before)
        assert all(torch.equal(found[name], terms[name]) for name in terms)


def test_the_global_feature_does_not_leak_into_masked_text() -> None:
    """The frozen feature saw the whole caption; it takes part in the global loss alone."""
    aligner, text = make(params()), captions(CAPTIONS)
    found = []
    for features in (text.features, -text.features):
        torch.manual_seed(1)
        found.append(aligner(codes(), replace(text, features=features))[1])
    assert torch.equal(found[0]["align_masked"], found[1]["align_masked"])
    assert torch.equal(found[0]["align_relationship"], found[1]["align_relationship"])
    assert not torch.equal(found[0]["align_global"], found[1]["align_global"])


def test_empty_captions_give_no_nan() -> None:
    text = captions([[], [[300]], []])
    text = replace(text, lengths=torch.tensor([0, 3, 2]), features=torch.zeros(3, TEXT_DIM))
    for quantized in (codes(), replace(codes(), z_q=torch.zeros(3, 8, 3, 4, requires_grad=True))):
        aligner = make(params()).train()
        loss, terms = aligner(quantized, text)
        loss.backward()
        assert all(term.isfinite() for term in terms.values())
        grads = [quantized.z_q.grad, *(p.grad for p in aligner.parameters())]
        assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_masks_come_from_the_global_generator() -> None:
    aligner, text = make(params("masked")), captions(CAPTIONS)

    def term(seed: int) -> float:
        torch.manual_seed(seed)
        return float(aligner(codes(), text)[1]["align_masked"])

    assert term(1) == term(1)
    assert len({term(seed) for seed in range(5)}) > 1


def test_half_precision() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = make(params())(codes(), captions(CAPTIONS))
    loss.backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


def test_what_does_not_fit_is_refused() -> None:
    aligner, text = make(params()), captions(CAPTIONS)
    with pytest.raises(MismatchError, match=r"align\.max_tokens"):
        aligner(codes(), captions([[[300]] * 11] * 3, width=13))
    with pytest.raises(MismatchError, match="dimension"):
        aligner(codes(), replace(text, features=text.features[:, :-1]))
    with pytest.raises(MismatchError, match="positions"):
        aligner(replace(codes(), z_q=torch.zeros(3, 8, 4, 4)), text)
    with pytest.raises(MismatchError, match="999"):
        aligner.eval()(codes(), replace(text, tokens=text.tokens.masked_fill(text.words == 0, 999)))
    with pytest.raises(ParamsError, match="no loss"):
        params(**dict.fromkeys(PARTS))
    with pytest.raises(ParamsError, match=r"masked.width 18 .* num_heads 4"):
        params(num_heads=4, masked={**PARTS["masked"], "width": 18})


def test_params_and_state_come_back() -> None:
    config = params()
    stored = config.model_dump(mode="json")
    assert "global" in stored
    assert validate(stored, "align", AlignParams) == config
    for losses in (("global",), ("masked", "relationship"), ()):
        aligner = make(params(*losses), dims=(3, 5))
        again = Aligner.from_state(params(*losses), aligner.state_dict())
        torch.manual_seed(1)
        loss = aligner.eval()(codes(dims=(3, 5)), captions(CAPTIONS))[0]
        torch.manual_seed(1)
        assert torch.equal(again(codes(dims=(3, 5)), captions(CAPTIONS))[0], loss)
        assert not again.training
    with pytest.raises(ArtifactError, match="not the state"):
        Aligner.from_state(config, make(params("global")).state_dict())
