"""Word vectors: prompts, token embeddings, GloVe files with what they lack, random ones."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from vqpipe.errors import DataError, MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.text.glove import BUNDLED
from vqpipe.text.vectors import VectorMetrics, VectorParams, WordVectors, prompt_vectors, word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos

WORDS = Vocabulary(
    WordnetPos(kind="wordnet"), {"red": 6, "light": 3, "teal": 1}, {"bird": 5, "light": 2, "axolotl": 1}
)
GLOVE = "the 0 0 0\nbird 1 2 3\nred 4 5 6\nred 9 9 9\nnew york 7 8 9\nlight -1e-1 0.5 .25\n"
START, END = 40, 50


class Encoder:
    """A CLIP whose tokens are letters."""

    id = "fake:test:0"

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    def token_ids(self, texts: Sequence[str]) -> torch.Tensor:
        rows = [[START, *(ord(letter) - ord("a") for letter in text), END] for text in texts]
        return torch.tensor([row + [0] * (12 - len(row)) for row in rows])

    def token_embeddings(self) -> torch.Tensor:
        return torch.arange(END + 1.0)[:, None] * torch.tensor([1.0, -2.0])


def no_clip() -> Encoder:
    raise AssertionError("this kind needs no CLIP")


def made(config: dict[str, Any], vocabulary: Vocabulary = WORDS, load: Any = no_clip) -> WordVectors:
    return word_vectors(vocabulary, validate(config, "graph.vectors", VectorParams), load)  # type: ignore[arg-type]


def measured(vectors: WordVectors) -> VectorMetrics:
    assert vectors.metrics is not None
    return vectors.metrics


def glove(path: Path, **changes: Any) -> dict[str, Any]:
    return {"kind": "glove", "path": str(path), "dim": 3, "unknown": "drop", "seed": 0, **changes}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "glove.txt").write_text(GLOVE)
    return tmp_path / "glove.txt"


def test_prompts() -> None:
    prompts = {"adjective": "a {} object", "noun": "a {}"}
    found = made({"kind": "clip", "prompts": prompts}, load=Encoder)
    assert found.adjectives.tolist() == [[12.0, 1.0], [14.0, 1.0], [13.0, 1.0]]
    assert found.nouns[0].tolist() == [6.0, 1.0]
    assert found.facts == {
        "clip_id": "fake:test:0",
        "vectors": {"kind": "clip", "prompts": prompts},
        "dim": 2,
    }
    assert found.vocabulary == WORDS


def test_vectors_must_be_finite() -> None:
    with pytest.raises(MismatchError, match="a photo of bird"):
        prompt_vectors(["bird"], "a photo of {}", lambda texts: torch.full((len(texts), 2), float("nan")))


def test_token_embeddings_are_averaged_without_start_end_and_padding() -> None:
    found = made({"kind": "clip_tokens"}, load=Encoder)
    mean = (17 + 4 + 3) / 3  # r, e, d
    assert found.adjectives[0].tolist() == pytest.approx([mean, -2 * mean])
    assert torch.equal(found.adjectives[1], found.nouns[1])
    assert found.facts == {"clip_id": "fake:test:0", "vectors": {"kind": "clip_tokens"}, "dim": 2}


def test_a_word_without_tokens_is_reported() -> None:
    with pytest.raises(MismatchError, match="without a token"):
        made({"kind": "clip_tokens"}, Vocabulary(WORDS.pos, {"": 1}, {"bird": 1}), Encoder)


def test_glove_drops_unknown_words_and_counts_them(file: Path) -> None:
    found = made(glove(file))
    assert found.vocabulary.adjectives == {"red": 6, "light": 3}
    assert found.vocabulary.nouns == {"bird": 5, "light": 2}
    torch.testing.assert_close(found.adjectives, torch.tensor([[4.0, 5, 6], [-0.1, 0.5, 0.25]]))
    torch.testing.assert_close(found.nouns, torch.tensor([[1.0, 2, 3], [-0.1, 0.5, 0.25]]))
    coverage = {"coverage": 0.666667, "num_dropped": 1, "num_random": 0}
    assert measured(found).plain() == {
        "adjectives": {**coverage, "coverage_said": 0.9}, "nouns": {**coverage, "coverage_said": 0.875},
    }  # fmt: skip
    assert found.facts["clip_id"] is None
    assert found.facts["vectors"] == {
        "kind": "glove", "dim": 3, "unknown": "drop", "seed": 0, "file": "glove.txt",
        "sha256": sha256(GLOVE.encode()).hexdigest(),
    }  # fmt: skip


def test_glove_draws_unknown_words_at_the_scale_of_the_others(file: Path) -> None:
    first, again, other = (made(glove(file, unknown="random", seed=seed)) for seed in (0, 0, 1))
    assert first.vocabulary == WORDS
    assert torch.equal(first.adjectives, again.adjectives)
    assert torch.equal(first.adjectives[:2], other.adjectives[:2])
    assert not torch.equal(first.adjectives[2], other.adjectives[2])
    assert measured(first).nouns.num_random == 1
    many = Vocabulary(WORDS.pos, {f"zzz{i}": 1 for i in range(2000)}, WORDS.nouns)
    drawn = made(glove(file, unknown="random"), many).adjectives
    found = torch.tensor([1.0, 2, 3, -0.1, 0.5, 0.25])
    assert float(drawn.std()) == pytest.approx(float(found.std(correction=0)), rel=0.05)


def test_glove_can_refuse_unknown_words(file: Path) -> None:
    with pytest.raises(DataError, match="1 adjectives: teal; 1 nouns: axolotl"):
        made(glove(file, unknown="error"))
    known = Vocabulary(WORDS.pos, {"red": 6}, {"bird": 5})
    assert measured(made(glove(file, unknown="error"), known)).nouns.coverage == 1.0


def test_the_bundled_part_of_glove_needs_no_file_and_names_the_words_that_it_lacks() -> None:
    known = Vocabulary(WORDS.pos, {"red": 6, "teal": 1}, {"bird": 5})
    found = made({"kind": "glove", "path": None}, known)
    assert found.adjectives.shape == (2, 100)
    assert found.facts["vectors"] == {
        "kind": "glove", "dim": 100, "unknown": "error", "seed": 0, "file": "glove-6b-100d.parquet",
        "sha256": sha256(BUNDLED.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert measured(found).adjectives.coverage == 1.0
    lacking = Vocabulary(WORDS.pos, {"red": 6, "zzza": 1}, {"bird": 5, "zzzb": 2})
    with pytest.raises(
        DataError, match=r"the bundled part of GloVe lacks.*\n.*1 adjectives: zzza; 1 nouns: zzzb"
    ):
        made({"kind": "glove", "path": None}, lacking)
    assert list(made({"kind": "glove", "path": None, "unknown": "drop"}, lacking).vocabulary.nouns) == [
        "bird"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the 0 0 0\nred 1 2\n", "line 2 is not a word with 3 finite numbers"),
        ("the 0 0 0\nbird 1 2 3\nred 1 x 2\n", "line 3 is not a word"),
        ("the 0 0 0\nbird 1 2 nan\n", "line 2 is not a word"),
        ("the 0 0 0\n\nbird 1 2 3\n", "line 2 is not a word"),
        ("the 0 0 0 0 0\n", "set graph.vectors.dim to 5"),
        ("400000 300\nthe 0 0 0\n", "set graph.vectors.dim to 300"),
        ("400000 3\nthe 0 0 0\n", "has none of the vocabulary's words"),
        ("the 0 0 0\n", "has none of the vocabulary's words"),
        ("", "0 lines without them"),
        ("bird 1 2 3\n", "has no adjective of the vocabulary"),
    ],
)
def test_glove_mistakes_are_reported_with_the_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "glove.txt").write_text(text)
    with pytest.raises(DataError, match=told):
        made(glove(tmp_path / "glove.txt"))


def test_glove_files_are_checked(file: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        made(glove(file.with_name("gone.txt")))
    made(glove(file, sha256=sha256(GLOVE.encode()).hexdigest()))
    with pytest.raises(DataError, match="sha256"):
        made(glove(file, sha256="0" * 64))
    with pytest.raises(ParamsError, match="unknown"):
        made(glove(file, unknown="skip"))


def test_glove_files_may_be_packed_and_have_a_header(file: Path, tmp_path: Path) -> None:
    plain = made(glove(file))
    (tmp_path / "g.gz").write_bytes(gzip.compress(GLOVE.encode()))
    (tmp_path / "header.vec").write_text("6 3\n" + GLOVE.replace("\n", " \r\n"), newline="")
    with zipfile.ZipFile(tmp_path / "g.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glove.6B.13d.txt", "red 1\n")
        archive.writestr("glove.6B.3d.txt", GLOVE)
    for name in ("g.gz", "header.vec", "g.zip"):
        found = made(glove(tmp_path / name, sha256=sha256((tmp_path / name).read_bytes()).hexdigest()))
        assert torch.equal(found.adjectives, plain.adjectives)
        assert torch.equal(found.nouns, plain.nouns)
        assert found.metrics == plain.metrics
    assert made(glove(tmp_path / "g.zip")).facts["vectors"]["member"] == "glove.6B.3d.txt"
    with pytest.raises(
        DataError, match=r"(?s)has 2 files, and none.*choices: +glove.6B.13d.txt, glove.6B.3d"
    ):
        made(glove(tmp_path / "g.zip", dim=7))
    (tmp_path / "cut.gz").write_bytes((tmp_path / "g.gz").read_bytes()[:-12])
    (tmp_path / "cut.zip").write_bytes((tmp_path / "g.zip").read_bytes()[:-30])
    for name in ("cut.gz", "cut.zip"):
        with pytest.raises(DataError, match="cannot be read"):
            made(glove(tmp_path / name))


def test_a_few_damaged_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text(GLOVE + "other 1 1 1\n" * 1500 + "teal 1 2\n")
    found = made(glove(tmp_path / "g.txt"))
    assert measured(found).num_damaged_lines == 1
    assert list(found.vocabulary.adjectives) == ["red", "light"]
    (tmp_path / "g.txt").write_text(GLOVE + "other 1 1 1\n" * 500 + "teal 1 2\n")
    with pytest.raises(DataError, match="line 507 is not a word"):
        made(glove(tmp_path / "g.txt"))


def test_a_byte_order_mark_and_doubled_spaces_cost_no_word(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_bytes(b"\xef\xbb\xbf" + GLOVE.replace(" ", "  ").encode())
    (tmp_path / "plain.txt").write_text(GLOVE)
    odd, plain = made(glove(tmp_path / "g.txt")), made(glove(tmp_path / "plain.txt"))
    assert odd.vocabulary == plain.vocabulary
    assert measured(odd).num_damaged_lines is None


def test_words_with_hyphens_are_the_mean_of_their_parts_where_asked(file: Path) -> None:
    words = Vocabulary(
        WordnetPos(kind="wordnet"), {"red": 6, "light-red": 2, "teal-red": 1, "red-": 1}, {"bird": 5}
    )
    whole, parts = made(glove(file), words), made(glove(file, hyphens="parts"), words)
    assert list(whole.vocabulary.adjectives) == ["red"]
    assert "hyphens" not in whole.facts["vectors"]
    assert list(parts.vocabulary.adjectives) == ["red", "light-red"]
    torch.testing.assert_close(parts.adjectives[1], torch.tensor([1.95, 2.75, 3.125]))
    assert parts.facts["vectors"]["hyphens"] == "parts"
    assert measured(parts).adjectives.plain() == {
        "coverage": 0.5, "coverage_said": 0.8, "num_dropped": 2, "num_random": 0, "num_from_parts": 1,
    }  # fmt: skip
    drawn = [made(glove(file, unknown="random", hyphens=how), WORDS).adjectives for how in ("whole", "parts")]
    assert torch.equal(*drawn)


def test_random_vectors_depend_only_on_class_and_word() -> None:
    config = {"kind": "random", "dim": 4000, "std": 0.5, "seed": 3}
    found = made(config)
    assert found.adjectives.shape == (3, 4000)
    assert float(found.nouns.std()) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(found.adjectives[1], found.nouns[1])  # light and light
    fewer = made(config, Vocabulary(WORDS.pos, {"teal": 9}, {"bird": 1}))
    assert torch.equal(fewer.adjectives[0], found.adjectives[2])
    assert found.facts == {"clip_id": None, "vectors": config, "dim": 4000}
