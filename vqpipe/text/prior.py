"""The words prior as an artifact: words, graph and vectors in one folder, written here and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from vqpipe.artifacts.publish import publish_folder, read_manifest
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORD_VECTORS, WORDS
from vqpipe.artifacts.tables import read_table, to_table, write_table
from vqpipe.artifacts.tensors import read_tensors, write_tensors
from vqpipe.errors import ArtifactError
from vqpipe.params.graph import GraphParams
from vqpipe.text.graph import Graph
from vqpipe.text.vectors import Encode, prompt_vectors
from vqpipe.text.vocabulary import Vocabulary, read_words_of, write_words


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


def pack(
    path: Path, graph: Graph, vocabulary: Vocabulary, config: GraphParams, encode: Encode, clip_id: str
) -> tuple[Float[Tensor, "ka d"], Float[Tensor, "kn d"]]:
    """Encode the words and publish a WORDS folder; equal content gives equal bytes. Returns the vectors.

    Args:
        path: the folder to publish.
        graph: the modifying graph over `vocabulary`.
        vocabulary: the words, in the order of their indices.
        config: weight and prompts, noted in the facts.
        encode: the text encoder: n texts to (n, d).
        clip_id: the encoder's id, noted in the facts.
    """
    prompts = config.vectors.prompts
    adjectives = prompt_vectors(list(vocabulary.adjectives), prompts.adjective, encode)
    nouns = prompt_vectors(list(vocabulary.nouns), prompts.noun, encode)
    origin = {
        "clip": clip_id,
        "vectors": config.vectors.kind,
        "prompts": prompts.model_dump(),
        "dim": adjectives.shape[1],
    }
    facts = {
        **origin,
        "weight": config.weight,
        "min_count": config.min_count,
        "num_adjectives": len(adjectives),
        "num_nouns": len(nouns),
        "num_edges": len(graph.edges),
    }
    columns = {
        "adjective": [edge.adjective for edge in graph.edges],
        "noun": [edge.noun for edge in graph.edges],
        "count": [edge.count for edge in graph.edges],
        "weight": [edge.weight for edge in graph.edges],
        "examples": [list(edge.examples) for edge in graph.edges],
    }
    with publish_folder(path, WORDS, facts) as folder:
        write_words(folder, vocabulary)
        write_table(folder / "edges.parquet", EDGES, to_table(EDGES, columns))
        vectors = {"adjectives": adjectives, "nouns": nouns}
        write_tensors(folder / "vectors.safetensors", WORD_VECTORS, vectors, origin)
    return adjectives, nouns


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
