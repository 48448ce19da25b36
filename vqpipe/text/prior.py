"""Writing the words prior: words, graph and vectors in one folder; `vqpipe.codebooks.words` reads it back."""

from __future__ import annotations

from pathlib import Path

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.words import EDGES, WORD_VECTORS, WORDS
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.params.graph import GraphParams
from vqpipe.text.graph import Graph
from vqpipe.text.vectors import WordVectors
from vqpipe.text.vocabulary import write_words


def pack(path: Path, graph: Graph, vectors: WordVectors, config: GraphParams) -> None:
    """Publish a WORDS folder; equal content gives equal bytes.

    Args:
        path: the folder to publish.
        graph: the modifying graph over `vectors.vocabulary`.
        vectors: the words, in the order of their indices, with their vectors.
        config: weight and phrases, noted in the facts.
    """
    vocabulary = vectors.vocabulary
    facts = {
        **vectors.facts,
        "pos": vocabulary.pos.model_dump(mode="json"),
        "phrases": config.phrases.model_dump(mode="json"),
        "weight": config.weight,
        "min_count": config.min_count,
        "num_adjectives": len(vocabulary.adjectives),
        "num_nouns": len(vocabulary.nouns),
        "num_edges": len(graph.edges),
        "num_pairs_said": graph.num_pairs_said,
    }
    columns = {
        "adjective": [edge.adjective for edge in graph.edges],
        "noun": [edge.noun for edge in graph.edges],
        "count": [edge.count for edge in graph.edges],
        "weight": [edge.weight for edge in graph.edges],
        "pmi": [edge.pmi for edge in graph.edges],
        "examples": [list(edge.examples) for edge in graph.edges],
    }
    with publish_folder(path, WORDS, facts) as folder:
        write_words(folder, vocabulary)
        write_table(folder / "edges.parquet", EDGES, to_table(EDGES, columns))
        tensors = {"adjectives": vectors.adjectives, "nouns": vectors.nouns}
        write_tensors(folder / "vectors.safetensors", WORD_VECTORS, tensors, vectors.facts)
