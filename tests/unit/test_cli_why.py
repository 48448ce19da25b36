"""`vqpipe why` and `vqpipe card`: what they say of edges, of missing ones, and of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.text_captions import counted, publish
from vqpipe.cli.app import app
from vqpipe.errors import SetupError

CAPTIONS = (
    "a red bird and a red bird", "two red birds near a green tree", "a red bird by the sea", "a green tree",
    "a red tree", "a bird in a tree",
)  # fmt: skip
GRAPH = {
    "min_count": 2, "weight": "binary",
    "vectors": {"kind": "random", "dim": 4, "std": 1.0, "seed": 0},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS) + "\n")
    corpus = f"corpus: {{kind: text, path: {tmp_path / 'captions.txt'}}}\n"
    (tmp_path / "params.yaml").write_text(corpus)
    adjectives, nouns = {"red": 5, "green": 2, "orange": 2}, {"bird": 5, "tree": 4, "orange": 1}
    publish(tmp_path / "words", counted(CAPTIONS, adjectives, nouns), GRAPH)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def why(*arguments: object) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["why", *map(str, arguments), "--codebook=words"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output.splitlines()


@pytest.mark.parametrize("words", [("red", "bird"), ("Red", " BIRDS ")])
def test_an_edge(folder: Path, words: tuple[str, str]) -> None:
    code, lines = why(*words)
    assert code == 0
    assert lines == [
        "red bird: an edge",
        "  occurs  4 times, rank 1 of 2 edges; an edge needs 2",
        "  weight  1 (binary)",
        "  PMI     0.34 nats, rank 2 of 2 edges: more often than by chance",
        "  first captions",
        "    1  a red bird and a red bird",
        "    2  two red birds near a green tree",
        "    3  a red bird by the sea",
        "  red: occurs 5 times, modifies 1 of 3 nouns: bird",
        "  bird: occurs 5 times, modified by 1 of 3 adjectives: red",
    ]


def test_an_edge_without_its_captions(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    code, lines = why("red", "bird")
    assert code == 0
    assert "  first captions: 1, 2, 3" in lines
    assert any("name them with --corpus" in line for line in lines)
    assert why("red", "tree")[1][1] == "  occurs fewer than 2 times in the captions (graph.min_count)"


def test_a_tagger_that_is_not_installed_is_not_taken_for_captions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: object) -> None:
        raise SetupError("the tagger is not installed")

    monkeypatch.setattr("vqpipe.cli.why.tagger", absent)
    code, lines = why("green", "bird")
    assert code == 0
    assert any("cannot be searched: the tagger is not installed)" in line for line in lines), lines


def test_other_captions_than_those_of_the_codebook(folder: Path) -> None:
    (folder / "captions.txt").write_text("a red bird\na blue car\na red tree\na red tree\na red tree\n")
    assert "    2  (not in these captions)" in why("red", "bird")[1]
    assert "enough for an edge (2): the codebook was made of others" in why("red", "tree")[1][1]


def test_a_pair_that_is_said_too_rarely(folder: Path) -> None:
    code, lines = why("red", "tree")
    assert code == 0
    assert lines[:3] == [
        "red tree: no edge", "  occurs once in these captions; an edge needs 2 (graph.min_count)", "    5  a red tree",
    ]  # fmt: skip


def test_a_pair_that_is_never_said(folder: Path) -> None:
    assert why("green", "bird")[1][:2] == ["green bird: no edge", "  these captions do not have this pair"]


def test_words_outside_the_vocabulary(folder: Path) -> None:
    code, lines = why("greenish", "oranges")
    assert code == 0
    assert lines[1] == "  greenish is not among the 3 adjectives; nearest: green"
    assert len(lines) == 3
    assert why("orange", "orange")[1][1] == "  these captions do not have this pair"
    lines = why("bird", "green")[1]
    assert lines[1] == "  bird is not among the 3 adjectives (it is one of the nouns)"
    assert lines[2] == "  green is not among the 3 nouns (it is one of the adjectives)"
    assert lines[3] == "  did you mean green bird?"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("red", " "), "a word is empty"),
        (("red", "bird", "--corpus=gone"), "--corpus: gone does not exist"),
        (("red", "bird", "--corpus=words"), "another kind of artifact"),
        (("red", "bird", "--codebook=gone"), "does not exist"),
        (("red",), "Missing argument"),
    ],
)
def test_mistakes_exit_2(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, ["why", "--codebook=words", *arguments])
    assert result.exit_code == 2
    assert told in result.output


def test_a_corpus_that_is_named_must_be_readable(folder: Path) -> None:
    (folder / "captions.txt").unlink()
    code, lines = why("red", "bird", "--corpus=params.yaml")
    assert code == 2
    assert "captions.txt" in "\n".join(lines)


@pytest.fixture
def forms(folder: Path) -> Path:
    """The captions in every form, each with the line 5, "a red tree", alone having (red, tree)."""
    out = folder / "forms"
    rows = list(enumerate(CAPTIONS, 1))
    for name, value in (
        ("coco", {"annotations": [{"image_id": at, "caption": text} for at, text in rows]}),
        ("karpathy", {"images": [
            {"cocoid": at, "split": "train", "sentences": [{"raw": text}]} for at, text in rows
        ]}),
    ):  # fmt: skip
        (out / name).mkdir(parents=True)
        (out / name / "captions.json").write_text(json.dumps(value))
    objects = "\n".join(json.dumps({"n": at, "Text": text}) for at, text in rows)
    quoted = "".join(f'{at},"{text}, and so on"\n' for at, text in rows)
    for name, text in (
        ("lines/captions.jsonl", objects), ("lines_in_json/captions.json", objects),
        ("texts/captions.TXT", "\n".join(CAPTIONS)), ("csv/captions.csv", f"id,Caption\n{quoted}"),
        ("csv_bare/captions.csv", quoted), ("tsv/captions.tsv", "\n".join(f"{at}\t{t}" for at, t in rows)),
    ):  # fmt: skip
        (out / name).parent.mkdir()
        (out / name).write_text(text)
    (out / "parquet").mkdir()
    table = pa.table({"n": [at for at, _ in rows], "caption": list(CAPTIONS)})
    pq.write_table(table, out / "parquet" / "captions.parquet")
    return out


FORMS = (
    "coco", "karpathy", "lines", "lines_in_json", "texts", "csv", "csv_bare", "tsv", "parquet",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_corpus_is_known_by_its_form(forms: Path, name: str) -> None:
    [file] = (forms / name).iterdir()
    code, lines = why("red", "tree", f"--corpus={file}")
    assert code == 0
    assert lines[1] == "  occurs once in these captions; an edge needs 2 (graph.min_count)"
    assert "a red tree" in lines[2]


@pytest.mark.parametrize("name", ["coco", "lines", "lines_in_json", "csv", "tsv", "parquet"])
def test_a_folder_of_captions_is_known_by_its_files(forms: Path, name: str) -> None:
    assert (
        "  occurs once in these captions; an edge needs 2 (graph.min_count)"
        in why("red", "tree", f"--corpus={forms / name}")[1]
    )


def test_captions_with_other_ids_are_shown_by_what_they_say(forms: Path) -> None:
    (forms / "coco/captions.json").write_text(
        json.dumps(
            {"annotations": [{"image_id": 70, "caption": "Red  BIRDS sing"}, {"image_id": 8, "caption": "a"}]}
        )
    )
    code, lines = why("red", "bird", f"--corpus={forms / 'coco/captions.json'}")
    assert code == 0
    assert "    70  Red  BIRDS sing" in lines
    assert "    (the codebook's own captions have other ids)" in lines


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metrics.json", '{"psnr": 1.0}', "psnr"),
        ("broken.json", '{"annotations": [', "broken.json"),
        ("lines.jsonl", '{"url": "x"}', "no key of captions"),
        ("page.html", "<p>a red bird</p>", "is not a file of captions"),
        ("empty.csv", "", "empty.csv is empty"),
        ("bad.parquet", "PAR1", "cannot be read as Parquet"),
        ("params.yaml", "corpus: 3", "corpus"),
        ("large.yaml", "#" * (1 << 20) + "#", "too large for a params file"),
    ],
)
def test_a_corpus_of_no_known_form_is_told(folder: Path, name: str, content: str, told: str) -> None:
    (folder / name).write_text(content)
    code, lines = why("red", "bird", f"--corpus={name}")
    assert code == 2
    assert told in "\n".join(lines)


def test_a_folder_of_several_kinds_or_none_is_told(forms: Path) -> None:
    (forms / "csv/more.txt").write_text("a red bird\n")
    assert why("red", "bird", f"--corpus={forms / 'csv'}")[0] == 2
    code, lines = why("red", "bird", f"--corpus={forms}")
    assert code == 2
    assert "nor a folder of captions of one kind" in lines[0]


def test_a_search_without_end_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqpipe.cli.why.MAX_CAPTIONS", 4)
    lines = why("red", "tree")[1]
    assert lines[1] == "  these captions do not have this pair"
    assert "  (only the first 4 captions were looked at)" in lines


def test_card(folder: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["card", "words"]).output == "wrote words.card.md\n"
    assert (folder / "words.card.md").read_text().startswith("# Codebook: words")
    assert runner.invoke(app, ["card", "words", "--out=pages/a.md"]).exit_code == 0
    assert (folder / "pages/a.md").read_bytes() == (folder / "words.card.md").read_bytes()
    for arguments, told in ((["gone"], "does not exist"), (["words", "--out=words"], "is a folder")):
        result = runner.invoke(app, ["card", *arguments])
        assert result.exit_code == 2
        assert told in result.output


def test_a_codebook_is_named_from_within_it_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["card", "words"]).exit_code == 0
    text = (folder / "words.card.md").read_bytes()
    (folder / "words.card.md").unlink()
    monkeypatch.chdir(folder / "words")
    for command in (["card", "."], ["artifacts", "show", "."], ["artifacts", "verify", "."]):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, (done.output, done.exception)
    assert (folder / "words.card.md").read_bytes() == text
