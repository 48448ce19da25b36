"""The words codebook: adjectives, nouns, their vectors and the modifying graph between them, in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.codebooks import (
    ADJECTIVES,
    EDGES,
    NOUNS,
    WORD_VECTORS,
    WORDS_CODEBOOK,
    read_word_counts,
    write_word_counts,
)
from vqpipe.artifacts.tables import read_table, to_table, write_table
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import ArtifactError, MismatchError

_VECTOR_FACTS = ("clip_id", "vectors", "dim")
"""The facts that the file of the vectors has too."""


@dataclass(frozen=True)
class Edge:
    """An edge of the modifying graph by its words, with what is known of it; see `WordsCodebook`."""

    adjective: str
    noun: str
    count: int
    weight: float
    pmi: float
    examples: list[str]


@dataclass(frozen=True)
class WordsCodebook:
    """Adjectives and nouns with a vector each, and which adjective modifies which noun.

    A word of both classes has two nodes: one adjective, one noun. Counts, mutual information and examples are empty in
    a codebook that was made in memory without them; such a codebook cannot be published.
    """

    adjectives: list[str]
    nouns: list[str]
    adjective_vectors: Float32[Tensor, "ka d"]
    noun_vectors: Float32[Tensor, "kn d"]
    edges: Int64[Tensor, "2 e"]
    """Row 0: index of the adjective, row 1: index of the noun; sorted, each pair once."""
    weights: Float32[Tensor, " e"]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """clip_id, vectors, dim, pos, phrases, weight, min_count and counts."""
    adjective_counts: list[int] = field(default_factory=list)
    """How often each adjective occurs in the captions."""
    noun_counts: list[int] = field(default_factory=list)
    """How often each noun occurs, in the singular or plural."""
    edge_counts: list[int] = field(default_factory=list)
    """How often each pair occurs."""
    edge_pmi: list[float] = field(default_factory=list)
    """Pointwise mutual information of each pair, in nats; negative below chance."""
    edge_examples: list[list[str]] = field(default_factory=list)
    """The ids of the first captions of each pair."""

    @property
    def names(self) -> list[str]:
        """All words in the order of `vectors`: the adjectives, then the nouns."""
        return [*self.adjectives, *self.nouns]

    @property
    def vectors(self) -> Float32[Tensor, "k d"]:
        """All vectors, the adjectives' and then the nouns'; k = ka + kn."""
        return torch.cat([self.adjective_vectors, self.noun_vectors])

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The edges as (adjective, noun) indices."""
        return [(adjective, noun) for adjective, noun in self.edges.T.tolist()]

    def named_edges(self) -> Iterator[Edge]:
        """The edges by their words, in order; for a codebook with counts, mutual information and examples."""
        for (adjective, noun), count, weight, pmi, examples in zip(
            self.pairs,
            self.edge_counts,
            self.weights.tolist(),
            self.edge_pmi,
            self.edge_examples,
            strict=True,
        ):
            yield Edge(self.adjectives[adjective], self.nouns[noun], count, weight, pmi, examples)

    def nouns_of(self, adjective: str) -> dict[str, float]:
        """The nouns that an adjective modifies and the edges' weights; `KeyError` for a word that is not there."""
        return self._neighbours(0, adjective)

    def adjectives_of(self, noun: str) -> dict[str, float]:
        """The adjectives that modify a noun and the edges' weights; `KeyError` for a word that is not there."""
        return self._neighbours(1, noun)

    def _neighbours(self, side: int, word: str) -> dict[str, float]:
        names = (self.adjectives, self.nouns)
        if word not in names[side]:
            raise KeyError(word)
        mask = self.edges[side] == names[side].index(word)
        others = self.edges[1 - side][mask].tolist()
        return {names[1 - side][i]: w for i, w in zip(others, self.weights[mask].tolist(), strict=True)}

    def nearest(self, features: Float[Tensor, "n d"], num: int = 1) -> list[list[str]]:
        """The `num` words whose vectors have the largest cosine similarity with each row, the nearest first.

        Raises:
            MismatchError: rows of another dimension.
        """
        names, codes = self.names, self.vectors.to(features.device, torch.float64)
        if features.ndim != 2 or features.shape[1] != codes.shape[1]:
            raise MismatchError(
                "the features do not fit the word vectors", found=f"shape {tuple(features.shape)}",
                expected=f"(n, {codes.shape[1]})",
            )  # fmt: skip
        similarity = normalize(features.double(), dim=1) @ normalize(codes, dim=1).T
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, :num]
        return [[names[index] for index in row] for row in order.tolist()]


def publish_words_codebook(path: Path, codebook: WordsCodebook) -> None:
    """Publish a WORDS folder; equal content gives equal bytes. The codebook needs its counts, facts and examples."""
    columns = {
        "adjective": codebook.edges[0].tolist(), "noun": codebook.edges[1].tolist(),
        "count": codebook.edge_counts, "weight": codebook.weights.tolist(), "pmi": codebook.edge_pmi,
        "examples": codebook.edge_examples,
    }  # fmt: skip
    with publish_folder(path, WORDS_CODEBOOK, dict(codebook.facts)) as folder:
        write_word_counts(
            folder,
            dict(zip(codebook.adjectives, codebook.adjective_counts, strict=True)),
            dict(zip(codebook.nouns, codebook.noun_counts, strict=True)),
        )
        write_table(folder / "edges.parquet", EDGES, to_table(EDGES, columns))
        tensors = {"adjectives": codebook.adjective_vectors, "nouns": codebook.noun_vectors}
        facts = {name: codebook.facts[name] for name in _VECTOR_FACTS}
        write_tensors(folder / "vectors.safetensors", WORD_VECTORS, tensors, facts)


def read_words_codebook(path: Path) -> WordsCodebook:
    """Read a WORDS folder.

    Raises:
        ArtifactError: missing, damaged, of another version, or its parts do not fit each other.
    """
    facts = read_manifest(path, WORDS_CODEBOOK).facts
    adjectives, nouns = read_word_counts(path, ADJECTIVES), read_word_counts(path, NOUNS)
    vectors, _ = read_tensors(path / "vectors.safetensors", WORD_VECTORS)
    table = read_table(path / "edges.parquet", EDGES).to_pydict()
    edges = torch.tensor([table["adjective"], table["noun"]], dtype=torch.int64)
    found = {name: tuple(tensor.shape) for name, tensor in vectors.items()}
    rows_fit = found["adjectives"][0] == len(adjectives) and found["nouns"][0] == len(nouns)
    sizes = torch.tensor([[len(adjectives)], [len(nouns)]])
    inside = bool(((edges >= 0) & (edges < sizes)).all())
    if not rows_fit or not inside:
        raise ArtifactError(
            f"{path}: the parts of the words codebook do not fit each other",
            found=f"vectors {found}, edges up to {edges.amax(dim=1).tolist() if edges.numel() else 'none'}",
            expected=f"{len(adjectives)} adjectives and {len(nouns)} nouns",
            run="dvc repro graph",
        )
    return WordsCodebook(
        list(adjectives), list(nouns), vectors["adjectives"], vectors["nouns"], edges,
        torch.tensor(table["weight"], dtype=torch.float32), facts, list(adjectives.values()), list(nouns.values()),
        table["count"], table["pmi"], table["examples"],
    )  # fmt: skip
