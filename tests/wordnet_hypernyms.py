"""The tables of `vqpipe/metrics/resources`: WordNet 3.0's nouns and their hypernyms, from the bundle in `tests/data`.

python -m tests.wordnet_hypernyms            # compile the tables again (half a minute)
python -m tests.wordnet_hypernyms pairs      # record tests/data/wups_pairs.json again, by NLTK
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tests.wordnet_tables import open_wordnet
from vqpipe.metrics.wups import table_path

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

PAIRS = Path(__file__).parent / "data/wups_pairs.json"
NUM_PAIRS = 500
WORDS = """
dog dogs cat bus buses man men woman women child children person people boy girl horse zebra giraffe sheep cow
bear elephant bird fish table chair bench sofa bed desk lamp door window kitchen bathroom room street road sky
beach ocean water snow mountain tree grass flower banana apple orange pizza cake sandwich fruit food plate bowl
cup bottle knife fork spoon car truck train airplane plane boat bicycle bike motorcycle skateboard surfboard
snowboard ski skis tennis baseball frisbee kite ball racket bat glove hat umbrella tie suitcase bag clock phone
computer laptop mouse keyboard television red blue green yellow black white brown purple pink gray one two three
four five circle square triangle star cross heart geese knives leaves oxen scissors glasses teddy_bear hot_dog
fire_hydrant stop_sign paris xyzzy running beautiful quickly
"""
COMMON = WORDS.split()
"""Answers as in data sets of questions: nouns, plurals, colours, numbers, compounds, and words that are no nouns."""

SCHEMAS = {
    "nouns": pa.schema(
        [("word", pa.string()), ("senses", pa.list_(pa.int32())), ("lemmas", pa.list_(pa.string()))]
    ),
    "hypernyms": pa.schema([("parents", pa.list_(pa.int32()))]),
}
"""nouns: each lemma's senses in WordNet's order, and of an irregular form the lemmas; hypernyms: the parents of each
sense, instance hypernyms included. Senses are rows of the second table, in the order of their names."""
DIGESTS = {
    "nouns": "b92c58c775afe3e0bd847c545086cdfee318ffd777456e4c398409a8805645ec",
    "hypernyms": "c3ee4c0c42426cbbd82e3288dbdafe4b21259c70a1136e6fa93121e83bdb6888",
}
"""What `digest` gives for the tables in the package."""


def digest(table: pa.Table) -> str:
    """SHA-256 of a table's content, the same for any version of the file format."""
    return hashlib.sha256(json.dumps(table.to_pydict()).encode()).hexdigest()


def compile_tables(reader: WordNetCorpusReader) -> dict[str, pa.Table]:
    """The tables of `SCHEMAS` from a WordNet reader; equal content and order on every run."""
    synsets = sorted(reader.all_synsets("n"))
    number = {synset.offset(): row for row, synset in enumerate(synsets)}
    parents = [
        sorted(number[one.offset()] for one in synset.hypernyms() + synset.instance_hypernyms())
        for synset in synsets
    ]
    senses = {
        lemma: [number[offset] for offset in by_class["n"]]
        for lemma, by_class in reader._lemma_pos_offset_map.items()
        if by_class.get("n")
    }
    irregular = reader._exception_map["n"]
    words = sorted({*senses, *irregular})
    return {
        "nouns": pa.table(
            [words, [senses.get(word, []) for word in words], [irregular.get(word) for word in words]],
            schema=SCHEMAS["nouns"],
        ),
        "hypernyms": pa.table([parents], schema=SCHEMAS["hypernyms"]),
    }


def record_pairs(reader: WordNetCorpusReader) -> list[tuple[str, str, float | None]]:
    """Pairs of words with NLTK's largest `wup_similarity` over noun senses; None where one is no noun.

    The first half are common answers, the second half any lemmas.
    """
    rng = random.Random(0)
    lemmas = sorted(name for name, by_class in reader._lemma_pos_offset_map.items() if by_class.get("n"))
    pairs = []
    for row in range(NUM_PAIRS):
        first, second = rng.sample(COMMON if row < NUM_PAIRS // 2 else lemmas, 2)
        values = [
            a.wup_similarity(b) for a in reader.synsets(first, "n") for b in reader.synsets(second, "n")
        ]
        pairs.append((first, second, max(values, default=None)))
    return pairs


def main() -> None:
    """Compile the tables, or record the pairs."""
    if sys.argv[1:] == ["pairs"]:
        rows = ",\n".join(json.dumps(pair) for pair in record_pairs(open_wordnet()))
        PAIRS.write_text(f"[{rows}]\n")
        return
    for name, table in compile_tables(open_wordnet()).items():
        pq.write_table(
            table, table_path(name), compression="zstd", compression_level=19, use_dictionary=False
        )


if __name__ == "__main__":
    main()
