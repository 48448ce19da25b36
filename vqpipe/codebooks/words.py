"""The words prior, read back: words, graph and vectors in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORD_VECTORS, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.artifacts.tensors import read_tensors
from vqpipe.errors import ArtifactError


@dataclass(frozen=True)
class Words:
    """The words prior. A word of both classes has two nodes: one adjective, one noun."""

    adjectives: list[str]
    nouns: list[str]
    adjective_vectors: Float32[Tensor, "ka d"]
    noun_vectors: Float32[Tensor, "kn d"]
    edges: Int64[Tensor, "2 e"]
    """Row 0: index of the adjective, row 1: index of the noun; sorted, each pair once."""
    weights: Float32[Tensor, " e"]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """clip, prompts, weight, min_count and counts."""


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
    adjectives, nouns = list(read_words_of(path, ADJECTIVES)), list(read_words_of(path, NOUNS))
    vectors, _ = read_tensors(path / "vectors.safetensors", WORD_VECTORS)
    table = read_table(path / "edges.parquet", EDGES, ["adjective", "noun", "weight"])
    edges = torch.tensor([table["adjective"].to_pylist(), table["noun"].to_pylist()], dtype=torch.int64)
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
    weights = torch.tensor(table["weight"].to_pylist(), dtype=torch.float32)
    return Words(adjectives, nouns, vectors["adjectives"], vectors["nouns"], edges, weights, facts)
