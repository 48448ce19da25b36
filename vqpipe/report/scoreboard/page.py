"""docs/scoreboard.md: every table with its claims and verdicts, then what the rows cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqpipe.report.scoreboard.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    Verdict,
    judge,
)
from vqpipe.report.scoreboard.columns import head, shown
from vqpipe.report.scoreboard.costs import costs
from vqpipe.report.scoreboard.language import LANGUAGE_TABLES, READING
from vqpipe.report.scoreboard.results import Results, read_results
from vqpipe.report.scoreboard.second_set import SECOND_TABLES
from vqpipe.report.scoreboard.tables import MAIN, STARTS, BoardTable, markdown
from vqpipe.report.scoreboard.vqct import VQCT_TABLES
from vqpipe.report.scoreboard.vqgan_lc import LC_TABLES

OUTCOMES = (REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE, NOT_RUN)
HOW = """\
Every number here is read from the metrics of the rows (`scoreboard/metrics/`), and every verdict follows from the
numbers by a rule; none is written by hand. `vqpipe scoreboard` makes this page, `make scoreboard` the rows.

- Brackets are 95 % intervals: over the seeds (Student's t) for a row of several seeds, over the test images (bootstrap)
  for a row of one. The second kind does not hold the chance of the training, so read small differences between rows of
  one seed with care. Distances between sets, and shares of codes, have an interval over seeds only; a share's is
  printed as far as 0 and 100 %. Seeds that agree to the last digit have none.
- A row lies above another where their intervals do not overlap; where one of the two has no interval, where the means
  differ by more than the share that the claim states (5 % unless it says more). A claim of several comparisons holds
  where all of them do. "Stays" is judged by the means.
- **Reproduced**: the rows show the claim by that rule. **Not reproduced at this scale**: they do not; the text says
  which comparison fails, and whether the two are the other way round, cannot be told apart, or differ by less than the
  claim asks for. **Not testable here**: the claim rests on something that this run does not have.
- A row that was not run is printed as missing and judged by nothing; a dash stands where a row that was run has no
  such number.
- A row is run again when its params, data set, CLIP or prior change, or when the number of the protocol is raised, and
  not when a source file changes: a new docstring would cost hours. Each row's metrics say by which code it was made (a
  digest over the packages that it uses), and each scoreboard below says how many such versions it has.
- FD-CLIP is a Frechet distance in the features of the run's own small CLIP: it stands for the papers' FID and does not
  compare with it. CLIP distance stands for LPIPS likewise.
"""


@dataclass(frozen=True)
class Board:
    """One scoreboard of the page."""

    title: str
    folder: Path
    tables: Sequence[BoardTable]
    run: str
    about: str = ""
    """What its numbers are, where the page's own words do not say it."""


def boards(root: Path) -> tuple[Board, ...]:
    """The scoreboards under a folder: the embedded data set's; Tiny ImageNet's and LG-VQ's within it."""
    return (
        Board("Embedded scenes", root, (MAIN, STARTS, *VQCT_TABLES, *LC_TABLES), "make scoreboard"),
        Board("Tiny ImageNet", root / "tiny-imagenet", SECOND_TABLES, "make scoreboard-tiny-imagenet"),
        Board(
            "Language-guided codebooks",
            root / "language",
            LANGUAGE_TABLES,
            "make scoreboard-language",
            READING,
        ),
    )


def scoreboard_page(found: Sequence[tuple[Board, Results]]) -> str:
    """The page as Markdown text, from whatever rows are there."""
    parts = ["# Scoreboard", HOW.rstrip()]
    for board, results in found:
        parts += list(_board(board, results))
    return "\n\n".join(parts) + "\n"


def read_boards(root: Path) -> list[tuple[Board, Results]]:
    """Every scoreboard with what it measured; errors as `read_results`."""
    return [(board, read_results(board.folder)) for board in boards(root)]


def _board(board: Board, results: Results) -> Iterator[str]:
    yield f"## {board.title}"
    if not results.metrics:
        yield f"No row has been run. Run: `{board.run}`"
        return
    verdicts = {table.title: [judge(claim, results) for claim in table.claims] for table in board.tables}
    yield _about(results, board)
    if board.about:
        yield board.about
    yield _summary(verdicts)
    for table in board.tables:
        yield f"### {table.title}"
        yield table.about
        if table.rows:
            yield _rows(table, results)
            if notes := _departures(table, results):
                yield notes
        if table.claims:
            yield _sentence(verdicts[table.title])
            yield _verdicts(verdicts[table.title])
    yield f"### Cost: {board.title}"
    yield from costs(results)


def _about(results: Results, board: Board) -> str:
    def one(name: str) -> str:
        return ", ".join(str(value) for value in results.distinct(name)) or "unknown"

    num_runs = sum(map(len, results.metrics.values()))
    codes, missing, stale = results.distinct("code"), results.missing(), results.stale()
    lines = [
        f"{num_runs} of {len(results.board.runs)} runs of {len(results.board.rows)} rows. Every row: "
        f"{one('num_steps')} steps; measured on {one('num_images')} images of the {one('split')} split at "
        f"{one('resolution')} pixels, grid {one('grid')}, "
        f"features of {one('features')}, protocol {results.board.protocol}.",
        f"The numbers were made by {len(codes)} version{'s' * (len(codes) != 1)} of the code: {one('code')}."
        + (" Rows of different versions compare only as far as the changes between them left results alone."
           if len(codes) > 1 else ""),
    ]  # fmt: skip
    if stale:
        lines.append(f"Made under another protocol, to be run again: {', '.join(stale)}.")
    if missing:
        lines.append(f"Missing runs: {', '.join(missing)}. Run: `{board.run}`")
    return "\n\n".join(lines)


def _summary(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    rows = []
    for title, found in verdicts.items():
        if found:
            counts = Counter(verdict.outcome for verdict in found)
            rows.append([title, *(str(counts[outcome] or "") for outcome in OUTCOMES)])
    return markdown(["claims of", *OUTCOMES], rows)


def _sentence(found: Sequence[Verdict]) -> str:
    """Which claims this run reproduces and which it does not, in one paragraph."""
    parts = []
    for outcome in OUTCOMES:
        texts = [verdict.claim.text for verdict in found if verdict.outcome == outcome]
        if texts:
            parts.append(f"{outcome.capitalize()} ({len(texts)} of {len(found)}): {'; '.join(texts)}.")
    return " ".join(parts)


def _verdicts(found: Sequence[Verdict]) -> str:
    rows = [[verdict.claim.text, f"**{verdict.outcome}**", verdict.evidence] for verdict in found]
    return markdown(["claim", "verdict", "evidence"], rows)


def _departures(table: BoardTable, results: Results) -> str:
    """Which baselines of a table are not what VQGAN-LC's own code runs, and in what."""
    rows: dict[str, list[str]] = {}
    for row in dict.fromkeys(row for _, row in table.rows):
        if text := results.departure(row):
            rows.setdefault(text, []).append(f"`{row}`")
    if not rows:
        return ""
    return (
        "Not in the form of VQGAN-LC's own code: "
        + "; ".join(f"{', '.join(own)} ({text})" for text, own in rows.items())
        + "."
    )


def _rows(table: BoardTable, results: Results) -> str:
    heads = ["", "row", "K", "seeds", *(head(name) for name in table.metrics)]
    rows = []
    for label, row in table.rows:
        runs = results.metrics.get(row, {})
        sizes = ", ".join(sorted({str(run.get("num_codes", "")) for run in runs.values()}))
        found = {name: results.estimate(row, name) for name in table.metrics}
        cells = [
            "\N{EN DASH}" if runs and value is None else shown(name, value) for name, value in found.items()
        ]
        rows.append([label, f"`{row}`", sizes or "missing", str(len(runs) or "missing"), *cells])
    if all(label == row for label, row in table.rows):
        heads, rows = heads[1:], [cells[1:] for cells in rows]
    return markdown(heads, rows)
