"""Rows of TSV and CSV files, in bounded memory, with no row lost to a stray quote."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice

from vqpipe.data.streams import MAX_LINE

MAX_ROW_LINES = 1000
"""Lines that a row may have. A quote that is not closed within them is text."""

Line = tuple[int, str]
"""A line's number and its text, without the line end."""


def rows(lines: Iterator[tuple[int, bytes]], delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, cells) for each row; bytes that are no UTF-8 become lone surrogates.

    A cell is quoted where its first character is a quote and its closing quote is followed by a delimiter, the line
    end or the end of the file; where tabs delimit, one of several lines has no tab. Any other quote is text: it
    neither joins lines nor is it dropped.

    Args:
        lines: numbers and bytes of the lines.
        delimiter: the character between cells.
        quotes: whether cells may be quoted.
    """
    ahead: deque[Line] = deque()
    texts = ((number, line.decode("utf-8", "surrogateescape")) for number, line in lines)
    while first := _next(ahead, texts):
        number, text = first
        cells = _quoted(text, ahead, texts, delimiter) if quotes and _opens(text, delimiter) else None
        yield number, text.split(delimiter) if cells is None else cells


def fitted(cells: list[str], header: list[str], last: int, delimiter: str) -> list[str] | None:
    """The cells of a row under its header; None where there are more and it cannot be told which belong together.

    A row has more cells where text holds the delimiter and is not quoted: what is behind the header's last column
    belongs to it where it is the text's, column `last`. Empty cells behind the header are none.
    """
    width = len(header)
    while len(cells) > width > 0 and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) <= width or width == 0:
        return cells
    return [*cells[:last], delimiter.join(cells[last:])] if last == width - 1 else None


def _next(ahead: deque[Line], texts: Iterator[Line]) -> Line | None:
    return ahead.popleft() if ahead else next(texts, None)


def _opens(text: str, delimiter: str) -> bool:
    return text.startswith('"') or f'{delimiter}"' in text


def _quoted(text: str, ahead: deque[Line], texts: Iterator[Line], delimiter: str) -> list[str] | None:
    """The cells of the row that begins with a line; None, and no line is taken, where its quotes are not sound."""
    taken = 0

    def row_lines() -> Iterator[str]:
        nonlocal taken
        size, line = 0, text
        while size + len(line) <= MAX_LINE and taken < MAX_ROW_LINES:
            size += len(line) + 1
            yield line + "\n"
            if taken == len(ahead):
                ahead.extend(islice(texts, 1))
            if taken == len(ahead):
                return
            line = ahead[taken][1]
            taken += 1

    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_LINE))
    reader = csv.reader(row_lines(), delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except csv.Error:
        return None
    if reader.line_num > 1 and delimiter == "\t" and any("\n" in cell and "\t" in cell for cell in cells):
        return None  # two stray quotes with rows between them; no one puts tabs into a cell of a TSV
    for _ in range(reader.line_num - 1):
        ahead.popleft()
    return cells
