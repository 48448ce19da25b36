"""What the tools write is looked at before work: nothing else is lost, and a place that cannot be written is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vqpipe.artifacts.specs.tokens import CODES
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.cli.app import app

TOOLS = {
    "tokenize": (["tokenize", "photos", "--tokenizer=gone"], "parquet"),
    "detokenize": (["detokenize", "gone.parquet", "--tokenizer=gone"], "folder"),
    "export": (["export", "photos"], "folder"),
    "import": (["import", "gone.ckpt", "gone.yaml"], "folder"),
    "sample": (["sample", "--prior=gone"], "png"),
    "complete": (["complete", "photo.png", "--prior=gone", "--keep=top"], "png"),
    "bench-tokenizers": (["bench-tokenizers", "photos", "--tokenizer=gone"], "json"),
    "card": (["card", "gone"], "page"),
    "boards": (["boards", "--folder=gone"], "page"),
    "preset": (["preset", "pico"], "params"),
}
"""Each tool that writes, with inputs that are missing or not what it reads: only a check before work can speak of the
output."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_text("a")
    (tmp_path / "notes.txt").write_text("notes")
    return tmp_path


def refused(tool: str, out: str, *told: str) -> None:
    done = CliRunner().invoke(app, [*TOOLS[tool][0], f"--out={out}"])
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.output.startswith("error: ")
    for text in told:
        assert text in done.output
    assert (
        sorted(path.name for path in Path().iterdir())
        == ["locked", "notes.txt", "photos"][0 if Path("locked").exists() else 1 :]
    )
    assert (Path("photos/a.png").read_text(), Path("notes.txt").read_text()) == ("a", "notes")


def test_the_table_holds_every_tool_with_an_output() -> None:
    writers = {
        command.name or command.callback.__name__.replace("_", "-")  # type: ignore[union-attr]
        for command in app.registered_commands
        if "out" in command.callback.__annotations__ and not command.hidden  # type: ignore[union-attr]
    }
    assert writers == set(TOOLS)


@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_else_is_replaced(tool: str) -> None:
    if TOOLS[tool][1] == "folder":
        refused(tool, "photos", "which would be lost", "a.png")
        refused(tool, "notes.txt", "notes.txt is a file")
    else:
        refused(tool, "photos", "photos is a folder")
        refused(tool, "notes.txt", "differs from preset" if tool == "preset" else "which would be lost")
    refused(tool, "notes.txt/below", "notes.txt is a file")


@pytest.mark.parametrize("tool", TOOLS)
def test_a_place_that_cannot_be_written_is_told(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tool, "n" * 300, "name is too long")
    Path("locked").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and real(path, mode))
    refused(tool, "locked/x.parquet", "locked is not writable")


@pytest.mark.slow
def test_a_table_of_another_kind_is_not_replaced_by_tokens(here: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"mine": [1]}), here / "mine.parquet")
    before = (here / "mine.parquet").read_bytes()
    words = [*TOOLS["tokenize"][0], "--out=mine.parquet"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "which would be lost" in done.output) == (2, True)
    assert (here / "mine.parquet").read_bytes() == before
    write_table(here / "mine.parquet", CODES, to_table(CODES, []), {})
    again = CliRunner().invoke(app, words)
    assert "which would be lost" not in again.output, "what the tool wrote may be replaced"


@pytest.mark.slow
def test_an_import_does_not_replace_a_tokenizer_that_was_trained_here(here: Path) -> None:
    from tests.tiny import write_tokenizer

    write_tokenizer(here / "vq")
    before = (here / "vq/manifest.json").read_bytes()
    done = CliRunner().invoke(app, [*TOOLS["import"][0], "--out=vq"])
    assert (done.exit_code, "trained here, which would be lost" in done.output) == (2, True)
    assert (here / "vq/manifest.json").read_bytes() == before
