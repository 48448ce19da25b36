"""docs/scoreboard.md and its pages: the first screen, pages of each table and board, verdicts that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from vqpipe.artifacts.publish import publish_text
from vqpipe.boards.changes import Earlier, changes_page
from vqpipe.boards.columns import column, head, shown
from vqpipe.boards.found import GENERATION, OUTCOMES, Found
from vqpipe.boards.markdown import MARK, render
from vqpipe.boards.pictures import MARK as PICTURE_MARK
from vqpipe.boards.pictures import Line, Point, picture
from vqpipe.boards.results import Estimate, Results
from vqpipe.boards.sentences import claims_sentence, leaders, main_rows, sentences
from vqpipe.boards.sizes import PICTURE, by_size, largest, sizes_page, sizes_picture
from vqpipe.boards.tables import DASH, board_page, departures, facts, outcomes, table_page
from vqpipe.errors import ArtifactError, ParamsError

QUALITY_PICTURE = "quality.svg"
MEASURED = ("psnr", "fd_clip", "gfd_clip", "linear_probe")
"""Columns of the first table, in which the best rows of equal bits are marked; one that no row has is left out."""


def boards_pages(found: Sequence[Found], earlier: Earlier | None, name: str = "scoreboard") -> dict[str, str]:
    """The text of every page and picture by its path from the folder of the first page, `NAME.md`; the others are in
    the folder NAME. The first board has the first screen.

    Raises:
        ParamsError: two pages would be one file.
    """
    first, home = found[0], f"{name}.md"
    folder, quality = f"{name}/", quality_picture(first)
    pages = {home: _first_page(found, earlier is not None, folder, quality is not None)}

    def add(file: str, text: str) -> None:
        if folder + file in pages:
            raise ParamsError(
                f"two pages of the boards would be {folder}{file}",
                expected="tables with other titles in claims.yaml, or a board's folder of another name",
            )
        pages[folder + file] = text

    for board in found:
        add(f"{board.name}.md", board_page(board, home))
        for table in board.claims.tables:
            add(board.page(table), table_page(table, board, home))
    if sizes := _sizes(first):
        add(sizes, sizes_page(first, home))
    if earlier is not None:
        add("changes.md", changes_page(earlier, found, home))
    for file, drawing in ((QUALITY_PICTURE, quality), (PICTURE, sizes_picture(first.results))):
        if drawing is not None:
            add(file, str(drawing))
    return pages


def write_pages(pages: Mapping[str, str], out: Path) -> None:
    """Write the pages next to one another, the first at `out`, and remove those of an earlier call that are no longer
    made; a file that no call wrote is left alone.

    Raises:
        ArtifactError: a file that no call wrote has the name of a page, or of their folder; nothing is written then.
    """
    folder = out.parent / out.stem
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(
            f"{folder} is a file, and the folder of the pages is called so", expected="another --out"
        )
    for path in (out.parent / name for name in pages):
        if path.exists() and not (path.is_file() and _is_page(path)):
            raise ArtifactError(
                f"{path} was not written by vqpipe boards, and would be lost",
                expected="another --out, or it moved away",
            )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        publish_text(out.parent / name, text)
    for path in folder.iterdir():
        if path.suffix in (".md", ".svg") and f"{folder.name}/{path.name}" not in pages and _is_page(path):
            path.unlink()


def _is_page(path: Path) -> bool:
    """Whether a file is a page or a picture that a call wrote."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return MARK in text or PICTURE_MARK in text


def _sizes(board: Found) -> str:
    """The file of the page of larger codebooks; empty where no row's name states a size."""
    return f"{board.name}-sizes.md" if largest(board.results) is not None else ""


def _first_page(found: Sequence[Found], has_changes: bool, folder: str, has_picture: bool) -> str:
    first = found[0]
    results, rows = first.results, main_rows(first)
    texts, waiting = sentences(found)
    heads, cells = first_table(results, rows)
    done = [row for row in rows if results.metrics.get(row)]
    tokens = sorted({use.num_tokens for row in done if (use := results.use(row)) is not None})
    chance = [value for row in done if (value := results.value(row, "linear_probe_chance")) is not None]
    return render(
        "scoreboard.md.j2", boards=found, first=first, folder=folder, has_changes=has_changes,
        head=heads, rows=cells, facts=facts(first), done=done, missing=[row for row in rows if row not in done],
        partial=[row for row in done if not results.is_complete(row)],
        tokens=" or ".join(f"{n:,}" for n in tokens),
        chance=shown("linear_probe_chance", _exact(chance[0])) if chance else "",
        picture=QUALITY_PICTURE if has_picture else "", sizes=_sizes(first),
        generation=GENERATION if any(board.name == GENERATION for board in found) else "",
        sentences=texts, waiting=waiting, claims=claims_sentence(found),
        departures=departures(done, results), outcomes=outcomes, names=list(OUTCOMES),
    )  # fmt: skip


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, "none", 1)


def first_table(results: Results, rows: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The rows in groups of equal bits, each group by falling PSNR. Bold: the best number of a group, and those that
    cannot be distinguished from it."""
    names = [name for name in MEASURED if any(results.estimate(row, name) is not None for row in rows)]
    speed = _speed(results, rows)
    heads = [
        "row",
        *map(head, names),
        head("utilisation"),
        "used at uniform sampling, %",
        "parameters (quantizer)",
    ]
    heads += [f"encode / decode, {speed[0]}"] if speed else []
    cells = []
    groups = [(f"**{bits:,.0f}\N{NO-BREAK SPACE}bits**", own) for bits, own in results.equal_bits(rows)]
    placed = {row for _, own in groups for row in own}
    if rest := [row for row in rows if results.metrics.get(row) and row not in placed]:
        groups.append(("**bits not stated**", rest))
    for label, group in groups:
        cells.append([label, *("" for _ in heads[1:])])
        values = {name: {row: results.estimate(row, name) for row in group} for name in names}
        best = {name: _best(results, name, own) for name, own in values.items()}
        quality = {row: value.mean if (value := results.estimate(row, "psnr")) else 0.0 for row in group}
        for row in sorted(group, key=lambda row: -quality[row]):
            seeds = len(results.metrics[row])
            found = [_cell(name, values[name][row], row in best[name], seeds) for name in names]
            cells.append([_row_name(results, row), *found, *_fixed(results, row, speed)])
    return heads, cells


def _row_name(results: Results, row: str) -> str:
    return f"`{row}`{_of_seeds(len(results.metrics[row]), 3)}"


def _of_seeds(seeds: int, usual: int) -> str:
    return "" if seeds == usual else f" ({seeds} seed{'s' * (seeds != 1)})"


def _cell(name: str, value: Estimate | None, is_best: bool, seeds: int) -> str:
    """A number, with its seeds where they are not those of the row: another board's may be."""
    text = _short(name, value)
    return (f"**{text}**" if is_best else text) + (_of_seeds(value.num_seeds, seeds) if value else "")


def _short(name: str, value: Estimate | None) -> str:
    """A number on one line: the mean and half of its interval's length; the unit is in the head."""
    if value is None:
        return DASH
    found = column(name)
    scale = 100.0 if found.percent else 1.0
    half = (value.high - value.low) / 2
    mean = f"{scale * value.mean:.{found.digits}f}"
    return f"{mean}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{scale * half:.{found.digits}f}" if half > 0 else mean


def _fixed(results: Results, row: str, speed: tuple[str, str] | None) -> list[str]:
    """What is not compared: use of the codes, parameters, time."""
    use = results.use(row)
    even = DASH if use is None else f"{100 * use.uniform:.1f}"
    parts = [results.mean_cost(row, f"parameters.{part}") for part in ("encoder", "decoder", "quantizer")]
    known = [part for part in parts if part is not None]
    count = (
        f"{sum(known):,.0f}\N{NO-BREAK SPACE}({known[-1]:,.0f})" if len(known) == len(parts) else "missing"
    )
    cells = [_short("utilisation", results.estimate(row, "utilisation")), even, count]
    if speed:
        times = [results.mean_cost(row, f"{part}{speed[1]}") for part in ("encode", "decode")]
        cells.append(" / ".join("missing" if value is None else f"{1e3 * value:.2f}" for value in times))
    return cells


def _speed(results: Results, rows: Sequence[str]) -> tuple[str, str] | None:
    """Unit and name of the time of encoding and decoding: processor time where it was measured, which other work
    changes less; None where neither was."""
    for unit, name in (("CPU ms", "_cpu_seconds_per_image"), ("ms", "_seconds_per_image")):
        if any(results.mean_cost(row, f"encode{name}") is not None for row in rows):
            return unit, name
    return None


def _best(results: Results, name: str, values: Mapping[str, Estimate | None]) -> set[str]:
    """The rows with the best number and those that cannot be distinguished from it; none where one row is alone. A
    number of one seed that has no interval takes no part: nothing says how far another seed's is from it."""
    found = [row for row, value in values.items() if value is not None and value.source != "none"]
    return set(leaders(results, found, name)) if len(found) > 1 else set()


def quality_picture(board: Found) -> Markup | None:
    """PSNR against bits an image: the main rows, and lines over the sizes of the methods that have several."""
    results = board.results
    main = main_rows(board)
    groups = {row: [row] for row in main}
    groups |= {sized.method: list(sized.rows) for sized in by_size(results) if sized.method in main}
    lines = []
    for label, rows in groups.items():
        points = []
        for row in rows:
            bits, value = results.value(row, "bits_per_image"), results.estimate(row, "psnr")
            if bits is not None and value is not None:
                points.append(Point(bits, value.mean, value.low, value.high, value.source == "seeds"))
        if points:
            lines.append(Line(label, sorted(points, key=lambda point: point.x)))
    if not lines:
        return None
    return picture(
        lines, x_label="bits per image", y_label="PSNR on test images, dB",
        alt="PSNR against bits per image, by method, with 95 % intervals",
    )  # fmt: skip
