"""The bundled WordNet through NLTK, and the tables compiled from it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.wordnet_tables import BUNDLE, LICENCE, MEMBERS, bundle, compile_tables, lexnames, open_wordnet
from vqpipe.errors import DataError
from vqpipe.text.lexicon import RESOURCES, table_path


@pytest.fixture(scope="module")
def reader() -> Any:
    return open_wordnet()


def test_nltk_reads_the_bundle(reader: Any) -> None:
    assert reader.synset("dog.n.01").lexname() == "noun.animal"
    assert reader.synset("red.s.01").lexname() == "adj.all"
    assert reader.morphy("geese", "n") == "goose"
    assert reader.lemma("dog.n.01.dog").count() == 42


def test_the_tables_are_those_of_the_bundle(reader: Any) -> None:
    for name, table in compile_tables(reader).items():
        assert pq.read_table(table_path(name)).equals(table), name


def test_the_licence_is_in_the_bundle_and_in_the_package() -> None:
    packaged = (RESOURCES / LICENCE).read_bytes()
    assert b"Princeton University" in packaged
    with zipfile.ZipFile(BUNDLE) as archive:
        assert archive.read(LICENCE) == packaged


def test_lexnames_numbers_the_lexicographer_files() -> None:
    lines = [line.split("\t") for line in lexnames().splitlines()]
    assert [int(number) for number, _, _ in lines] == list(range(45))
    assert lines[3] == ["03", "noun.Tops", "1"]
    assert lines[44] == ["44", "adj.ppl", "3"]


def test_bundling_equal_files_gives_equal_bytes(tmp_path: Path) -> None:
    for name in (*MEMBERS, "licence"):
        (tmp_path / name).write_text(f"{name}\n")
    bundle(tmp_path, tmp_path / "licence", tmp_path / "a.zip")
    bundle(tmp_path, tmp_path / "licence", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_an_incomplete_wordnet_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no cntlist\.rev"):
        bundle(tmp_path, tmp_path / "licence", tmp_path / "out.zip")
    with pytest.raises(DataError, match="cannot be read"):
        open_wordnet(tmp_path / "none.zip")
