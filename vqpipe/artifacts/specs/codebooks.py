"""The vocabulary, and the pretrained codebooks: words with their modifying graph, and centroids of patch features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec
from vqpipe.artifacts.tables import read_table, to_table, write_table

_WORDS = {"index": "int32", "word": "string", "count": "int64"}

ADJECTIVES = TableSpec(
    "adjectives", 1, _WORDS, stage="vocabulary",
    about="adjectives by falling count; count: how often they occur in the captions",
)  # fmt: skip

NOUNS = TableSpec(
    "nouns", 1, _WORDS, stage="vocabulary", about="nouns in the singular by falling count, plurals included",
)  # fmt: skip

PAIRS = TableSpec(
    "pairs", 1, {"adjective": "int32", "noun": "int32", "count": "int64", "examples": "list<string>"},
    stage="vocabulary",
    about=(
        "which adjective modifies which noun (indices into the two tables, in this order), how often, and the ids of "
        "the first captions; each pair that occurs once or more"
    ),
)  # fmt: skip

VOCABULARY = FolderSpec(
    "vocabulary", 2, stage="vocabulary", required=("adjectives.parquet", "nouns.parquet", "pairs.parquet"),
    about=(
        "the words that become codes, and their pairs; facts: pos and phrases (params), num_adjectives, num_nouns, "
        "num_pairs_said (how often any pair occurs, those with other words included)"
    ),
)  # fmt: skip

EDGES = TableSpec(
    "edges", 2,
    {
        "adjective": "int32", "noun": "int32", "count": "int64", "weight": "float", "pmi": "float",
        "examples": "list<string>",
    },
    stage="graph",
    about=(
        "which adjective modifies which noun (indices into the two tables), how often, pointwise mutual information "
        "in nats over all pairs of the vocabulary, and the ids of the first captions"
    ),
)  # fmt: skip

WORD_VECTORS = TensorSpec(
    "word-vectors", 3, {"adjectives": "F32", "nouns": "F32"}, stage="graph",
    about="one row per word, (Ka, d) and (Kn, d); facts: clip_id (null for none), vectors (kind and params), dim",
)  # fmt: skip

WORDS_CODEBOOK = FolderSpec(
    "words-codebook", 3, stage="graph",
    required=("adjectives.parquet", "nouns.parquet", "edges.parquet", "vectors.safetensors"),
    about=(
        "words with a vector each and the modifying graph; facts: clip_id (null where no CLIP made the vectors), "
        "vectors (kind and params), dim, pos, phrases, weight, min_count, counts"
    ),
)  # fmt: skip

CENTROID_TENSORS = TensorSpec(
    "centroid-tensors", 2, {"centroids": "F32", "counts": "I64"},
    stage="cluster",
    about="centroids [K, d], the vectors nearest to each [K]; in nested order, without prefixes by falling count",
)  # fmt: skip

PATCHES_CODEBOOK = FolderSpec(
    "patches-codebook", 3, stage="cluster", required=("centroids.safetensors",),
    about=(
        "centroids of patch features; facts: num_clusters, dim, clip_id, projected, grid, objective, num_vectors, "
        "method, per_class, prefixes: list of {k, objective of the first k centroids}"
    ),
)  # fmt: skip


def write_word_counts(folder: Path, adjectives: Mapping[str, int], nouns: Mapping[str, int]) -> None:
    """Write `adjectives.parquet` and `nouns.parquet`, words in the order of their indices, into an open folder."""
    for spec, words in ((ADJECTIVES, adjectives), (NOUNS, nouns)):
        columns = {"index": list(range(len(words))), "word": list(words), "count": list(words.values())}
        write_table(folder / f"{spec.name}.parquet", spec, to_table(spec, columns))


def read_word_counts(folder: Path, spec: TableSpec) -> dict[str, int]:
    """Words and counts of one class, in the order of their indices; `spec` is `ADJECTIVES` or `NOUNS`.

    Raises:
        ArtifactError: the table is missing, damaged, or of another version.
    """
    table = read_table(folder / f"{spec.name}.parquet", spec)
    return dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))
