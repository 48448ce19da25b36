"""The GPT prior: causality, cache, likelihood, conditions, training on a tiny problem."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small_priors import (
    GRID,
    LLAMA,
    NO_DROPOUT,
    ONE,
    PLAIN,
    SIDE,
    TEXT,
    TWO,
    given,
    images,
    labels,
    model,
    naive_sample,
    params,
    space,
)
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.models.causal import SwiGLU, grid_places, turned, turns
from vqpipe.models.transformer import decay_groups
from vqpipe.priors.contract import Condition, ConditionKind
from vqpipe.priors.gpt import GPT
from vqpipe.priors.prefix import majority
from vqpipe.runtime.seeds import seed_everything, torch_rng

FORMS: list[dict[str, Any]] = [
    {"condition": "none", "condition_drop": 0.1, "model": {"block": LLAMA, "head_bias": True}},
    {"condition": "class", "model": {"block": LLAMA, "learned_positions": False}},
    {"condition": "text", "model": {"prefix_attention": "full"}},
    {"condition": "text", "model": {"block": LLAMA, "rotary_base": None}},
    {"condition": "label_map", "model": {"learned_positions": False, "head_bias": True}},
    {"condition": "label_map", "map_scale": 2, "model": {"prefix_attention": "full"}},
    {"condition": "label_map", "map_scale": 2, "condition_as": "added"},
    {"condition": "class", "condition_as": "added"},
]
GROUPS = pytest.mark.parametrize("num_codes", [ONE, TWO], ids=["one stream", "two streams"])


@GROUPS
def test_a_later_token_leaves_earlier_logits_unchanged(num_codes: tuple[int, ...]) -> None:
    prior, tokens = model(num_codes), images(num_codes).flatten(2)
    before = prior(tokens, Condition(labels=labels()))
    for group in range(len(num_codes)):
        changed = tokens.clone()
        changed[:, group, 6] = (changed[:, group, 6] + 1) % num_codes[group]
        after = prior(changed, Condition(labels=labels()))
        for old, new in zip(before, after, strict=True):
            torch.testing.assert_close(old[:, :7], new[:, :7], rtol=0, atol=1e-6)
            assert (old[:, 7] - new[:, 7]).abs().max() > 1e-3


@GROUPS
@pytest.mark.parametrize(
    "filters", [{}, {"guidance": 2.5}, {"top_p": 0.8}, {"top_k": 3, "batch": 2}], ids=str
)
def test_samples_are_those_of_the_full_forward(num_codes: tuple[int, ...], filters: dict[str, Any]) -> None:
    prior, sampling = model(num_codes), PLAIN.model_copy(update=filters)
    condition = Condition(labels=labels())
    cached = prior.sample(condition, 5, sampling, torch_rng(0, "s"))
    naive = naive_sample(prior, condition, 5, sampling, torch_rng(0, "s"))
    assert cached.shape == (5, len(num_codes), *GRID)
    assert torch.equal(cached, naive)
    for group, codes in enumerate(num_codes):
        assert int(cached[:, group].min()) >= 0
        assert int(cached[:, group].max()) < codes


@GROUPS
def test_seed_decides_samples_and_an_image_does_not_depend_on_its_batch(num_codes: tuple[int, ...]) -> None:
    prior = model(num_codes)
    five = prior.sample(Condition(labels=labels()), 5, PLAIN, torch_rng(0, "s"))
    again = prior.sample(Condition(labels=labels()), 5, PLAIN, torch_rng(0, "s"))
    other = prior.sample(Condition(labels=labels()), 5, PLAIN, torch_rng(1, "s"))
    two = prior.sample(Condition(labels=labels(2)), 2, PLAIN, torch_rng(0, "s"))
    pairs = PLAIN.model_copy(update={"batch": 2})
    passes = prior.sample(Condition(labels=labels()), 5, pairs, torch_rng(0, "s"))
    assert torch.equal(five, again)
    assert not torch.equal(five, other)
    assert torch.equal(five[:2], two)
    assert torch.equal(five, passes)
    assert prior.sample(Condition(labels=labels(0)), 0, PLAIN, torch_rng(0, "s")).shape == (
        0, len(num_codes), *GRID,
    )  # fmt: skip


def test_guidance_of_one_is_the_conditional_model_and_of_zero_the_unconditional() -> None:
    prior = model(ONE)
    drawn = {
        scale: prior.sample(
            Condition(labels=labels()), 5, PLAIN.model_copy(update={"guidance": scale}), torch_rng(0, "s")
        )
        for scale in (0.0, 1.0, 3.0)
    }
    none = prior.sample(Condition(), 5, PLAIN, torch_rng(0, "s"))
    plain = prior.sample(Condition(labels=labels()), 5, PLAIN, torch_rng(0, "s"))
    assert torch.equal(drawn[1.0], plain)
    assert torch.equal(drawn[0.0], none)
    assert not torch.equal(drawn[3.0], plain)
    assert not torch.equal(none, plain)


@GROUPS
@torch.no_grad()
def test_log_likelihood_is_the_naive_product_of_softmaxes(num_codes: tuple[int, ...]) -> None:
    prior, batch = model(num_codes), images(num_codes, 2)
    condition = Condition(labels=labels(2))
    found = prior.log_likelihood(batch, condition)
    assert found.shape == batch.shape
    tokens = batch.flatten(2)
    total = 0.0
    for image in range(2):
        for position in range(prior.num_positions):
            # Only the codes before this position are given; the rest are zeros.
            seen = torch.zeros_like(tokens[image : image + 1])
            seen[..., :position] = tokens[image, :, :position]
            for group, logits in enumerate(prior(seen, Condition(labels=labels(2)[image : image + 1]))):
                p = logits[0, position].double().exp()
                total += math.log2(float(p[tokens[image, group, position]] / p.sum()))
    assert float(found.double().sum()) / math.log(2) == pytest.approx(total, rel=1e-5)
    expected_loss = -float(found.double().mean(dim=(0, 2, 3)).sum())
    assert float(prior.loss(batch, condition)) == pytest.approx(expected_loss, rel=1e-5)


def test_the_class_changes_the_likelihood_and_no_class_is_the_null_row() -> None:
    prior, batch = model(ONE), images(ONE)
    a = prior.log_likelihood(batch, Condition(labels=torch.zeros(5, dtype=torch.int64)))
    b = prior.log_likelihood(batch, Condition(labels=torch.ones(5, dtype=torch.int64)))
    none = prior.log_likelihood(batch, Condition())
    minus = prior.log_likelihood(batch, Condition(labels=torch.full((5,), -1)))
    assert (a - b).abs().max() > 1e-2
    assert torch.equal(none, minus)
    assert (a - none).abs().max() > 1e-2


@GROUPS
def test_partial_tokens_are_kept_and_the_rest_follows_from_them(num_codes: tuple[int, ...]) -> None:
    prior, batch = model(num_codes), images(num_codes)
    known = batch.clone()
    known[:, :, 2:] = -1  # the last row is to be drawn
    drawn = prior.sample(Condition(tokens=known, labels=labels()), 5, PLAIN, torch_rng(0, "s"))
    naive = naive_sample(prior, Condition(tokens=known, labels=labels()), 5, PLAIN, torch_rng(0, "s"))
    assert torch.equal(drawn[:, :, :2], batch[:, :, :2])
    assert torch.equal(drawn, naive)
    whole = prior.sample(Condition(tokens=batch), 5, PLAIN, torch_rng(0, "s"))
    assert torch.equal(whole, batch)


def test_an_empty_prefix_is_no_prefix() -> None:
    prior = model(ONE)
    nothing = torch.full((5, 1, *GRID), -1)
    drawn = prior.sample(Condition(tokens=nothing, labels=labels()), 5, PLAIN, torch_rng(0, "s"))
    assert torch.equal(drawn, prior.sample(Condition(labels=labels()), 5, PLAIN, torch_rng(0, "s")))


def holes() -> Tensor:
    tokens = images(ONE)
    tokens[:, :, 0, 1] = -1
    return tokens


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda: Condition(text=torch.zeros(5, 2, 4)), r"cannot be given text\n.*text\n.*labels, tokens"),
        (lambda: Condition(label_map=torch.zeros(5, 8, 8).long()), "cannot be given label_map"),
        (lambda: Condition(labels=labels() + 3), "0 to 2"),
        (lambda: Condition(labels=labels() - 2), "0 to 2"),
        (lambda: Condition(labels=labels(4)), "labels must have one entry per image"),
        (lambda: Condition(tokens=holes()), "raster order"),
        (lambda: Condition(tokens=images(ONE) + 9), "codebook"),
        (lambda: Condition(tokens=images(ONE)[:, :, :2]), "wrong shape"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(condition: Any, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        model(ONE).sample(condition(), 5, PLAIN, torch_rng(0, "s"))


def test_models_refuse_what_they_were_not_made_for() -> None:
    with pytest.raises(MismatchError, match="condition: none cannot be given labels"):
        model(ONE, condition="none").loss(images(ONE), Condition(labels=labels()))
    with pytest.raises(MismatchError, match="0 classes"):
        model(ONE, num_classes=0)
    with pytest.raises(MismatchError, match="of another shape"):
        model(ONE).loss(images(TWO), Condition())
    undropped = model(ONE, condition_drop=0.0)
    with pytest.raises(MismatchError, match="null condition"):
        undropped.sample(Condition(), 5, PLAIN, torch_rng(0, "s"))
    guided = PLAIN.model_copy(update={"guidance": 2.0})
    with pytest.raises(MismatchError, match="guidance"):
        undropped.sample(Condition(labels=labels()), 5, guided, torch_rng(0, "s"))


def test_params_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ParamsError, match="multiple of num_heads"):
        params(model={"num_heads": 3})
    with pytest.raises(ParamsError, match="needs positions"):
        params(model={"rotary_base": None, "learned_positions": False})
    with pytest.raises(ParamsError, match="guided_positions needs guidance"):
        params(sampling={**PLAIN.model_dump(), "guided_positions": 3})
    sampling = {**PLAIN.model_dump(), "guidance": 2.0}
    with pytest.raises(ParamsError, match="condition_drop above 0"):
        params(condition_drop=0.0, sampling=sampling)


@GROUPS
def test_initial_weights_and_decay_groups_are_the_reference_ones(num_codes: tuple[int, ...]) -> None:
    seed_everything(0, "init")
    shape = {"width": 64, "rotary_base": None}
    prior = GPT(params(model=shape), space(num_codes))
    network = prior.network
    assert network.positions is not None
    assert not network.positions.any()
    for weight in (
        network.heads[0].weight,
        network.codes.tables[0].weight,
        network.shared.blocks[0].mlp[0].weight,
    ):
        assert isinstance(weight, Tensor)
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.15)
    assert all(head.bias is None for head in network.heads)
    decayed, kept = decay_groups(prior)
    assert "weight_decay" not in decayed
    assert kept["weight_decay"] == 0.0
    linear = {id(m.weight) for m in prior.modules() if isinstance(m, torch.nn.Linear)}
    assert {id(p) for p in decayed["params"]} == linear  # type: ignore[attr-defined]
    total = len(decayed["params"]) + len(kept["params"])  # type: ignore[arg-type]
    assert total == len(list(prior.parameters()))


def test_two_streams_share_three_quarters_of_the_layers() -> None:
    network = model(TWO).network
    assert len(network.shared.blocks) == 3
    assert [len(branch.blocks) for branch in network.branches] == [1, 1]  # type: ignore[arg-type]
    assert len(model(ONE).network.shared.blocks) == 4


@GROUPS
def test_training_learns_a_class_that_decides_the_codes(num_codes: tuple[int, ...]) -> None:
    """Every image of class c is all c: the loss falls far below uniform, and samples follow their label."""
    seed_everything(0, "learn")
    shape = {"num_layers": 2, "rotary_base": None, "dropout": NO_DROPOUT}
    prior = GPT(params(condition_drop=0.2, model=shape), space(num_codes)).train()
    batch = labels(24)[:, None, None, None].expand(24, len(num_codes), *GRID)
    optimizer = torch.optim.AdamW(decay_groups(prior), lr=0.01)
    uniform = sum(math.log(k) for k in num_codes)
    assert float(prior.loss(batch, Condition(labels=labels(24))).detach()) == pytest.approx(uniform, rel=0.05)
    for _ in range(60):
        loss = prior.loss(batch, Condition(labels=labels(24)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * uniform
    top = PLAIN.model_copy(update={"top_k": 1})
    drawn = prior.eval().sample(Condition(labels=labels(6)), 6, top, torch_rng(0, "s"))
    assert torch.equal(drawn, labels(6)[:, None, None, None].expand_as(drawn))


def test_token_noise_acts_in_training_only() -> None:
    prior = model(ONE, token_noise=0.9, model={"num_layers": 2, "dropout": NO_DROPOUT})
    batch = images(ONE)
    condition = Condition(labels=labels())
    still = float(prior.loss(batch, condition).detach())
    assert float(prior.loss(batch, condition).detach()) == still
    prior.train()
    torch.manual_seed(0)
    noisy = {round(float(prior.loss(batch, condition).detach()), 6) for _ in range(4)}
    assert len(noisy) == 4


def test_sampling_in_training_mode_is_our_own_bug() -> None:
    with pytest.raises(RuntimeError, match="eval mode"):
        model(ONE).train().sample(Condition(), 1, PLAIN, torch_rng(0, "s"))


def test_turned_queries_and_keys_score_by_their_offsets_in_the_grid() -> None:
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    rotation = turns(grid_places(4, 5), 8, 100.0)
    scores = (turned(query, rotation) @ turned(key, rotation).T).view(4, 5, 4, 5)
    torch.testing.assert_close(scores[0, 0, 0, 0], query @ key)
    for down, right in ((1, 0), (0, 1), (2, 3)):
        same = [
            scores[row, column, row + down, column + right]
            for row in range(4 - down)
            for column in range(5 - right)
        ]
        torch.testing.assert_close(torch.stack(same), same[0].expand(len(same)))
        assert (same[0] - scores[0, 0, 0, 0]).abs() > 1e-3


def test_rotary_positions_need_whole_planes_for_both_axes() -> None:
    with pytest.raises(ParamsError, match="multiple of 4 channels in a head, not 6"):
        params(model={"width": 12})


@GROUPS
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("filters", [{}, {"guidance": 2.5, "guided_positions": 5}], ids=["plain", "guided"])
def test_every_condition_and_form_draws_what_the_full_forward_does(
    num_codes: tuple[int, ...], form: dict[str, Any], filters: dict[str, Any]
) -> None:
    if form["condition"] == "none":
        filters = {}  # no condition can be guided
    prior, sampling, batch = model(num_codes, **form), PLAIN.model_copy(update=filters), images(num_codes)
    batch[:, :, 1, 2:], batch[:, :, 2] = -1, -1  # six codes are known
    own = given(prior.config.condition)
    for condition in (own, Condition(**own.parts, tokens=batch)):
        drawn = prior.sample(condition, 5, sampling, torch_rng(0, "s"))
        assert torch.equal(drawn, naive_sample(prior, condition, 5, sampling, torch_rng(0, "s")))
        passes = prior.sample(condition, 5, sampling.model_copy(update={"batch": 2}), torch_rng(0, "s"))
        assert torch.equal(drawn, passes)


@pytest.mark.parametrize("condition", ["class", "text", "label_map"])
def test_a_condition_changes_the_likelihood_and_none_is_the_null(condition: ConditionKind) -> None:
    prior, batch, own = model(ONE, condition=condition), images(ONE), given(condition)
    others = Condition(**{name: part.roll(1, 0) for name, part in own.parts.items()})
    found, other, null = (prior.log_likelihood(batch, one) for one in (own, others, Condition()))
    assert (found - other).abs().max() > 1e-2
    assert (found - null)[1:].abs().amax(dim=(1, 2, 3)).min() > 1e-2
    if condition != "class":  # the first image has none
        assert torch.equal(found[0], null[0])


def test_a_text_is_read_up_to_its_end_alone() -> None:
    prior, batch, own = model(ONE, condition="text"), images(ONE), given("text")
    assert own.text is not None
    assert own.text_ids is not None
    noise = torch.where((own.text_ids < 0)[..., None], torch.randn(own.text.shape), own.text)
    assert (noise != own.text).any()
    noisy = Condition(text=noise, text_ids=own.text_ids)
    assert torch.equal(prior.log_likelihood(batch, own), prior.log_likelihood(batch, noisy))


def test_a_cell_of_a_map_has_the_class_of_most_of_its_pixels() -> None:
    label_map = torch.tensor([[[0, 0, 2, -1], [1, 0, -1, -1], [2, 1, 1, -1], [1, 2, -1, 1]]])
    assert majority(label_map, (2, 2), 3).tolist() == [
        [[0, 3], [1, 1]]
    ]  # of equals the lowest, and unknown last
    assert majority(label_map, (4, 2), 3).tolist() == [[[0, 2], [0, 3], [1, 1], [1, 1]]]
    assert torch.equal(majority(label_map, (4, 4), 3), torch.where(label_map < 0, 3, label_map))


def test_maps_that_are_not_whole_cells_are_refused() -> None:
    with pytest.raises(MismatchError, match="side 24 cannot be divided into 15 x 20 cells"):
        model(ONE, condition="label_map", map_scale=5)
    half = Condition(label_map=torch.zeros(5, SIDE // 2, SIDE // 2, dtype=torch.int64))
    with pytest.raises(MismatchError, match=r"found: +\(5, 12, 12\)"):
        model(ONE, condition="label_map").sample(half, 5, PLAIN, torch_rng(0, "s"))


def test_cells_of_a_map_are_where_the_tokens_are() -> None:
    assert torch.equal(grid_places(2, 2), torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).double())
    fine = grid_places(4, 4, 2).view(2, 2, 2, 2, 2)  # rows, cells, columns, cells, place
    torch.testing.assert_close(fine.mean(dim=(1, 3)).flatten(0, 1), grid_places(2, 2))
    network = model(ONE, condition="label_map").network
    assert network.rotation is not None
    # Written out: a plane turns by 100^(-4 i / e) of a row or a column, e = 8, i = 0 and 1; rows come first.
    speed = 100.0 ** (-torch.tensor([0.0, 4.0], dtype=torch.float64) / 8)
    rows, columns = torch.meshgrid(*(torch.arange(side).double() for side in GRID), indexing="ij")
    planes = torch.cat([rows.reshape(-1, 1) * speed, columns.reshape(-1, 1) * speed], dim=1).repeat(1, 2)
    own = torch.stack([planes.cos(), planes.sin()]).float()
    torch.testing.assert_close(network.rotation[:, :12], own)
    torch.testing.assert_close(network.rotation[:, 12:], own[:, :-1])


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_full_prefix_sees_all_of_itself_and_no_code(attention: str) -> None:
    prior = model(ONE, condition="text", model={"prefix_attention": attention})
    tokens, own = images(ONE).flatten(2), given("text")
    prefix = prior.prefix(own, 5)
    whole = prior.network.hidden(
        torch.cat([prefix, prior.network.codes(tokens[..., :-1])], 1), slice(prior.network.length)
    )[0]
    changed = prefix.clone()
    changed[:, -1] += torch.randn(16)
    other = prior.network.hidden(
        torch.cat([changed, prior.network.codes(tokens[..., :-1].roll(1))], 1), slice(prior.network.length)
    )[0]
    assert torch.allclose(whole[:, 0], other[:, 0], atol=1e-6) == (attention == "causal")
    alone = prior.network.features(prefix, tokens[..., :0])[0]
    torch.testing.assert_close(alone[:, 0], whole[:, TEXT[0] - 1])


def test_an_added_map_has_a_vector_for_each_cell_of_the_position_that_is_predicted() -> None:
    prior, own = model(ONE, condition="label_map", condition_as="added", map_scale=2), given("label_map")
    assert own.label_map is not None
    added, cells = prior.prefix.added(own, 5), majority(own.label_map, (6, 8), 3)
    assert added is not None
    table = prior.prefix.table.weight.view(4, 4, 16)  # type: ignore[union-attr]
    down, right = 1, 2
    four = cells[:, 2 * down : 2 * down + 2, 2 * right : 2 * right + 2].flatten(1)
    torch.testing.assert_close(
        added[:, 4 * down + right], sum(table[at, four[:, at]] for at in range(4)), check_dtype=False
    )
    changed = own.label_map.clone()
    changed[:, :, 18:] = (changed[:, :, 18:] + 1) % 3  # of the last column, which codes before it do not see
    tokens = images(ONE).flatten(2)
    one, two = (prior(tokens, Condition(label_map=of))[0] for of in (own.label_map, changed))
    assert torch.equal(one[:, :3], two[:, :3])
    assert (one[:, 3] - two[:, 3]).abs().max() > 1e-2


def test_llamas_mlp_is_as_wide_as_llamagens() -> None:
    """B and L of LlamaGen's table of models: 2,048 and 2,816 channels."""
    for width, hidden in ((768, 2048), (1024, 2816), (1280, 3584)):
        with torch.device("meta"):
            assert SwiGLU(width, 256).down.weight.shape == (width, hidden)


def test_each_dropout_acts_on_its_own() -> None:
    batch, condition = images(ONE), Condition(labels=labels())
    found = {}
    for place in NO_DROPOUT:
        prior = model(ONE, condition_drop=0.0, model={"dropout": {**NO_DROPOUT, place: 0.5}})
        still = float(prior.loss(batch, condition).detach())
        torch.manual_seed(0)
        found[place] = float(prior.train().loss(batch, condition).detach())
        assert found[place] != pytest.approx(still, rel=1e-4)
    assert len(set(found.values())) == len(NO_DROPOUT)
