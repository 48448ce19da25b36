"""Writing the words prior: words, graph and vectors in one folder; `vqpipe.codebooks.words` reads it back."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.words import EDGES, WORD_VECTORS, WORDS
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.params.graph import GraphParams
from vqpipe.text.graph import Graph
from vqpipe.text.vectors import Encode, prompt_vectors
from vqpipe.text.vocabulary import Vocabulary, write_words


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
