"""The modifying graph, its weights and measures, and the words codebook as an artifact."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

from vqpipe.artifacts.publish import tree_digest
from vqpipe.artifacts.specs.codebooks import WORD_VECTORS
from vqpipe.artifacts.specs.dataset import TRUTH
from vqpipe.artifacts.tables import stream_table, to_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.words import WordsCodebook, publish_words_codebook, read_words_codebook
from vqpipe.errors import ArtifactError, ParamsError
from vqpipe.params.base import validate
from vqpipe.text.graph import GraphParams, Weight, build_words, edge_weights, graph_metrics
from vqpipe.text.phrases import PLAIN
from vqpipe.text.vectors import ClipVectors, Prompts, WordVectors, word_vectors
from vqpipe.text.vocabulary import Vocabulary, VocabularyParams, build_vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos

CAPTIONS = [
    ("1", "a red bird and a red bird"),
    ("2", "two red birds near a green tree"),
    ("3", "an orange on an orange plate"),
    ("4", "a green tree and a red bird"),
    ("5", "a red bird"),
    ("6", "a lonely red cloud"),
]
PROMPTS = Prompts(adjective="a photo of {} object", noun="a photo of {}")


def config(min_count: int = 1, weight: Weight = "count") -> GraphParams:
    return GraphParams(min_count=min_count, weight=weight, vectors=ClipVectors(kind="clip", prompts=PROMPTS))


@pytest.fixture
def vocabulary() -> Vocabulary:
    limits = VocabularyParams(
        pos=WordnetPos(kind="wordnet"), phrases=PLAIN, min_count=1, max_adjectives=3, max_nouns=5
    )
    return build_vocabulary(CAPTIONS, limits)[0]


class Encoder:
    """A text encoder of two dimensions."""

    id = "tiny:test:0"

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)), float(text.endswith("object"))] for text in texts])

    def token_ids(self, texts: Sequence[str]) -> torch.Tensor:
        raise AssertionError("prompts need no tokens")

    def token_embeddings(self) -> torch.Tensor:
        raise AssertionError("prompts need no table")


def vectors_of(vocabulary: Vocabulary) -> WordVectors:
    return word_vectors(vocabulary, config().vectors, Encoder)


def codebook_of(vocabulary: Vocabulary, params: GraphParams) -> WordsCodebook:
    return build_words(vectors_of(vocabulary), params)


def named(codebook: WordsCodebook) -> dict[tuple[str, str], int]:
    return {(edge.adjective, edge.noun): edge.count for edge in codebook.named_edges()}


def test_edges_between_vocabulary_words(vocabulary: Vocabulary) -> None:
    codebook = codebook_of(vocabulary, config())
    assert codebook.adjectives == ["red", "green", "lonely"]
    assert codebook.nouns == ["bird", "tree", "cloud", "orange", "plate"]
    expected = {
        ("red", "bird"): 5, ("red", "cloud"): 1, ("green", "tree"): 2, ("lonely", "cloud"): 1,
    }  # fmt: skip
    assert named(codebook) == expected
    assert codebook.pairs == sorted(codebook.pairs)
    assert codebook.edge_examples[0] == ["1", "2", "4"]
    measured = graph_metrics(codebook, vectors_of(vocabulary), config())
    assert (measured.num_pairs_said, measured.pairs_in_vocabulary) == (10, 0.9)


def test_min_count_drops_rare_edges(vocabulary: Vocabulary) -> None:
    found = codebook_of(vocabulary, config(min_count=2, weight="pmi"))
    assert set(named(found)) == {("red", "bird"), ("green", "tree")}
    whole = codebook_of(vocabulary, config(weight="pmi"))
    assert found.edge_pmi == [whole.edge_pmi[0], whole.edge_pmi[2]]  # over all pairs


def test_weights() -> None:
    counts = {("red", "bird"): 6, ("red", "tree"): 2, ("green", "tree"): 2}
    assert set(edge_weights(counts, "binary").values()) == {1.0}
    assert edge_weights(counts, "count")["red", "bird"] == 6.0
    pmi = edge_weights(counts, "pmi")
    assert pmi["green", "tree"] == pytest.approx(log((2 / 10) / ((2 / 10) * (4 / 10))))
    assert pmi["red", "tree"] == 0.0


def test_measures_and_truth(tmp_path: Path, vocabulary: Vocabulary) -> None:
    vectors = vectors_of(vocabulary)
    codebook = build_words(vectors, config())
    plain = graph_metrics(codebook, vectors, config(), tmp_path / "truth.parquet")
    assert plain.num_edges == 4
    assert plain.density == pytest.approx(4 / 15, abs=1e-6)
    assert (plain.isolated_adjectives, plain.isolated_nouns) == (0, 2)
    assert not {"precision", "recall", "num_true_edges", "vectors"} & plain.plain().keys()
    said = {
        ("red", "bird"): 5,
        ("green", "tree"): 2,
        ("lonely", "cloud"): 1,
        ("orange", "plate"): 1,
        ("red", "cloud"): 0,
    }
    rows = [
        {
            "adjective": a,
            "noun": n,
            "probability": 0.5,
            "said_train": count,
            "said_validation": 0,
            "said_test": 0,
        }
        for (a, n), count in said.items()
    ]
    with stream_table(tmp_path / "truth.parquet", TRUTH) as append:
        append(to_table(TRUTH, rows))
    found = graph_metrics(codebook, vectors, config(), tmp_path / "truth.parquet")
    assert (found.precision, found.recall, found.num_true_edges) == (0.75, 0.75, 4)


def test_codebook_round_trip(tmp_path: Path, vocabulary: Vocabulary) -> None:
    codebook = codebook_of(vocabulary, config())
    for name in ("a", "b"):
        publish_words_codebook(tmp_path / name, codebook)
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    words = read_words_codebook(tmp_path / "a")
    assert (words.adjectives, words.nouns) == (list(vocabulary.adjectives), list(vocabulary.nouns))
    encode = Encoder().encode_text
    assert torch.equal(
        words.adjective_vectors, encode([f"a photo of {word} object" for word in words.adjectives])
    )
    assert torch.equal(words.noun_vectors, encode([f"a photo of {word}" for word in words.nouns]))
    assert words.edges.tolist() == [[0, 0, 1, 2], [0, 2, 1, 2]]
    assert words.edges.dtype == torch.int64
    assert words.weights.tolist() == [5.0, 1.0, 2.0, 1.0]
    assert words.facts["clip_id"] == "tiny:test:0"
    assert words.facts["vectors"] == {"kind": "clip", "prompts": PROMPTS.model_dump()}
    assert words.facts["pos"] == {"kind": "wordnet"}
    assert words.edge_counts == [5, 1, 2, 1]
    assert words.edge_examples == codebook.edge_examples
    assert words.edge_pmi == pytest.approx(codebook.edge_pmi)
    assert words.edge_pmi[1] == pytest.approx(log(1 * 9 / (6 * 2)))
    assert (words.adjective_counts, words.noun_counts) == (
        list(vocabulary.adjectives.values()), list(vocabulary.nouns.values())
    )  # fmt: skip


def test_a_graph_without_edges_can_be_read(tmp_path: Path, vocabulary: Vocabulary) -> None:
    publish_words_codebook(tmp_path / "p", codebook_of(vocabulary, config(min_count=99)))
    words = read_words_codebook(tmp_path / "p")
    assert words.edges.shape == (2, 0)
    assert words.weights.shape == (0,)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, vocabulary: Vocabulary) -> None:
    codebook = codebook_of(vocabulary, config())
    publish_words_codebook(tmp_path / "far", replace(codebook, edges=codebook.edges + 99))
    with pytest.raises(ArtifactError, match="do not fit"):
        read_words_codebook(tmp_path / "far")
    publish_words_codebook(tmp_path / "whole", codebook)
    shutil.copytree(tmp_path / "whole", tmp_path / "other")
    vectors = {"adjectives": torch.zeros(3, 2), "nouns": torch.zeros(5, 2)}
    write_tensors(tmp_path / "other/vectors.safetensors", WORD_VECTORS, vectors)
    with pytest.raises(ArtifactError):
        read_words_codebook(tmp_path / "other")  # another size than the manifest says


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{0}", "a {word}", "{} {"])
def test_prompts_have_one_place_for_the_word(prompt: str) -> None:
    with pytest.raises(ParamsError, match="exactly once"):
        validate({"adjective": prompt, "noun": "{}"}, "graph.vectors.prompts", Prompts)
