"""The bundled WordNet 3.0: one zip beside this file, read through NLTK.

Only the build of the word table (`vqpipe.text.compile_table`) opens it: loading all of WordNet takes seconds
and 0.3 GB, the compiled tables half a second. To bundle it again from a folder that holds WordNet's files:

    python -m vqpipe.text.wordnet FOLDER LICENCE
"""

from __future__ import annotations

import sys
import warnings
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from vqpipe.errors import DataError

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

RESOURCES = Path(str(files("vqpipe.text") / "resources"))
BUNDLE = RESOURCES / "wordnet.zip"
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


if __name__ == "__main__":
    bundle(Path(sys.argv[1]), Path(sys.argv[2]))
