"""Small codebook priors on disk, as the stages `graph` and `cluster` leave them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.centroids import CENTROID_TENSORS, CENTROIDS
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORD_VECTORS, WORDS
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.codebooks.words import Words


def publish_words(folder: Path, words: Words, clip: str | None) -> Path:
    """Publish a words prior whose vectors are said to be of the CLIP with that id."""
    facts = {"clip": clip, "vectors": {"kind": "clip" if clip else "random"}, "dim": words.vectors.shape[1]}
    edges, weights = words.edges.tolist(), words.weights.tolist()
    columns = {
        "adjective": edges[0], "noun": edges[1], "count": [int(w) for w in weights], "weight": weights,
        "pmi": [0.0] * len(weights), "examples": [["0"]] * len(weights),
    }  # fmt: skip
    with publish_folder(folder, WORDS, facts) as partial:
        for spec, known in ((ADJECTIVES, words.adjectives), (NOUNS, words.nouns)):
            rows = {"index": range(len(known)), "word": known, "count": [1] * len(known)}
            write_table(partial / f"{spec.name}.parquet", spec, to_table(spec, rows))
        write_table(partial / "edges.parquet", EDGES, to_table(EDGES, columns))
        tensors = {"adjectives": words.adjective_vectors, "nouns": words.noun_vectors}
        write_tensors(partial / "vectors.safetensors", WORD_VECTORS, tensors, facts)
    return folder


def publish_centroids(folder: Path, vectors: Tensor, clip: str) -> Path:
    """Publish a centroids prior that is said to be of patches of the CLIP with that id."""
    facts = {
        "num_clusters": len(vectors), "dim": vectors.shape[1], "clip_id": clip, "projected": True, "grid": 1,
        "objective": 1.0, "num_vectors": 100, "method": "kmeans", "per_class": False, "prefixes": [],
    }  # fmt: skip
    tensors = {"centroids": vectors, "counts": (vectors[:, 0] * 0 + 1).long()}
    with publish_folder(folder, CENTROIDS, facts) as partial:
        write_tensors(partial / "centroids.safetensors", CENTROID_TENSORS, tensors, facts)
    return folder
