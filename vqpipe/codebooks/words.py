"""The words prior, read back: words, graph and vectors in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORD_VECTORS, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.errors import ArtifactError, MismatchError


@dataclass(frozen=True)
class Words:
    """The words prior. A word of both classes has two nodes: one adjective, one noun.

    The counts are empty in a prior that was not read from a folder.
    """

    adjectives: list[str]
    nouns: list[str]
    adjective_vectors: Float32[Tensor, "ka d"]
    noun_vectors: Float32[Tensor, "kn d"]
    edges: Int64[Tensor, "2 e"]
    """Row 0: index of the adjective, row 1: index of the noun; sorted, each pair once."""
    weights: Float32[Tensor, " e"]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """clip, vectors, dim, pos, phrases, weight, min_count and counts."""
    adjective_counts: list[int] = field(default_factory=list)
    """How often the captions say each adjective."""
    noun_counts: list[int] = field(default_factory=list)
    """How often they say each noun, in the singular or plural."""
    edge_counts: list[int] = field(default_factory=list)
    """How often they say each pair."""
    edge_pmi: list[float] = field(default_factory=list)
    """Pointwise mutual information of each pair, in nats; negative below chance."""

    @property
    def names(self) -> list[str]:
        """All words in the order of `vectors`: the adjectives, then the nouns."""
        return [*self.adjectives, *self.nouns]

    @property
    def vectors(self) -> Float32[Tensor, "k d"]:
        """All vectors, the adjectives' and then the nouns'; k = ka + kn."""
        return torch.cat([self.adjective_vectors, self.noun_vectors])

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


def read_words_of(folder: Path, spec: TableSpec) -> dict[str, int]:
    """Words and counts of one class, in the order of their indices."""
    table = read_table(folder / f"{spec.name}.parquet", spec)
    return dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))


def read_words(path: Path) -> Words:
    """Read a WORDS folder.

    Raises:
        ArtifactError: missing, damaged, of another version, or its parts do not fit each other.
    """
    facts = read_manifest(path, WORDS).facts
    adjectives, nouns = read_words_of(path, ADJECTIVES), read_words_of(path, NOUNS)
    vectors, _ = read_tensors(path / "vectors.safetensors", WORD_VECTORS)
    columns = ["adjective", "noun", "weight", "count", "pmi"]
    table = read_table(path / "edges.parquet", EDGES, columns).to_pydict()
    edges = torch.tensor([table["adjective"], table["noun"]], dtype=torch.int64)
    found = {name: tuple(tensor.shape) for name, tensor in vectors.items()}
    rows_fit = found["adjectives"][0] == len(adjectives) and found["nouns"][0] == len(nouns)
    sizes = torch.tensor([[len(adjectives)], [len(nouns)]])
    inside = bool(((edges >= 0) & (edges < sizes)).all())
    if not rows_fit or not inside:
        raise ArtifactError(
            f"{path}: the parts of the words prior do not fit each other",
            found=f"vectors {found}, edges up to {edges.amax(dim=1).tolist() if edges.numel() else 'none'}",
            expected=f"{len(adjectives)} adjectives and {len(nouns)} nouns",
            run="dvc repro graph",
        )
    return Words(
        list(adjectives), list(nouns), vectors["adjectives"], vectors["nouns"], edges,
        torch.tensor(table["weight"], dtype=torch.float32), facts, list(adjectives.values()), list(nouns.values()),
        table["count"], table["pmi"],
    )  # fmt: skip
