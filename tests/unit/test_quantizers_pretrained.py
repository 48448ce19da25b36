"""VQCT and VQGAN-LC in the forms of their ablations: which codes they have, what is trained, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.recipes import GCN, LC, MLP, VQCT, patches, words
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build
from vqpipe.quantizers.transfer import FrozenProjection, normalised_adjacency
from vqpipe.quantizers.vqct import CodebookTransferQuantizer

NONE = {"kind": "none"}


def fresh(base: dict[str, Any], codebook: Any, seed: int = 0, **changes: Any) -> Quantizer:
    torch.manual_seed(seed)
    return build(validate({**base, **changes}, "quantizer", AnyQuantizer), codebook)  # type: ignore[arg-type]


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def train(quantizer: Quantizer, dim: int, num_steps: int = 2) -> dict[str, Tensor]:
    """Some steps of Adam on the quantizer's own loss; the state before them."""
    before = {name: tensor.clone() for name, tensor in quantizer.train().state_dict().items()}
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.01)
    for step in range(num_steps):
        optimiser.zero_grad()
        quantizer(latent(2, dim, 4, 4, seed=step)).loss.backward()
        optimiser.step()
    return before


def changed(quantizer: Quantizer, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in quantizer.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("transfer", [GCN, MLP], ids=["gcn", "mlp"])
def test_a_single_codebook_is_both_side_by_side(transfer: dict[str, Any]) -> None:
    multi = fresh(VQCT, words(), dim=8, transfer=transfer).eval().codebooks()
    (single,) = fresh(VQCT, words(), dim=4, transfer=transfer, codebooks="single").eval().codebooks()
    assert torch.equal(single.vectors, torch.cat([book.vectors for book in multi]))
    assert (single.group, single.names) == ("word", words().names)
    assert single.names is not None
    assert single.names.count("red") == 2
    red = [i for i, name in enumerate(single.names) if name == "red"]
    assert not torch.equal(single.vectors[red[0]], single.vectors[red[1]])


def test_a_single_codebook_needs_no_even_dimension() -> None:
    quantizer = fresh(VQCT, words(), dim=5, codebooks="single")
    assert quantizer(latent(1, 5, 2, 2)).indices.shape == (1, 1, 2, 2)


def test_without_a_network_the_word_vectors_are_the_codes() -> None:
    (single,) = fresh(VQCT, words(), dim=12, transfer=NONE, codebooks="single").codebooks()
    assert torch.equal(single.vectors, words().vectors)
    adjectives, nouns = fresh(VQCT, words(), dim=24, transfer=NONE).codebooks()
    assert torch.equal(adjectives.vectors, words().adjective_vectors)
    assert torch.equal(nouns.vectors, words().noun_vectors)


def test_a_frozen_projection_keeps_the_most_of_the_variance() -> None:
    vectors = latent(50, 6) * torch.tensor([5.0, 1, 4, 1, 3, 1]) + 10
    projection = FrozenProjection(6, 3)
    projection.set_directions(vectors)
    torch.testing.assert_close(projection.matrix.T @ projection.matrix, torch.eye(3))
    spectrum = torch.linalg.svdvals(vectors - vectors.mean(0)).square()
    torch.testing.assert_close(projection(vectors).var(0, correction=0) * 50, spectrum[:3])
    assert (projection.matrix.abs().amax(0) == projection.matrix.amax(0)).all()
    assert not list(projection.parameters())
    assert not FrozenProjection(6, 6).state_dict()


@pytest.mark.parametrize("dim", [12, 7])
def test_fine_tuning_moves_the_words_and_nothing_that_is_frozen(dim: int) -> None:
    tuned = fresh(VQCT, words(), dim=dim, transfer=NONE, codebooks="single", trainable_words=True)
    before = train(tuned, dim)
    assert changed(tuned, before) == {"adjective_vectors", "noun_vectors"}
    frozen = fresh(VQCT, words(), dim=dim, transfer=NONE, codebooks="single")
    assert not list(frozen.parameters())
    at_start = tuned.skeleton(tuned.config, before, None)  # type: ignore[arg-type]
    at_start.load_state_dict(before)
    assert torch.equal(at_start.codebooks()[0].vectors, frozen.codebooks()[0].vectors)


def test_words_stay_frozen_under_a_network() -> None:
    quantizer = fresh(VQCT, words())
    assert {name.split(".")[0] for name in changed(quantizer, train(quantizer, 8))} == {"transfer"}


def test_random_words_have_the_scale_of_the_prior_and_nothing_else_of_it() -> None:
    many = WordsCodebook(
        [f"a{i}" for i in range(300)], [f"n{i}" for i in range(300)], latent(300, 12) * 3 + 4,
        latent(300, 12, seed=2) * 3 + 4, torch.tensor([[0], [1]]), torch.ones(1),
    )  # fmt: skip
    first, again, other = (fresh(VQCT, many, seed, words="random").state_dict() for seed in (0, 0, 1))
    drawn = torch.cat([first["adjective_vectors"], first["noun_vectors"]])
    assert torch.equal(first["noun_vectors"], again["noun_vectors"])
    assert not torch.equal(first["noun_vectors"], other["noun_vectors"])
    assert drawn.square().mean().sqrt() == pytest.approx(5.0, rel=0.05)
    assert abs(float(drawn.mean())) < 0.3
    assert torch.equal(first["edges"], many.edges)
    quantizer = fresh(VQCT, many, words="random")
    assert [book.names for book in quantizer.codebooks()] == [many.adjectives, many.nouns]
    assert "adjective_vectors" not in changed(quantizer, train(quantizer, 8))


@pytest.mark.parametrize("count", [2, 4])
def test_the_first_half_is_the_mean_of_the_nearest_adjectives(count: int) -> None:
    transfer = {**GCN, "final_relu": False}
    quantizer = fresh(VQCT, words(), transfer=transfer, topk_adjectives=count).eval()
    z = latent(2, 8, 3, 5)
    with torch.no_grad():
        out = quantizer(z)
        decoded = quantizer.decode(out.indices)
    *ranks, nouns = quantizer.codebooks()
    assert [book.group for book in ranks] == [f"adjective_{i + 1}" for i in range(count)]
    assert quantizer.num_codes == (*[5] * count, 7)
    adjectives = ranks[0].vectors
    distance = (z[:, :4, None] - adjectives.T[None, :, :, None, None]).double().square().sum(1)
    order = distance.argsort(dim=1, stable=True)
    assert torch.equal(out.indices[:, :count], order[:, :count])
    mean = torch.stack([adjectives[order[:, i]] for i in range(count)]).mean(0).movedim(-1, 1)
    torch.testing.assert_close(out.z_q[:, :4], mean)
    assert torch.equal(decoded, out.z_q)
    one = fresh(VQCT, words(), transfer=transfer).eval()(z)
    assert torch.equal(out.indices[:, 0], one.indices[:, 0])  # the nearest first
    assert torch.equal(out.indices[:, count], one.indices[:, 1])
    assert torch.equal(out.z_q[:, 4:], one.z_q[:, 4:])
    commitment = (z[:, :4] - out.z_q[:, :4]).square().mean()
    torch.testing.assert_close(out.terms["commitment_adjective"], commitment)
    assert set(out.terms) == set(one.terms)
    assert nouns.group == "noun"


def test_adjectives_that_are_averaged_all_learn() -> None:
    quantizer = fresh(VQCT, words(), dim=24, transfer=NONE, trainable_words=True, topk_adjectives=2).train()
    out = quantizer(latent(1, 24, 1, 1))
    out.loss.backward()
    gradient = quantizer.get_parameter("adjective_vectors").grad
    assert gradient is not None
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == sorted(out.indices[0, :2].flatten().tolist())


def test_the_adjacency_of_a_whole_vocabulary_takes_memory_in_proportion_to_its_edges() -> None:
    ka, kn, num = 1949, 4258, 20_000
    pairs = torch.randperm(ka * kn, generator=torch.Generator().manual_seed(0))[:num]
    edges = torch.stack([pairs // kn, pairs % kn])
    codebook = WordsCodebook([""] * ka, [""] * kn, latent(ka, 6), latent(kn, 6), edges, torch.ones(num))
    quantizer = fresh(VQCT, codebook).eval()
    assert isinstance(quantizer, CodebookTransferQuantizer)
    with torch.no_grad():
        assert quantizer(latent(1, 8, 2, 2)).z_q.isfinite().all()
    adjacency = quantizer._adjacency.get([quantizer.edges, quantizer.edge_weights], pytest.fail)
    assert adjacency.layout == torch.sparse_coo
    assert adjacency._nnz() == 2 * num + ka + kn
    stored = (adjacency.indices(), adjacency.values())
    assert sum(part.untyped_storage().nbytes() for part in stored) == adjacency._nnz() * (8 + 8 + 4)
    assert max(t.untyped_storage().nbytes() for t in quantizer.state_dict().values()) <= 2 * num * 8
    assert normalised_adjacency(3, torch.tensor([[0], [1]]))._nnz() == 2 + 3


def test_codes_are_made_once_in_eval_and_on_every_pass_in_training() -> None:
    quantizer = fresh(VQCT, words(), topk_adjectives=2)
    assert isinstance(quantizer, CodebookTransferQuantizer)
    calls: list[int] = []
    quantizer.transfer.register_forward_hook(lambda *_: calls.append(1))
    quantizer.eval()
    with torch.no_grad():
        for _ in range(3):
            quantizer.decode(quantizer(latent(1, 8, 3, 3)).indices)
        quantizer.codebooks()
    assert len(calls) == 1
    quantizer.train()
    for _ in range(3):
        quantizer(latent(1, 8, 3, 3))
    assert len(calls) == 4


def test_centroids_without_a_projector_are_the_codes_and_prefixes_of_each_other() -> None:
    (whole,) = fresh(LC, patches(), dim=20, projector=False).codebooks()
    (part,) = fresh(LC, patches(), dim=20, num_codes=8, projector=False).codebooks()
    assert torch.equal(whole.vectors, patches().vectors[:32])
    assert torch.equal(part.vectors, whole.vectors[:8])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_centroids_without_a_projector_are_searched_by_the_distance_of_the_params(distance: str) -> None:
    z = latent(2, 20, 3, 3) * 4
    out = fresh(LC, patches(), dim=20, projector=False, distance=distance).eval()(z)
    codes, rows = patches().vectors[:32].double(), z.movedim(1, -1).flatten(0, 2).double()
    if distance == "cosine":
        naive = (normalize(rows, dim=1) @ normalize(codes, dim=1).T).argmax(1)
    else:
        naive = torch.cdist(rows, codes).argmin(1)
    assert torch.equal(out.indices.flatten(), naive)


@pytest.mark.parametrize("projector", [True, False])
def test_trainable_centroids_move_and_frozen_ones_do_not(projector: bool) -> None:
    dim = 8 if projector else 20
    tuned = fresh(LC, patches(), dim=dim, projector=projector, trainable=True)
    before = train(tuned, dim)
    assert torch.equal(before["centroids"], patches().vectors[:32])
    assert changed(tuned, before) == set(before) - {"initialised"}
    frozen = fresh(LC, patches(), dim=dim, projector=projector)
    assert "centroids" not in dict(frozen.named_parameters())


def test_random_centroids_have_the_moments_of_those_they_stand_for() -> None:
    spread = torch.linspace(0.1, 5, 20)
    codebook = PatchesCodebook(
        latent(2000, 20) * spread + torch.arange(20), torch.ones(2000, dtype=torch.int64), {}
    )
    first, again = (fresh(LC, codebook, num_codes=1500, source="random").state_dict() for _ in range(2))
    drawn, own = first["centroids"], codebook.vectors[:1500]
    assert torch.equal(drawn, again["centroids"])
    torch.testing.assert_close(drawn.std(0), own.std(0), rtol=0.1, atol=0)
    torch.testing.assert_close(drawn.mean(0) / spread, own.mean(0) / spread, rtol=0, atol=0.15)
    assert (drawn - own).abs().mean(0).gt(0.5 * spread).all()


@pytest.mark.parametrize("projector", [True, False])
def test_random_codes_of_vqgan_lc_s_code_are_uniform_in_the_code_s_dimension_and_frozen(
    projector: bool,
) -> None:
    params = {**LC, "source": "uniform", "num_codes": 500, "init": "reference" if projector else "standard"}
    quantizer = fresh(params, None, projector=projector)
    drawn = quantizer.get_buffer("centroids").clone()
    assert drawn.shape == (500, 8)
    assert 0.99 / 500 < drawn.abs().max().item() <= 1 / 500
    assert float(drawn.std()) == pytest.approx(1 / 500 / 3**0.5, rel=0.05)
    (book,) = quantizer.codebooks()
    if projector:
        before = train(quantizer, 8)
        assert changed(quantizer, before) == {"projector.weight", "projector.bias"}
        weight, bias = before["projector.weight"], before["projector.bias"]
        torch.testing.assert_close(book.vectors, drawn @ weight.T + bias)
    else:
        assert not list(quantizer.parameters())
        assert torch.equal(book.vectors, drawn)
    assert torch.equal(quantizer.get_buffer("centroids"), drawn)


def test_the_reference_s_projector_starts_with_the_variance_of_the_code_s_dimension() -> None:
    wide = PatchesCodebook(latent(10, 768), torch.ones(10, dtype=torch.int64), {})
    starts = {init: fresh(LC, wide, num_codes=10, init=init) for init in ("standard", "reference")}
    std = {init: q.get_parameter("projector.weight").std().item() for init, q in starts.items()}
    assert std["reference"] == pytest.approx(8**-0.5, rel=0.03)
    assert std["reference"] / std["standard"] == pytest.approx(17, rel=0.03)
    assert starts["reference"].get_parameter("projector.bias").abs().max() <= 768**-0.5  # the layer's own


@pytest.mark.parametrize("projector", [True, False])
def test_normalised_latents_meet_codes_of_any_length(projector: bool) -> None:
    changes = {"beta": 0.33, "beta_on": "codebook", "distance": "euclidean", "projector": projector}
    quantizer = fresh(LC, patches(), dim=20, normalise=True, **changes).train()
    z, upstream = (latent(2, 20, 3, 5) * 3).requires_grad_(), latent(2, 20, 3, 5, seed=2)
    out = quantizer(z)
    (out.loss + (out.z_q * upstream).sum()).backward()
    codes = quantizer.codebooks()[0].vectors.double()
    rows = z.detach().movedim(1, -1).flatten(0, 2).double().requires_grad_()
    unit = rows / rows.norm(dim=1, keepdim=True)
    index = torch.cdist(unit, codes).argmin(1)
    loss = 1.33 * (unit - codes[index]).square().mean()
    assert torch.equal(out.indices.flatten(), index)
    assert torch.equal(out.z_q.movedim(1, -1).flatten(0, 2), quantizer.codebooks()[0].vectors[index])
    torch.testing.assert_close(out.loss.double(), loss)
    reached = (unit - codes[index]).square().mean() + (unit * upstream.movedim(1, -1).flatten(0, 2)).sum()
    reached.backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad.movedim(1, -1).flatten(0, 2).double(), rows.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("params", "codebook", "says"),
    [
        (
            {**LC, "source": "uniform"},
            patches(),
            ["quantizer lc", "a patches codebook (40 x 20)", "no codebook"],
        ),
        ({**LC, "projector": False}, patches(), ["dim: 8", "centroids of dimension 20", "dim: 20"]),
        ({**LC, "source": "random"}, None, ["quantizer lc", "no codebook", "a patches codebook"]),
        ({**LC, "source": "random", "num_codes": 41}, patches(), ["num_codes: 41", "40 centroids"]),
        ({**VQCT, "words": "random"}, None, ["quantizer vqct", "no codebook", "a words codebook"]),
        ({**VQCT, "topk_adjectives": 6}, words(), ["topk_adjectives: 6", "5 adjectives", "at most 5"]),
        (
            {**VQCT, "dim": 26, "transfer": NONE},
            words(),
            ["codes of dimension 13", "word vectors of dimension 12", "dim of at most 24", "mlp"],
        ),
        (
            {**VQCT, "dim": 13, "transfer": NONE, "codebooks": "single"},
            words(),
            ["codes of dimension 13", "dim of at most 12"],
        ),
    ],
)
def test_params_and_a_codebook_that_do_not_fit_are_refused(
    params: dict[str, Any], codebook: Any, says: list[str]
) -> None:
    with pytest.raises(MismatchError) as caught:
        fresh(params, codebook)
    for text in says:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({**VQCT, "codebooks": "single", "topk_adjectives": 2}, "needs codebooks: multi"),
        ({**VQCT, "topk_adjectives": 0}, "topk_adjectives"),
        ({**VQCT, "transfer": NONE, "init": "data"}, "set init: standard"),
        ({**VQCT, "transfer": {**NONE, "num_layers": 2}}, "num_layers is not a field"),
        ({**VQCT, "words": "glove"}, "words"),
        ({**LC, "projector": False, "init": "data"}, "set init: standard"),
        ({**LC, "projector": False, "init": "reference"}, "init reference sets the projector"),
        ({**LC, "source": "kmeans"}, "source"),
    ],
)
def test_params_that_contradict_each_other_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        validate(params, "quantizer", AnyQuantizer)  # type: ignore[arg-type]
    assert says in str(caught.value)
