"""The verdicts that differ from those of an earlier page, each with its cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from vqpipe.boards.claims import NOT_REPRODUCED, NOT_RUN, UNDECIDED, BoardTable, Verdict
from vqpipe.boards.found import Found
from vqpipe.boards.markdown import render
from vqpipe.params.base import read_yaml, validate
from vqpipe.params.bounded_yaml import GENERATED

FILE = "earlier.yaml"
"""In the folder of the boards."""
UNKNOWN = "not known"
SAME = (NOT_REPRODUCED, UNDECIDED)
"""Then and now: the earlier page has one word for a claim that fails and for one that its intervals do not decide."""
_FORM = ConfigDict(extra="forbid")


@checked(frozen=True, config=_FORM)
class EarlierVerdict:
    """What an earlier page states of a claim."""

    claim: str
    outcome: str
    evidence: str


@checked(frozen=True, config=_FORM)
class Earlier:
    """The verdicts of an earlier page."""

    commit: str
    """Where the page is in the history."""
    about: str
    """What its rows were, where they differ from today's."""
    boards: Annotated[dict[str, dict[str, tuple[EarlierVerdict, ...]]], Field(min_length=1)]
    """By the board's folder and the title of the table."""


def read_earlier(root: Path) -> Earlier | None:
    """The verdicts of an earlier page, or None where a folder of boards has no file of them.

    Raises:
        ParamsError: a file that is not valid.
    """
    path = root / FILE
    if not path.exists():
        return None
    found: Earlier = validate(read_yaml(path, GENERATED), "earlier", Earlier, path.as_posix())
    return found


def changes_page(earlier: Earlier, found: Sequence[Found], home: str) -> str:
    """Every claim of the earlier page: changed, as before, not run again yet, or no longer made in this form."""
    boards = {board.name: board for board in found}
    changed, counts, gone = [], {"as before": 0, "not run again yet": 0}, []
    for name, tables in earlier.boards.items():
        now = _now(boards[name]) if name in boards else {}
        for title, verdicts in tables.items():
            for old in verdicts:
                pair = now.get((title, old.claim)) or now.get((_start(title), old.claim))
                if pair is None:
                    gone.append(f"{title}: {old.claim}")
                elif pair[1].outcome == NOT_RUN:
                    counts["not run again yet"] += 1
                elif pair[1].outcome == old.outcome or (old.outcome, pair[1].outcome) == SAME:
                    counts["as before"] += 1
                else:
                    changed.append(_change(boards[name], *pair, old))
    return render(
        "changes.md.j2", home=home, earlier=earlier, changed=changed, counts=counts, gone=gone,
        total=sum(len(own) for tables in earlier.boards.values() for own in tables.values()),
    )  # fmt: skip


def _now(board: Found) -> Mapping[tuple[str, str], tuple[BoardTable, Verdict]]:
    """Verdicts of a board by the title of their table, and by the start of it, with the text of their claim."""
    every = [(table, one) for table in board.claims.tables for one in board.verdicts[table.title]]
    return {
        (name(table.title), verdict.claim.text): (table, verdict)
        for name in (_start, str)
        for table, verdict in every
    }


def _start(title: str) -> str:
    """What is left of a title before a colon: the words after it may have changed."""
    return title.split(":")[0]


def _change(board: Found, table: BoardTable, verdict: Verdict, old: EarlierVerdict) -> dict[str, Any]:
    cause = (
        verdict.claim.cause or board.claims.causes.get(_start(table.title)) or board.claims.cause or UNKNOWN
    )
    return {
        "board": board.claims.title, "table": table.title, "page": board.page(table), "claim": old.claim,
        "before": old, "now": verdict, "cause": " ".join(cause.split()),
    }  # fmt: skip
