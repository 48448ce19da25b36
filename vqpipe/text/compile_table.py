"""Compile WordNet into the small tables that the tagger reads. Run it after a change to the bundle:

python -m vqpipe.text.compile_table
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.text.wordnet import RESOURCES, open_wordnet

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

SUFFIXES = {"noun": "noun", "verb": "verb", "adjective": "adj", "adverb": "adv"}
"""The endings of WordNet's file names by class."""
SENSE_TYPES = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
"""The digits in WordNet's sense keys; 5 is an adjective that WordNet hangs on another one."""
COLOR_HEADS = ("chromatic.a.03", "achromatic.a.01", "white.a.01", "black.a.01")
"""The adjectives that WordNet hangs all colours on."""

TABLES = {
    "words": pa.schema([
        ("word", pa.string()), *((f"{name}_{what}", pa.int32()) for name in SUFFIXES
                                 for what in ("count", "senses")),
        ("color", pa.bool_()),
    ]),
    "forms": pa.schema([("form", pa.string()), ("pos", pa.string()), ("lemma", pa.string())]),
    "compounds": pa.schema([("compound", pa.string())]),
}  # fmt: skip
"""words: per word and class, how often WordNet's tagged texts have it and how many senses it has; forms:
irregular inflections; compounds: nouns of two words, such as "high school" and "fire hydrant"."""


def compile_tables(reader: WordNetCorpusReader) -> dict[str, pa.Table]:
    """The tables of `TABLES` from a WordNet reader; equal content and order on every run.

    Counts and senses come from WordNet's indices; to parse all synsets would take half a minute more.
    """
    numbers: dict[str, Counter[str]] = defaultdict(Counter)
    compounds: list[tuple[str, str]] = []
    for name, suffix in SUFFIXES.items():
        for lemma, senses in _index(reader, suffix):
            if "_" not in lemma:
                numbers[lemma][f"{name}_senses"] = senses
            elif name == "noun" and lemma.count("_") == 1:
                first, second = lemma.split("_")
                compounds.append((first, second))
    with reader.open("cntlist.rev") as stream:
        for line in stream:
            key, _, count = line.split()
            lemma, sense = key.split("%")
            if lemma in numbers:
                numbers[lemma][f"{SENSE_TYPES[sense[0]]}_count"] += int(count)
    colors = _colors(reader)
    words = [
        {name: numbers[word][name] for name in TABLES["words"].names}
        | {"word": word, "color": word in colors}
        for word in sorted(numbers)
    ]
    nouns = {word for word, known in numbers.items() if known["noun_senses"]}
    first_words = nouns | {word for word, known in numbers.items() if known["adjective_senses"]}
    known = sorted(f"{a} {b}" for a, b in compounds if a in first_words and b in nouns)
    forms = sorted(
        (form, name, lemma) for name in SUFFIXES for form, lemma in _exceptions(reader, SUFFIXES[name])
    )
    return {
        "words": pa.Table.from_pylist(words, schema=TABLES["words"]),
        "forms": pa.table([list(column) for column in zip(*forms, strict=True)], schema=TABLES["forms"]),
        "compounds": pa.table([known], schema=TABLES["compounds"]),
    }


def _index(reader: WordNetCorpusReader, suffix: str) -> Iterator[tuple[str, int]]:
    """Each lemma of a class with its number of senses; words of a compound are joined by underscores."""
    with reader.open(f"index.{suffix}") as stream:
        for line in stream:
            if not line.startswith(" "):  # the licence
                lemma, _, senses, _ = line.split(maxsplit=3)
                yield lemma, int(senses)


def _colors(reader: WordNetCorpusReader) -> set[str]:
    heads = [reader.synset(name) for name in COLOR_HEADS]
    near = [synset for head in heads for synset in (head, *head.similar_tos())]
    return {lemma.name().lower() for synset in near for lemma in synset.lemmas()}


def _exceptions(reader: WordNetCorpusReader, suffix: str) -> list[tuple[str, str]]:
    with reader.open(f"{suffix}.exc") as stream:
        rows = [line.split() for line in stream]
    return [(form, lemma) for form, *lemmas in rows for lemma in lemmas if "_" not in form + lemma]


def table_path(name: str, folder: Path = RESOURCES) -> Path:
    """Where a compiled table lies."""
    return folder / f"wordnet-{name}.parquet"


def main() -> None:
    """Read the bundle and write the tables beside it (some seconds)."""
    for name, table in compile_tables(open_wordnet()).items():
        pq.write_table(table, table_path(name), compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
