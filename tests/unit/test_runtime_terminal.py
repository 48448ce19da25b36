"""No control character of a name, caption or label reaches a terminal or a page."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import rich.progress

from vqpipe.cli.app import app
from vqpipe.library.cards import escape
from vqpipe.library.cards import table as markdown_table
from vqpipe.report.blocks import Cell, Column, Section, Table, Text
from vqpipe.report.build import render
from vqpipe.runtime import terminal
from vqpipe.runtime.scratch import scratch_folder
from vqpipe.runtime.terminal import harmless, say

HOSTILE = "\x1b[31mred\x1b]0;owned\x07 \x9b2J \x7f \u202eevil\u2066 \udcff \r\u2028"


def controls(text: str) -> set[str]:
    """What a terminal obeys: control characters but tab and line feed, and marks that turn the order of letters."""
    turns = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return {
        char
        for char in text
        if (unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t")
        or unicodedata.bidirectional(char) in turns
    }


def test_every_character_that_a_terminal_obeys_is_escaped() -> None:
    every = "".join(map(chr, range(0x110000)))
    assert controls(every)
    assert not controls(harmless(every))
    assert harmless("\x1b[31m\u202e") == "\\x1b[31m\\u202e"
    kept = "a\tb\nc naïve café 日本語 עברית 👩\u200d👧 “x” \xa0"
    assert harmless(kept) == kept


@pytest.mark.parametrize("err", [False, True])
def test_say(err: bool, capfd: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE, err=err, end="|")
    out, other = capfd.readouterr()[:: -1 if err else 1]
    assert (out, other) == (harmless(HOSTILE) + "|", "")


def test_titles_and_notes_of_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(terminal.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(rich.progress.Progress, "add_task", lambda _, title, **fields: shown.append(title))
    monkeypatch.setattr(rich.progress.Progress, "update", lambda *_, note, **fields: shown.append(note))
    with terminal.progress_bar(HOSTILE) as bar:
        bar.advance(note=HOSTILE)
    assert shown == [harmless(HOSTILE)] * 2


def test_a_line_on_an_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))

    def broken(key: str, title: str) -> None:
        with scratch_folder("s", key, {"title": title}) as folder:
            (folder / "x").write_bytes(b"")
            raise KeyError

    for key, title in (("a", "\x1b[31m"), ("b", "\x1b[32m")):
        with pytest.raises(KeyError):
            broken(key, title)
    told = capfd.readouterr().err
    assert "unfinished" in told
    assert not controls(told)


@pytest.mark.parametrize(
    "words",
    [
        ["pairs", f"a {HOSTILE[:-3]} bird on a blue boat", "--backend", "wordnet"],
        ["preset", "--list"],
        ["artifacts", "show", "\x1b[31m"],
    ],
)
def test_tools(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(words)
    out, _ = capfd.readouterr()
    assert not controls(out)


def page() -> str:
    table = Table(HOSTILE, [Column(HOSTILE)], [[Cell(HOSTILE, HOSTILE)]], HOSTILE)
    return render(HOSTILE, HOSTILE, [Section("s", HOSTILE, [Text(HOSTILE), table])])


def card() -> str:
    return "\n".join([escape(HOSTILE), *markdown_table(["a"], [[HOSTILE], [{HOSTILE: [HOSTILE]}]])])


@pytest.mark.parametrize("make", [page, card])
def test_pages_and_cards(make: Callable[[], str]) -> None:
    text = make()
    assert "red" in text
    assert not controls(text)


def test_letters_that_the_output_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    say("naïve 日")
    assert raw.getvalue() == b"na\\xefve \\u65e5\n"
