"""Building quantizers: what is refused and what the message names, and what a checkpoint must hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.errors import ArtifactError, MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import AnyQuantizer, build, from_state

COMMON = {"dim": 4, "beta": 0.25, "beta_on": "commitment"}
VQ = {"kind": "vq", **COMMON, "num_codes": 6, "init": "uniform"}
LC = {"kind": "lc", **COMMON, "num_codes": 6, "distance": "cosine", "init": "standard"}
GCN = {
    "kind": "gcn",
    "num_layers": 2,
    "hidden_dim": 5,
    "final_relu": False,
    "dropout": 0.0,
    "edge_weights": "binary",
}
MLP = {key: value for key, value in GCN.items() if key != "edge_weights"} | {"kind": "mlp"}
VQCT = {"kind": "vqct", **COMMON, "transfer": GCN, "init": "standard"}


def config(params: dict[str, Any]) -> Any:
    return validate(params, "tokenizer.variants.x.quantizer", AnyQuantizer)  # type: ignore[arg-type]


def centroids(num: int = 10) -> Any:
    return PatchesCodebook(torch.randn(num, 7), torch.ones(num), {})


def words(**changes: Any) -> Any:
    parts = {
        "adjectives": ["red", "old"], "nouns": ["cat", "sea", "sun"], "adjective_vectors": torch.randn(2, 7),
        "noun_vectors": torch.randn(3, 7), "edges": torch.tensor([[0, 1], [2, 0]]), "weights": torch.ones(2),
    }  # fmt: skip
    return WordsCodebook(**{**parts, **changes})


@pytest.mark.parametrize(
    ("params", "codebook", "says"),
    [
        (VQ, words(), ["quantizer vq", "words codebook (2 adjectives, 3 nouns)", "no codebook"]),
        (VQ, centroids(), ["quantizer vq", "patches codebook (10 x 7)", "no codebook"]),
        (LC, None, ["quantizer lc", "no codebook", "a patches codebook", "dvc repro cluster"]),
        (LC, words(), ["quantizer lc", "words codebook", "a patches codebook"]),
        (VQCT, None, ["quantizer vqct", "no codebook", "a words codebook", "dvc repro graph"]),
        (VQCT, centroids(), ["quantizer vqct", "patches codebook", "a words codebook"]),
        ({**LC, "num_codes": 11}, centroids(), ["num_codes: 11", "10 centroids", "at most 10"]),
        (LC, PatchesCodebook(torch.full((9, 3), torch.nan), torch.ones(9), {}), ["27 values not finite"]),
        (VQCT, words(adjectives=[], adjective_vectors=torch.zeros(0, 7)), ["both kinds", "0 adjectives"]),
        (
            VQCT,
            words(edges=torch.zeros(2, 0), weights=torch.zeros(0)),
            ["without edges", "transfer.kind: mlp"],
        ),
        (VQCT, words(edges=torch.tensor([[0, 2], [2, 0]])), ["do not fit each other"]),
        (VQCT, words(nouns=["cat"]), ["do not fit each other", "1 nouns"]),
        (VQCT, words(weights=torch.ones(3)), ["do not fit each other"]),
        (VQCT, words(noun_vectors=torch.randn(3, 6)), ["do not fit each other"]),
    ],
)
def test_params_and_a_codebook_that_do_not_fit_are_refused(
    params: dict[str, Any], codebook: Any, says: list[str]
) -> None:
    with pytest.raises(MismatchError) as caught:
        build(config(params), codebook)
    for text in says:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({**VQ, "num_code": 3}, "num_code is not a field; did you mean num_codes?"),
        ({**VQ, "kind": "vqq"}, "vqq"),
        ({**VQ, "beta_on": "both"}, "beta_on"),
        ({**VQCT, "dim": 5}, "dim must be even"),
        ({**VQCT, "transfer": {**MLP, "edge_weights": "binary"}}, "edge_weights is not a field"),
        ({**LC, "num_codes": 0}, "num_codes"),
    ],
)
def test_bad_params_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ParamsError) as caught:
        config(params)
    assert says in str(caught.value)


def test_lc_takes_the_first_centroids_and_keeps_them_frozen() -> None:
    codebook = centroids()
    quantizer = build(config(LC), codebook)
    assert torch.equal(quantizer.state_dict()["centroids"], codebook.vectors[:6])
    assert "centroids" not in dict(quantizer.named_parameters())
    codebook.vectors.zero_()
    assert quantizer.state_dict()["centroids"].any()  # a copy of its own


def test_an_mlp_needs_no_graph() -> None:
    quantizer = build(
        config({**VQCT, "transfer": MLP}), words(edges=torch.zeros(2, 0), weights=torch.zeros(0))
    )
    assert quantizer.num_codes == (2, 3)


def test_words_name_the_codes() -> None:
    adjectives, nouns = build(config(VQCT), words()).codebooks()
    assert (adjectives.group, adjectives.names) == ("adjective", ["red", "old"])
    assert (nouns.group, nouns.names) == ("noun", ["cat", "sea", "sun"])
    assert nouns.vectors.shape == (3, 2)


def test_another_state_is_refused() -> None:
    vq = build(config(VQ), None).state_dict()
    with pytest.raises(ArtifactError, match="not the state of a lc quantizer"):
        from_state(config(LC), vq)
    with pytest.raises(ArtifactError, match="not the state of a vq quantizer"):
        from_state(config({**VQ, "num_codes": 7}), vq)
    with pytest.raises(MismatchError, match="names and codes"):
        from_state(config(VQCT), build(config(VQCT), words()).state_dict(), [["red"], ["cat", "sea", "sun"]])


@pytest.mark.parametrize(
    "indices",
    [
        torch.full((1, 1, 2, 2), 6),
        torch.full((1, 1, 2, 2), -1),
        torch.zeros(1, 2, 2, 2).long(),
        torch.zeros(1, 1, 2, 2),
    ],
    ids=["above", "below", "groups", "floats"],
)
def test_indices_of_another_tokenizer_are_refused(indices: torch.Tensor) -> None:
    with pytest.raises(MismatchError, match="do not fit this tokenizer"):
        build(config(VQ), None).decode(indices)
