"""What holds for every prior of the table, and what the base class refuses."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
import torch
from torch import Tensor

from tests.small_priors import GRID, ONE, images, labels, params, shared, space
from tests.toy_priors import PLACES, Unigram, UnigramParams
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.priors import PRIORS, AnyPrior
from vqpipe.priors.contract import PARTS, Condition, ConditionKind, Prior, PriorParams


@pytest.mark.parametrize("kind", PRIORS)
def test_every_prior_of_the_table_states_what_it_is(kind: str) -> None:
    prior = PRIORS[kind]
    assert issubclass(prior, Prior)
    assert issubclass(prior.Params, PriorParams)
    assert prior.kind == kind == get_args(prior.Params.model_fields["kind"].annotation)[0]
    assert prior.models in ("tokens", "latents")
    assert prior.known_tokens in ("none", "prefix", "any")
    assert "none" in prior.conditions
    assert set(prior.conditions) <= set(PARTS) == set(get_args(ConditionKind))


def test_a_condition_that_a_prior_does_not_take_is_refused_when_params_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = params().model_dump(mode="json")
    with monkeypatch.context() as changed:
        changed.setattr(PRIORS, "_places", {**PRIORS._places, **PLACES})
        with pytest.raises(
            ParamsError, match=r"prior\.condition: the prior unigram .*choices: none, class\n.*'text'"
        ):
            validate(
                {**shared(), **Unigram.example(), "kind": "unigram", "condition": "text"},
                "prior",
                UnigramParams,
            )
    with pytest.raises(ParamsError, match=r"'sound'\n  choices:  none, class, text, label_map"):
        validate({**content, "condition": "sound"}, "prior", AnyPrior)


def test_a_condition_has_one_row_per_image() -> None:
    whole = Condition(labels=labels(), tokens=images(ONE))
    assert list(whole.parts) == ["labels", "tokens"]
    some = whole.rows(slice(1, 3)).to(torch.device("cpu"))
    assert torch.equal(some.parts["labels"], labels()[1:3])
    assert torch.equal(some.parts["tokens"], images(ONE)[1:3])
    assert Condition().rows(slice(0, 9)).parts == {}


class Anywhere(Unigram):
    """Takes any subset of known tokens."""

    known_tokens: Literal["none", "prefix", "any"] = "any"


def toy(prior: type[Unigram]) -> Unigram:
    content = params().model_dump(mode="json", exclude={"model", "map_scale", "condition_as", "token_noise"})
    content |= {"kind": "unigram", **prior.example()}
    return prior(validate(content, "prior", prior.Params), space(ONE)).eval()


def holes() -> Tensor:
    tokens = images(ONE)
    tokens[:, :, 0, 1] = -1
    return tokens


def test_known_tokens_are_for_priors_that_take_them() -> None:
    toy(Anywhere).check_condition(Condition(tokens=holes()), 5, known=True)
    with pytest.raises(MismatchError, match=r"unigram .* cannot be given tokens\n.*\n.*choices:  labels"):
        toy(Unigram).check_condition(Condition(tokens=holes()), 5, known=True)
    for tokens, message in (
        (holes() - 1, "codebook\n.*-2"),
        (holes()[..., :2], r"wrong shape\n.*2\)"),
        (holes()[:4], "one entry per image"),
    ):  # fmt: skip
        with pytest.raises(MismatchError, match=message):
            toy(Anywhere).check_condition(Condition(tokens=tokens), 5, known=True)


@pytest.mark.parametrize("kind", [kind for kind in PRIORS if PRIORS[kind].models == "tokens"])
def test_tokens_of_another_shape_are_refused_by_every_prior_over_tokens(kind: str) -> None:
    content = {**shared(), **PRIORS[kind].example(), "kind": kind, "condition": "none", "condition_drop": 0.0}
    prior = PRIORS[kind](validate(content, "prior", PRIORS[kind].Params), space(ONE)).eval()
    for wrong in (images(ONE)[:, 0], images(ONE)[..., :2], images((11, 11))):
        with pytest.raises(MismatchError, match=r"tokens of another shape .*\n.*\n.*\(b, 1, 3, 4\)"):
            prior.loss(wrong, Condition())


def test_guidance_needs_a_condition_and_a_trained_null() -> None:
    prior = toy(Unigram)
    prior.check_guidance(1.0), prior.check_guidance(2.0)
    for changes, message in (
        ({"condition": "none", "condition_drop": 0.0}, "guidance 2.0 needs a condition, and this prior takes none"),
        ({"condition_drop": 0.0}, "guidance 2.0 needs the null condition, which was not trained"),
    ):  # fmt: skip
        prior.config = toy(Unigram).config.model_copy(update=changes)
        prior.check_guidance(1.0)
        with pytest.raises(MismatchError, match=message):
            prior.check_guidance(2.0)


def test_a_prior_without_a_likelihood_says_so() -> None:
    prior = toy(Unigram)
    assert Prior.log_likelihood(prior, images(ONE), Condition()) is None
    assert prior.space.grid == GRID
    assert prior.takes == ("labels",)
