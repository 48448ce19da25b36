"""The vocabulary, and the words prior: adjectives, nouns, the graph between them, and their vectors."""

from vqpipe.artifacts.spec import FolderSpec, TableSpec, TensorSpec

_WORDS = {"index": "int32", "word": "string", "count": "int64"}

ADJECTIVES = TableSpec(
    "adjectives", 1, _WORDS, stage="vocabulary",
    about="adjectives by falling count; count: how often the captions say it",
)  # fmt: skip

NOUNS = TableSpec(
    "nouns", 1, _WORDS, stage="vocabulary", about="nouns in the singular by falling count, plurals included",
)  # fmt: skip

VOCABULARY = FolderSpec(
    "vocabulary", 1, stage="vocabulary", required=("adjectives.parquet", "nouns.parquet"),
    about="the words that become codes; facts: params of the parts of speech, counts",
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
        "in nats over all pairs of the vocabulary, and the first captions' ids"
    ),
)  # fmt: skip

WORD_VECTORS = TensorSpec(
    "word-vectors", 2, {"adjectives": "F32", "nouns": "F32"}, stage="graph",
    about="one row per word, (Ka, d) and (Kn, d); facts: clip (null for none), vectors (kind and params), dim",
)  # fmt: skip

WORDS = FolderSpec(
    "words", 2, stage="graph",
    required=("adjectives.parquet", "nouns.parquet", "edges.parquet", "vectors.safetensors"),
    about=(
        "the words prior; facts: clip (id, or null where no CLIP made the vectors), vectors (kind and params), dim, "
        "pos, phrases, weight, min_count, counts"
    ),
)  # fmt: skip
