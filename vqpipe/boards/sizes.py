"""The same methods with larger codebooks: VQGAN-LC's question, how many codes are used and what they buy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vqpipe.boards.claims import order
from vqpipe.boards.columns import head, shown
from vqpipe.boards.found import Found
from vqpipe.boards.markdown import listed, render
from vqpipe.boards.pictures import Line, Point, picture
from vqpipe.boards.results import Results

WANTED = 0.99
"""Share of the codes that VQGAN-LC reports to use at any size (Table 7 of the paper)."""
PICTURE = "utilisation.svg"
MOST = 3
"""Methods above the one that is described, by falling PSNR; the table has all."""


@dataclass(frozen=True)
class Sized:
    """The rows of one method by their number of codes; a method is named as its row without a size."""

    method: str
    rows: Sequence[str]

    def at(self, size: int) -> str | None:
        """The row whose name states this size."""
        return next((row for row in self.rows if row == f"{self.method}-k{size}"), None)


def by_size(results: Results) -> list[Sized]:
    """Every method of the board that has rows NAME and NAME-kNUMBER, those with metrics in the order of their codes."""
    methods: dict[str, list[str]] = {}
    for row in results.board.rows:
        base = re.sub(r"-k\d+$", "", row)
        if base in results.board.rows:
            methods.setdefault(base, []).append(row)
    found = []
    for method, rows in methods.items():
        if len(rows) > 1:
            counts = {row: use.num_codes for row in rows if (use := results.use(row)) is not None}
            if counts:
                found.append(Sized(method, sorted(counts, key=counts.__getitem__)))
    return found


def largest(results: Results) -> int | None:
    """The largest size that names of rows state; None where none does."""
    sizes = [int(match[1]) for row in results.board.rows if (match := re.search(r"-k(\d+)$", row))]
    return max(sizes, default=None)


def sizes_page(found: Found, home: str) -> str:
    """A line for each method and size, after the answer in a sentence and the picture."""
    results = found.results
    rows = [_cells(results, sized.method, row) for sized in by_size(results) for row in sized.rows]
    heads = ["method", "row", "K", "seeds", "bits", head("psnr"), head("fd_clip"), head("utilisation"), "codes used",
             "used at uniform sampling, %", "N"]  # fmt: skip
    planned = [row for row in results.board.rows if re.search(r"-k\d+$", row)]
    missing = [f"`{row}`" for row in planned if not results.metrics.get(row)]
    return render(
        "sizes.md.j2", home=home, board=found, head=heads, rows=rows,
        answer=" ".join(answer(results)) or _begun(results), gains=gains(results),
        missing=missing, picture="" if sizes_picture(results) is None else PICTURE, num_planned=len(planned),
    )  # fmt: skip


def _cells(results: Results, method: str, row: str) -> list[str]:
    use = results.use(row)
    assert use is not None, "by_size"
    bits = results.value(row, "bits_per_image")
    return [
        method, f"`{row}`", f"{use.num_codes:,}", str(len(results.metrics[row])),
        "" if bits is None else f"{bits:,.0f}",
        *(shown(name, results.estimate(row, name)) for name in ("psnr", "fd_clip", "utilisation")),
        f"{use.used:,.0f}", f"{100 * use.uniform:.1f}", f"{use.num_tokens:,}",
    ]  # fmt: skip


def answer(results: Results) -> Iterator[str]:
    """Is 99 % of the largest codebook used, by whom, and what does it buy the best of these by PSNR?

    Nothing before all seeds of a method ran at that size.
    """
    size = largest(results)
    if size is None:
        return
    reached = {
        row: (sized.method, use)
        for sized in by_size(results)
        if (row := sized.at(size)) is not None
        and results.is_complete(row)
        and (use := results.use(row)) is not None
    }
    if not reached:
        return
    one = next(iter(reached.values()))[1]
    ranked = sorted(reached, key=lambda row: -reached[row][1].used / reached[row][1].num_codes)

    def name(row: str) -> str:
        method, use = reached[row]
        return f"`{method}` ({100 * use.used / use.num_codes:.1f} %)"

    full = [row for row in ranked if reached[row][1].used / reached[row][1].num_codes >= WANTED]
    rest = [row for row in ranked if row not in full]
    tokens = (
        f"measured on {one.num_tokens:,} test tokens, with which uniform sampling would use {100 * one.uniform:.1f} % "
        "of the codes"
    )
    if full:
        uses = f"use{'s' * (len(full) == 1)} 99 % or more"
        yield f"Of {size:,} codes, {listed([name(row) for row in full])} {uses}, {tokens}."
        if rest:
            yield f"The others do not: {listed([name(row) for row in rest])}."
    else:
        used = f"No method uses 99 % of {size:,} codes, {tokens}; the highest share is that of {name(ranked[0])}."
        share = 100 * reached[ranked[0]][1].used / reached[ranked[0]][1].num_codes
        alone = f"`{reached[ranked[0]][0]}` uses {share:.1f} % of {size:,} codes, {tokens}."
        yield used if ranked[1:] else alone
    values = {
        row: value for row in full or ranked[:1] if (value := results.estimate(row, "psnr")) is not None
    }
    if values:
        row = max(values, key=lambda row: values[row].mean)
        if bought := _bought(results, reached[row][0], row):
            yield bought
    waiting = [row for row in results.board.rows if row.endswith(f"-k{size}") and row not in reached]
    if waiting:
        rows = "row of that size waits" if len(waiting) == 1 else "rows of that size wait"
        yield f"{len(waiting)} more {rows} for {'its' if len(waiting) == 1 else 'their'} seeds."


def _begun(results: Results) -> str:
    """Which methods have some of their seeds at the largest size, where none has all."""
    size = largest(results)
    rows = [
        row
        for sized in by_size(results)
        if (row := sized.at(size or 0)) is not None and results.metrics.get(row)
    ]
    planned = Counter(run.row for run in results.board.runs.values())
    named = [f"`{row}` ({len(results.metrics[row])} of {planned[row]} seeds)" for row in rows]
    return (
        f"No method has all its seeds at the largest size yet{f'; begun: {listed(named)}' if named else ''}."
    )


def gains(results: Results) -> str:
    """Which methods gain PSNR from the largest codebook; empty where none is complete at both sizes."""
    size = largest(results)
    found: dict[str, list[str]] = {}
    for sized in by_size(results):
        row = sized.at(size or 0)
        if row is None or not results.is_complete(row, sized.method):
            continue
        small, large = (results.estimate(name, "psnr") for name in (sized.method, row))
        if small is not None and large is not None:
            words = {1: "rises", -1: "falls", 0: "does not change"}[order(results, row, sized.method, "psnr")]
            found.setdefault(words, []).append(f"`{sized.method}` ({large.mean - small.mean:+.2f} dB)")
    parts = [
        f"{words} for {listed(found[words])}"
        for words in ("rises", "does not change", "falls")
        if words in found
    ]
    return (
        f"From the rows named as the method to those of {size:,} codes, PSNR {'; '.join(parts)}."
        if parts
        else ""
    )


def _bought(results: Results, method: str, row: str) -> str:
    """What the largest codebook of a method gives over that of the row named as the method, and over the others."""
    small, large = (results.estimate(name, "psnr") for name in (method, row))
    before, after = (results.estimate(name, "fd_clip") for name in (method, row))
    bits = [results.value(name, "bits_per_image") for name in (method, row)]
    own = results.use(method)
    if small is None or large is None or before is None or after is None or own is None or None in bits:
        return ""
    if not results.is_complete(method):  # its mean would change
        return ""
    text = (
        f"For `{method}`, going from {own.num_codes:,} to {largest(results):,} codes changes PSNR by "
        f"{large.mean - small.mean:+.2f} dB and FD-CLIP from {before.mean:.2f} to {after.mean:.2f}, for "
        f"{100 * (bits[1] / bits[0] - 1):.0f} % more bits"
    )
    size = largest(results)
    others = {
        sized.method: (order(results, other, row, "psnr"), value.mean)
        for sized in by_size(results)
        if sized.method != method
        and (other := sized.at(size or 0)) is not None
        and results.is_complete(other)
        and (value := results.estimate(other, "psnr")) is not None
    }
    above = {name: mean for name, (sign, mean) in others.items() if sign > 0}
    equal = [f"`{name}`" for name, (sign, _) in others.items() if sign == 0]
    if not others:
        return text + "."
    if above:
        ranked = sorted(above, key=lambda name: -above[name])
        shown_rows = [f"`{name}` ({above[name]:.2f})" for name in ranked[:MOST]]
        more = [f"{len(ranked) - MOST} more"] if len(ranked) > MOST else []
        verb = "is" if len(ranked) == 1 else "are"
        text += f"; {listed([*shown_rows, *more])} {verb} above its {large.mean:.2f} dB at that size"
    elif equal:
        text += f"; {listed(equal)} cannot be distinguished from it by PSNR at that size"
    else:
        text += f", and its PSNR is the highest of the {len(others) + 1} methods at that size"
    return text + "."


def sizes_picture(results: Results) -> Markup | None:
    """Share of the codes used against K for the methods that are to run at the largest size, and that of uniform
    sampling dashed; None where there is none."""
    lines, tokens = [], set()
    size = largest(results)
    for sized in by_size(results):
        if f"{sized.method}-k{size}" not in results.board.rows:
            continue
        points = []
        for row in sized.rows:
            use, value = results.use(row), results.estimate(row, "utilisation")
            assert use is not None
            tokens.add(use.num_tokens)
            if value is not None:
                low, high = max(0.0, value.low), min(1.0, value.high)
                points.append(
                    Point(use.num_codes, 100 * value.mean, 100 * low, 100 * high, value.source == "seeds")
                )
        if points:
            lines.append(Line(sized.method, points))
    if not lines:
        return None
    sizes = [point.x for line in lines for point in line.points]
    low, high = min(sizes), max(max(sizes), 2 * min(sizes))
    for count in sorted(tokens):
        grid = [low * (high / low) ** (i / 60) for i in range(61)]
        shares = [-100 * math.expm1(-count / codes) for codes in grid]
        lines.append(
            Line(
                f"uniform sampling, N {count:,}",
                [Point(k, s, s, s) for k, s in zip(grid, shares, strict=True)],
                True,
            )
        )
    return picture(
        lines, x_label="codes K", y_label="codes used at least once, %", log_x=True,
        alt="Share of the codes used against the size of the codebook, by method",
    )  # fmt: skip
