"""The bundled part of GloVe: its words, its loss against the original, its licence, and how the stage reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.backends import SHARED
from tests.glove_table import Vectors, glove_table, main, read_text
from vqpipe.data.scenes.grammar import KIND_OF, NOUNS
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate
from vqpipe.text import glove
from vqpipe.text.glove import BUNDLED, GloveVectors, read_glove

PART: GloveVectors = validate({"kind": "glove", "path": None}, "graph.vectors", GloveVectors)


def cosines(a: Vectors, b: Vectors) -> Vectors:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def bundled(words: list[str]) -> Vectors:
    found = read_glove(PART, words).vectors
    return np.array([found[word] for word in words])


def test_the_bundled_part_is_small_and_has_its_licence() -> None:
    assert BUNDLED.stat().st_size < 5_000_000
    (licence,) = BUNDLED.parent.glob("LICENSE-GloVe*.txt")
    text = licence.read_text(encoding="utf-8")
    assert "Public Domain Dedication & License (PDDL)" in text
    assert BUNDLED.name in text
    assert f"{pq.read_metadata(BUNDLED).num_rows:,} words" in text


def test_every_word_of_the_scenes_has_a_vector() -> None:
    words = [*KIND_OF, *NOUNS]
    assert bundled(words).shape == (len(words), 100)


def test_the_vectors_know_what_words_mean() -> None:
    red, blue, boat, ship, kitchen = bundled(["red", "blue", "boat", "ship", "kitchen"])
    assert cosines(red[None], blue[None]) > cosines(red[None], boat[None]) + 0.2
    assert cosines(boat[None], ship[None]) > cosines(boat[None], kitchen[None]) + 0.2


def test_the_bundled_part_is_that_of_the_original() -> None:
    source = SHARED / "glove/glove.6B.100d.nouns-adjectives.txt.gz"
    if not source.is_file():
        pytest.skip(f"no {source.name}")
    words, vectors = read_text(source)
    assert pq.read_table(BUNDLED).equals(glove_table(words, vectors))
    same = cosines(bundled(words), vectors)
    assert (same.min() > 0.9999, same.mean() > 0.99997) == (True, True)


def test_eight_bits_of_a_row_of_its_own_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0).standard_normal((40, 100)) * np.geomspace(0.01, 100, 40)[:, None]
    lines = [f"w{at} {' '.join(f'{number:.6f}' for number in row)}\n" for at, row in enumerate(drawn)]
    (tmp_path / "text.txt").write_text("".join(lines))
    monkeypatch.setattr("tests.glove_table.BUNDLED", tmp_path / "out.parquet")
    monkeypatch.setattr(glove, "BUNDLED", tmp_path / "out.parquet")
    monkeypatch.setattr("sys.argv", ["glove_table", str(tmp_path / "text.txt")])
    main()
    words, vectors = read_text(tmp_path / "text.txt")
    error = np.abs(bundled(words) - vectors).max(axis=1) / np.abs(vectors).max(axis=1)
    assert 0 < error.max() <= 0.5001 / 127
    (tmp_path / "out.parquet").unlink()
    with pytest.raises(DataError, match=r"out\.parquet, is missing from the package"):
        read_glove(PART, words)


def test_the_short_form_and_its_mistakes() -> None:
    assert (PART.dim, PART.unknown, PART.seed) == (100, "error", 0)
    own: GloveVectors = validate(
        {"kind": "glove", "path": None, "unknown": "drop", "seed": 4}, "graph.vectors", GloveVectors
    )
    assert (own.dim, own.unknown, own.seed) == (100, "drop", 4)
    with pytest.raises(ParamsError, match=r"(?s)graph.vectors.dim: the bundled part.*found: +50"):
        validate({"kind": "glove", "path": None, "dim": 50}, "graph.vectors", GloveVectors)
    with pytest.raises(ParamsError, match=r"graph\.vectors\.unknown is missing"):
        validate({"kind": "glove", "path": "glove.txt", "dim": 50, "seed": 0}, "graph.vectors", GloveVectors)
    with pytest.raises(ParamsError, match=r"graph\.vectors\.path is missing"):
        validate({"kind": "glove"}, "graph.vectors", GloveVectors)
    with pytest.raises(DataError, match="the bundled part of GloVe has none of the vocabulary's words"):
        read_glove(PART, ["zzzz"])
    with pytest.raises(DataError, match=r"the bundled part of GloVe is not the file that .*sha256"):
        read_glove(PART.model_copy(update={"sha256": "0" * 64}), ["red"])
