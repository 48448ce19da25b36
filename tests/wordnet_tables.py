"""WordNet 3.0 as it is bundled in `tests/data`, and the small tables that the tagger reads, in `vqpipe/text/resources`.

    python -m tests.wordnet_tables                   # compile the tables again, after a change to the bundle
    python -m tests.wordnet_tables FOLDER LICENCE    # bundle WordNet's files again first

To load all of WordNet takes seconds and 0.3 GB, the compiled tables half a second.
"""

from __future__ import annotations

import sys
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from vqpipe.errors import DataError
from vqpipe.text.lexicon import table_path

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader


BUNDLE = Path(__file__).parent / "data/wordnet.zip"
LICENCE = "LICENSE-WordNet-3.0.txt"
PARTS = ("adj", "adv", "noun", "verb")
MEMBERS = (
    "cntlist.rev",
    *(name.format(part) for part in PARTS for name in ("data.{}", "index.{}", "{}.exc")),
)
"""What NLTK reads of WordNet; index.sense is left out, which serves look-ups by sense key alone."""

_FILES_OF = {
    3: ("adj.all", "adj.pert"),
    4: ("adv.all",),
    1: (
        "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute", "noun.body",
        "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food",
        "noun.group", "noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon",
        "noun.plant", "noun.possession", "noun.process", "noun.quantity", "noun.relation",
        "noun.shape", "noun.state", "noun.substance", "noun.time",
    ),
    2: (
        "verb.body", "verb.change", "verb.cognition", "verb.communication", "verb.competition",
        "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion",
        "verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather",
    ),
}  # fmt: skip


def lexnames() -> str:
    """WordNet's table of lexicographer files: number, name and part of speech, a line each.

    Some distributions of WordNet leave the file out; NLTK cannot do without it.
    """
    named = [(name, pos) for pos, names in _FILES_OF.items() for name in names] + [("adj.ppl", 3)]
    return "".join(f"{number:02d}\t{name}\t{pos}\n" for number, (name, pos) in enumerate(named))


def bundle(source: Path, licence: Path, out: Path = BUNDLE) -> None:
    """Write the zip from a folder of WordNet's files; equal files give equal bytes.

    Raises:
        DataError: a file is missing.
    """
    lacking = [name for name in MEMBERS if not (source / name).is_file()]
    if lacking or not licence.is_file():
        absent = ", ".join(lacking) or licence.name
        raise DataError(f"{source} is not a complete WordNet", found=f"no {absent}")
    contents = {name: (source / name).read_bytes() for name in MEMBERS}
    contents |= {"lexnames": lexnames().encode(), LICENCE: licence.read_bytes()}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_LZMA, 0o644 << 16
            archive.writestr(entry, contents[name])


def open_wordnet(path: Path = BUNDLE) -> WordNetCorpusReader:
    """NLTK's reader over the bundled zip. It takes seconds and about 0.3 GB.

    NLTK opens only paths under the folders of `nltk.data.path`, so the zip's folder is added to them.

    Raises:
        DataError: the zip is missing or not a zip.
    """
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class English(WordNetCorpusReader):  # type: ignore[misc]
        def map_wn(self, version: str = "wordnet") -> None:
            """No map to the WordNet version of other languages: it would need a second WordNet on disk."""

    if str(path.resolve().parent) not in nltk.data.path:
        nltk.data.path.append(str(path.resolve().parent))
    try:
        archive = nltk.data.OpenOnDemandZipFile(str(path.resolve()))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"the bundled WordNet {path.name} cannot be read ({error})") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return English(nltk.data.ZipFilePathPointer(archive), None)


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


def main() -> None:
    """Bundle WordNet where a folder and a licence are named, and compile the tables (some seconds)."""
    if len(sys.argv) > 1:
        bundle(Path(sys.argv[1]), Path(sys.argv[2]))
    for name, table in compile_tables(open_wordnet()).items():
        pq.write_table(table, table_path(name), compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
