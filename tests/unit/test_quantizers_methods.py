"""What is particular to each method: where the losses' gradients land, starting from data, the graph
network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, Quantizer, build
from vqpipe.quantizers.estimators import straight_through
from vqpipe.quantizers.moments import compose, draw_rows, moment_map
from vqpipe.quantizers.nearest import NearestCodeQuantizer, code_losses
from vqpipe.quantizers.transfer import GraphNetwork, normalised_adjacency

DIM = 8
COMMON = {"dim": DIM, "beta": 0.25, "beta_on": "commitment"}
MLP = {"kind": "mlp", "num_layers": 2, "hidden_dim": 16, "final_relu": False, "dropout": 0.0}
GCN = {**MLP, "kind": "gcn", "edge_weights": "count"}
PAPER = {**GCN, "num_layers": 3, "final_relu": True, "edge_weights": "binary"}


def fresh(codebook: Any = None, **params: Any) -> Quantizer:
    torch.manual_seed(0)
    return build(validate({**COMMON, **params}, "quantizer", AnyQuantizer), codebook)  # type: ignore[arg-type]


def vq(num_codes: int = 16, init: str = "uniform") -> Quantizer:
    return fresh(kind="vq", num_codes=num_codes, init=init)


def in_words() -> WordsCodebook:
    draw = torch.Generator().manual_seed(3)
    return WordsCodebook(
        adjectives=["red", "blue", "yellow", "striped", "old"],
        nouns=["bird", "sun", "sea", "house", "cat", "tree", "red"],
        adjective_vectors=torch.randn(5, 12, generator=draw),
        noun_vectors=torch.randn(7, 12, generator=draw),
        edges=torch.tensor([[0, 1, 2, 2, 3, 4], [0, 2, 1, 0, 4, 6]]),
        weights=torch.tensor([3.0, 9.0, 20.0, 1.0, 2.0, 2.0]),
    )


def vqct(transfer: dict[str, Any], init: str = "standard") -> Quantizer:
    return fresh(in_words(), kind="vqct", transfer=transfer, init=init)


def lc_from_data() -> Quantizer:
    vectors = torch.randn(40, 20, generator=torch.Generator().manual_seed(4))
    codebook = PatchesCodebook(vectors, torch.ones(40), {})
    return fresh(codebook, kind="lc", num_codes=40, distance="cosine", init="data")


def latent(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("beta_on", "encoder", "codes"), [("commitment", 0.25, 1.0), ("codebook", 1.0, 0.25)]
)
def test_beta_weighs_the_term_that_its_order_names(beta_on: Any, encoder: float, codes: float) -> None:
    z, e = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    loss, commitment, codebook = code_losses(z, e, 0.25, beta_on)
    loss.backward()
    slope = 2 * (z - e).detach() / z.numel()
    torch.testing.assert_close(z.grad, encoder * slope)
    torch.testing.assert_close(e.grad, -codes * slope)
    assert torch.equal(commitment, codebook)  # the same number: only their gradients differ


def test_straight_through_gives_the_codes_exactly() -> None:
    z, code = torch.full((3,), 1e8, requires_grad=True), torch.tensor([1e-3, 0.1, 7.0])
    out = straight_through(z, code)
    assert torch.equal(out, code)
    out.sum().backward()
    assert torch.equal(z.grad, torch.ones(3))  # type: ignore[arg-type]


def test_vq_starts_uniform_or_from_latents() -> None:
    codes = vq(num_codes=64).state_dict()["codes"]
    assert codes.abs().max() <= 1 / 64
    assert codes.std() == pytest.approx(1 / 64 / 3**0.5, rel=0.1)
    quantizer = vq(init="data").train()
    z = latent(2, 8, 4, 4)
    out = quantizer(z)
    rows = z.permute(0, 2, 3, 1).reshape(-1, 8)
    assert all((rows == code).all(1).any() for code in out.vectors[0])
    assert len(out.indices.unique()) == 16


def test_starting_from_data_happens_once_and_only_in_training() -> None:
    quantizer = vq(init="data")
    assert isinstance(quantizer, NearestCodeQuantizer)
    start = quantizer.state_dict()["codes"].clone()
    quantizer.eval()(latent(2, 8, 4, 4))
    assert torch.equal(start, quantizer.state_dict()["codes"])
    quantizer.initialise(latent(2, 8, 4, 4))
    first = quantizer.state_dict()["codes"].clone()
    assert not torch.equal(start, first)
    quantizer.train()(latent(2, 8, 4, 4, seed=5))
    quantizer.load_state_dict(quantizer.state_dict())
    quantizer.train()(latent(2, 8, 4, 4, seed=6))
    assert torch.equal(first, quantizer.state_dict()["codes"])


@pytest.mark.parametrize(
    "make",
    [lc_from_data, lambda: vqct(GCN, init="data"), lambda: vqct(MLP, init="data")],
    ids=["lc", "gcn", "mlp"],
)
def test_codes_start_where_the_latents_lie(make: Callable[[], Quantizer]) -> None:
    quantizer = make().train()
    z = latent(8, 8, 6, 6) * torch.arange(1, 9).view(1, -1, 1, 1) + 5
    codes = torch.cat(quantizer(z).vectors)
    halves = z.chunk(quantizer.groups, 1)
    rows = torch.cat([half.permute(0, 2, 3, 1).reshape(-1, codes.shape[1]) for half in halves])
    torch.testing.assert_close(codes.mean(0), rows.mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(codes.T.cov(correction=0), rows.T.cov(correction=0), atol=2e-2, rtol=1e-3)


def test_non_negative_codes_take_the_scale_of_the_latents() -> None:
    z = latent(4, 8, 6, 6) * 30
    codes = torch.cat(vqct(PAPER, init="data").train()(z).vectors)
    assert codes.min() >= 0
    torch.testing.assert_close(codes.square().mean(), z.square().mean(), rtol=1e-3, atol=0)


def test_flat_directions_stay_flat() -> None:
    outputs = torch.randn(50, 4)
    outputs[:, 3] = outputs[:, 0]
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
        layer.bias.zero_()
    compose(layer, *moment_map(outputs, torch.randn(90, 4) * 3))
    assert layer(outputs).abs().max() < 60
    assert torch.linalg.matrix_rank((layer(outputs) - layer(outputs).mean(0)).detach(), rtol=1e-4) == 3


def test_drawn_rows_are_distinct_until_there_are_no_more() -> None:
    rows = torch.randn(10, 3)
    assert len(draw_rows(rows, 10).unique(dim=0)) == 10
    assert torch.equal(draw_rows(rows, 10).sort(0).values, rows.sort(0).values)
    more = draw_rows(rows, 25)
    assert len(more.unique(dim=0)) == 25
    assert torch.cdist(more, rows).amin(1).max() < 0.2


def test_adjacency_is_the_normalised_sum_with_the_identity() -> None:
    edges = torch.tensor([[0, 0, 0, 1], [3, 4, 4, 3]])  # one pair twice; node 2 alone
    for weights in (None, torch.tensor([2.0, 1.0, 3.0, 1.0])):
        a = torch.zeros(5, 5)
        for (i, j), w in zip(edges.T.tolist(), weights if weights is not None else [1.0] * 4, strict=True):
            a[i, j] = a[j, i] = 1.0 if weights is None else a[i, j] + w
        a = a + torch.eye(5)
        scale = a.sum(1).rsqrt()
        expected = scale[:, None] * a * scale
        torch.testing.assert_close(normalised_adjacency(5, edges, weights).to_dense(), expected)


def test_graph_network_equals_its_dense_form() -> None:
    torch.manual_seed(0)
    network = GraphNetwork(6, 7, 3, num_layers=3, final_relu=True, dropout=0.0)
    adjacency, nodes = normalised_adjacency(4, torch.tensor([[0, 1], [2, 3]])), torch.randn(4, 6)
    hidden = nodes
    for layer in network.layers:
        assert isinstance(layer, nn.Linear)
        layer.bias.data.normal_()
        hidden = (adjacency.to_dense() @ hidden @ layer.weight.T + layer.bias).relu()
    torch.testing.assert_close(network(nodes, adjacency), hidden)


def test_all_words_move_when_one_is_used() -> None:
    quantizer = vqct(MLP).train()
    before = [book.vectors for book in quantizer.codebooks()]
    quantizer(latent(1, 8, 1, 1)).loss.backward()
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()
    for old, new in zip(before, quantizer.codebooks(), strict=True):
        assert (old - new.vectors).abs().sum(1).gt(0).all()


def test_edges_weigh_what_the_params_say_and_the_graph_where_they_ask_for_it() -> None:
    own = torch.tensor([0.0, 1.5, 0.2, 0.0, 3.0, 0.7])  # as by `pmi`
    words = replace(in_words(), weights=own, edge_counts=[3, 9, 20, 1, 2, 2])
    by_count = {weights: fresh(words, kind="vqct", transfer={**GCN, "edge_weights": weights}, init="standard")
                for weights in ("count", "binary", "graph")}  # fmt: skip
    graphs = {weights: own._graph().to_dense() for weights, own in by_count.items()}  # type: ignore[operator]
    edges, counts = torch.stack([words.edges[0], words.edges[1] + 5]), torch.tensor(words.edge_counts).float()
    torch.testing.assert_close(graphs["count"], normalised_adjacency(12, edges, counts).to_dense())
    torch.testing.assert_close(graphs["binary"], normalised_adjacency(12, edges, None).to_dense())
    torch.testing.assert_close(graphs["graph"], normalised_adjacency(12, edges, own).to_dense())
    without = normalised_adjacency(12, edges[:, own > 0], own[own > 0]).to_dense()
    torch.testing.assert_close(graphs["graph"], without)
    assert not torch.equal(graphs["count"], graphs["binary"])
    codes = [quantizer.codebooks()[0].vectors for quantizer in by_count.values()]
    assert not any(torch.equal(a, b) for a, b in combinations(codes, 2))


def test_codes_start_with_the_moments_of_the_latents_under_dropout_too() -> None:
    quantizer = vqct({**GCN, "dropout": 0.5}, init="data").train()
    latents = latent(4, DIM, 16, 16) * 2 + 1
    quantizer(latents, 0.0)
    codes = torch.cat([book.vectors for book in quantizer.eval().codebooks()])
    halves = latents.unflatten(1, (2, DIM // 2)).movedim(2, -1).flatten(0, -2)
    torch.testing.assert_close(codes.mean(0), halves.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(codes.std(0), halves.std(0), atol=0.3, rtol=0)
    assert quantizer.train().transfer.training


def test_codes_of_a_module_made_in_inference_mode_are_those_of_its_present_weights() -> None:
    other = vqct(MLP).state_dict()
    with torch.inference_mode():
        quantizer = vqct(MLP).eval()
        for value in other.values():
            value.copy_(value.flip(0) if value.is_floating_point() else value)
        quantizer.forward(latent(1, DIM, 4, 4))
        quantizer.load_state_dict(other)
        found = quantizer.forward(latent(1, DIM, 4, 4)).indices
    expected = vqct(MLP).eval()
    expected.load_state_dict({name: value.clone() for name, value in other.items()})
    assert torch.equal(found, expected.forward(latent(1, DIM, 4, 4)).indices)
