"""The scoreboard: its first screen, its sentences both ways, larger codebooks, changed verdicts, its pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from vqpipe.boards.board import Board, load_board
from vqpipe.boards.changes import Earlier, EarlierVerdict, changes_page, read_earlier
from vqpipe.boards.claims import BoardClaims, BoardTable, Claim, read_claims
from vqpipe.boards.found import OUTCOMES, Found, read_boards
from vqpipe.boards.markdown import table
from vqpipe.boards.page import boards_pages, first_table, quality_picture, write_pages
from vqpipe.boards.pictures import HEIGHT, WIDTH, Line, Point, picture
from vqpipe.boards.results import Results, read_results
from vqpipe.boards.sentences import TASKS, sentences
from vqpipe.boards.sizes import answer, by_size
from vqpipe.cli.app import app
from vqpipe.errors import ArtifactError, ParamsError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "boards"
CLAIMS = read_claims(FOLDER / "scenes")
TOKENS = 512_000


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board(FOLDER / "scenes/params.yaml", Board)


def results(board: Board, rows: Mapping[str, Mapping[str, Any]], seeds: int = 1) -> Results:
    """Runs of rows, all that are planned; those of one row are a hundredth apart. `num_codes` is of its one group."""
    metrics: dict[str, dict[int, dict[str, Any]]] = {}
    for row, given in rows.items():
        count, use = given.get("num_codes", 1024), given.get("utilisation", 1.0)
        own = {
            "bits_per_image": 2560.0, **given, "protocol": board.protocol, "code_shared": "c", "row": row,
            "codes.code.num_codes": count, "codes.code.utilisation": use, "codes.code.num_tokens": TOKENS,
            "codes.code.uniform_expectation": 0.5,
        }  # fmt: skip
        for seed in range(seeds):
            run = {**own, "seed": seed}
            for name in ("psnr", "linear_probe"):
                if name in given:
                    run |= {name: given[name] + 0.01 * seed, f"{name}_low": given[name] - 0.1}
                    run |= {f"{name}_high": given[name] + 0.1}
            metrics.setdefault(row, {})[seed] = run
    planned = {name: run for name, run in board.runs.items() if run.row not in rows or run.seed < seeds}
    return Results(board.model_copy(update={"runs": planned}), metrics, {})


def one_board(board: Board, rows: Mapping[str, Mapping[str, Any]], seeds: int = 1) -> Found:
    return Found("scenes", CLAIMS, results(board, rows, seeds))


def sentence(found: Found | Sequence[Found], start: str) -> str:
    """The one sentence that starts so, or nothing."""
    texts = [text for text in sentences([found] if isinstance(found, Found) else found)[0] if start in text]
    assert len(texts) <= 1
    return "".join(texts)


# --- the first screen


def test_rows_are_in_groups_of_equal_bits_with_the_best_marked(board: Board) -> None:
    rows = {
        "vq": {"psnr": 20.0, "fd_clip": 2.0}, "ema": {"psnr": 21.0, "fd_clip": 1.0},
        "fsq": {"psnr": 21.15, "fd_clip": 1.5, "bits_per_image": 2551.0},
        "vqct": {"psnr": 23.0, "bits_per_image": 3085.0},
    }  # fmt: skip
    heads, cells = first_table(results(board, rows), list(board.rows))
    assert not any("probe" in head or "gFD" in head or "encode" in head for head in heads), "no row has these"
    assert [line[0] for line in cells] == [
        "**2,560\xa0bits**", "`fsq` (1 seed)", "`ema` (1 seed)", "`vq` (1 seed)",
        "**3,085\xa0bits**", "`vqct` (1 seed)",
    ]  # fmt: skip
    assert [line[1].startswith("**") for line in cells] == [False, True, True, False, False, False]
    assert not any(line[2].startswith("**") for line in cells), "FD-CLIP of one seed has no interval"
    _, of_three = first_table(results(board, rows, seeds=3), list(board.rows))
    assert [line[2].startswith("**") for line in of_three] == [False, False, True, False, False, False]
    assert cells[1][1] == "**21.15\xa0±\xa00.10**"
    assert all(len(line) == len(heads) for line in cells)


def test_optional_columns_are_there_where_a_row_has_them(board: Board) -> None:
    found = results(
        board, {"vq": {"psnr": 20.0, "linear_probe": 0.5, "gfd_clip": 7.0}, "ema": {"psnr": 20.0}}
    )
    cost = {"encode_seconds_per_image": 0.002, "decode_seconds_per_image": 0.003, "parameters.encoder": 10,
            "parameters.decoder": 20, "parameters.quantizer": 5}  # fmt: skip
    heads, cells = first_table(Results(found.board, found.metrics, {"vq": {0: cost}}), ["vq", "ema"])
    line = dict(zip(heads, next(line for line in cells if line[0].startswith("`vq`")), strict=True))
    assert line["gFD-CLIP ↓"] == "7.00"
    three = results(
        board, {"vq": {"psnr": 20.0, "gfd_clip": 7.0}, "ema": {"psnr": 20.0, "gfd_clip": 9.0}}, seeds=3
    )
    for runs in three.metrics.values():
        del runs[1]["gfd_clip"], runs[2]["gfd_clip"]
    heads_of_three, cells_of_three = first_table(three, ["vq", "ema"])
    at = heads_of_three.index("gFD-CLIP ↓")
    assert [line[at] for line in cells_of_three[1:]] == ["7.00 (1 seed)", "9.00 (1 seed)"]
    assert line["linear probe, % ↑"].startswith("50.0")
    assert (line["encode / decode, ms"], line["parameters (quantizer)"]) == ("2.00 / 3.00", "35\xa0(5)")
    other = dict(zip(heads, next(line for line in cells if line[0].startswith("`ema`")), strict=True))
    assert (other["encode / decode, ms"], other["gFD-CLIP ↓"]) == ("missing / missing", "–")


def test_the_page_of_a_part_of_the_rows_states_how_many_there_are(board: Board) -> None:
    pages = boards_pages([one_board(board, {"vq": {"psnr": 20.0}, "ema": {"psnr": 21.0}})], None)
    text = pages["scoreboard.md"]
    assert f"2 of {len(CLAIMS.tables[0].rows)} main rows" in text
    assert "Not run yet: fc, " in text
    assert "13 sentences wait for rows." in text
    assert "N = 512,000 test tokens" in text
    assert text.startswith("# Scoreboard\n\nWritten by"), "no sentence yet"


def test_the_first_sentence_is_above_the_table_and_not_repeated(board: Board) -> None:
    found = one_board(board, {row: {"psnr": 20.0 + i} for i, row in enumerate(("vq", "ema", "fc"))})
    first, *_ = sentences([found])[0]
    text = boards_pages([found], None)["scoreboard.md"]
    assert text.startswith(f"# Scoreboard\n\n**{first}** More in")
    assert text.count(first) == 1


def test_every_link_and_picture_of_the_pages_is_there(board: Board) -> None:
    earlier = read_earlier(FOLDER)
    for rows in ({}, {"vq": {"psnr": 20.0}, "vq-k16384": {"psnr": 20.0, "num_codes": 16384}}):
        pages = boards_pages([one_board(board, rows), *read_boards(FOLDER)[1:]], earlier)
        for name, text in pages.items():
            for link in re.findall(r"\]\(([^)#]+)\)", text):
                target = (ROOT / name).parent / link
                assert target.resolve().relative_to(ROOT).as_posix() in pages, f"{name} links to {link}"
        assert ("scoreboard/quality.svg" in pages) == bool(rows)


def test_a_board_without_sizes_and_priors_links_to_no_page_of_them(board: Board) -> None:
    plain = board.model_copy(update={
        "rows": {"vq": board.rows["vq"], "vq-kmeans": board.rows["vq"]}, "runs": {"vq-0": board.runs["vq-0"]},
    })  # fmt: skip
    tables = (BoardTable("Only", "about", (("vq", "vq"),)),)
    found = Found("mine", BoardClaims("Mine", "make", tables), results(plain, {"vq": {"psnr": 20.0}}))
    pages = boards_pages([found], None)
    assert set(pages) == {
        "scoreboard.md",
        "scoreboard/mine.md",
        "scoreboard/mine-only.md",
        "scoreboard/quality.svg",
    }
    links = re.findall(r"\]\(([^)#]+)\)", pages["scoreboard.md"])
    assert links
    assert set(links) <= set(pages)


def test_two_pages_of_one_name_are_refused(board: Board) -> None:
    def found(name: str, *titles: str) -> Found:
        tables = tuple(BoardTable(title, "about", (("vq", "vq"),)) for title in titles)
        return Found(name, BoardClaims(name, "make", tables), results(board, {}))

    for boards in ([found("a", "B"), found("a-b", "C")], [found("a", "B", "B")]):
        with pytest.raises(ParamsError, match=r"two pages of the boards would be scoreboard/a-b\.md"):
            boards_pages(boards, None)


def test_the_committed_pages_are_those_of_the_committed_rows() -> None:
    pages = boards_pages(read_boards(FOLDER), read_earlier(FOLDER))
    for name, text in pages.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"{name}; run: vqpipe boards"
    there = {f"scoreboard/{path.name}" for path in (ROOT / "docs/scoreboard").iterdir()}
    assert there == set(pages) - {"scoreboard.md"}, "run: vqpipe boards"


def test_the_tool_writes_all_pages_and_removes_its_own_old_ones(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    done = CliRunner().invoke(app, ["boards", "--folder", str(FOLDER), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "](page/scenes.md)" in out.read_text()
    assert "](../page.md)" in (tmp_path / "page/scenes.md").read_text()
    old, own = tmp_path / "page/old.md", tmp_path / "page/mine.md"
    old.write_text("# Old\n\nWritten by `vqpipe boards`.\n")
    own.write_text("# Mine\n")
    new = "# New\n\nWritten by `vqpipe boards`.\n"
    write_pages({"page.md": new}, out)
    assert out.read_text() == new
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["mine.md"]
    with pytest.raises(ArtifactError, match=r"mine\.md was not written by vqpipe boards"):
        write_pages({"page.md": f"{new}\n", "page/mine.md": new}, out)
    assert (out.read_text(), own.read_text()) == (new, "# Mine\n")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ArtifactError, match="notes is a file"):
        write_pages({"notes.md": new}, tmp_path / "notes.md")
    assert not (tmp_path / "notes.md").exists()


@pytest.mark.parametrize(
    ("folder", "out", "told"),
    [
        ("boards", "page.md", "there is no board under boards"), (str(FOLDER), "page", "a name that ends in .md"),
    ],
)  # fmt: skip
def test_mistakes_are_told_without_a_command_that_makes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, out: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["boards", "--folder", folder, "--out", out])
    assert done.exit_code == 2
    assert told in done.output
    assert "vqpipe boards" not in done.output
    assert not list(tmp_path.iterdir())


def test_every_table_has_the_bits_of_its_rows_once_next_to_k_and_seeds(board: Board) -> None:
    tables = (
        BoardTable("T", "about", (("vq", "vq"), ("vqct", "vqct"), ("fc", "fc"), ("ema", "ema"))),
        BoardTable("U", "about", (("plain", "vq"),), metrics=("psnr", "bits_per_image", "ssim")),
    )
    rows: dict[str, dict[str, Any]] = {
        "vq": {},
        "vqct": {"bits_per_image": 3084.4},
        "fc": {"bits_per_image": None},
    }
    found = results(board, {row: {"psnr": 20.0, **own} for row, own in rows.items()})
    pages = boards_pages([Found("scenes", BoardClaims("Here", "make", tables), found)], None)
    text, named = pages["scoreboard/scenes-t.md"], pages["scoreboard/scenes-u.md"]
    assert "| row | K | seeds | bits | PSNR, dB ↑ | SSIM ↑ |" in text
    assert re.search(r"^\| `vqct` \| [^|]* \| 1 \| 3,084 \| 20\.00 ", text, re.M)
    assert re.search(r"^\| `fc` \| [^|]* \| 1 \| – \| 20\.00 ", text, re.M)
    assert "Dashes at `fc`" in text
    assert "| `ema` |" not in text
    assert "Not run yet: `ema`. Run: `make`." in text
    assert "|  | row | K | seeds | bits | PSNR, dB ↑ | SSIM ↑ |\n" in named
    assert re.search(r"^\| plain \| `vq` \| [^|]* \| 1 \| 2,560 \| 20\.00 [^|]* \| – \|$", named, re.M)
    pages = boards_pages(read_boards(FOLDER), None)
    heads = [line for text in pages.values() for line in text.splitlines() if "| row | K | seeds |" in line]
    assert len(heads) > 20  # tables with no row have none
    assert all(line.split(" | ").count("bits") == 1 and "| seeds | bits |" in line for line in heads)


# --- sentences


@pytest.mark.parametrize(
    ("psnr", "start"),
    [
        (
            {"vq": 20.0, "ema": 22.0, "fc": 21.0},
            "`ema` (22.00 dB) has the highest PSNR; plain `vq` has 20.00 dB.",
        ),
        ({"vq": 22.0, "ema": 20.0, "fc": 21.0}, "`vq` (22.00 dB) has the highest PSNR."),
        (
            {"vq": 20.0, "ema": 22.0, "fc": 21.9},
            "; `fc` (21.90 dB) cannot be distinguished from it; plain `vq` has",
        ),
    ],
)
def test_the_leader_follows_the_numbers(board: Board, psnr: dict[str, float], start: str) -> None:
    text = sentence(one_board(board, {row: {"psnr": value} for row, value in psnr.items()}), "highest PSNR")
    assert text.startswith("Of 3 methods at 2,560 bits an image, ")
    assert start in text


def test_a_lower_distance_leads_and_two_methods_are_not_ranked(board: Board) -> None:
    rows = {"vq": {"fd_clip": 1.0}, "ema": {"fd_clip": 3.0}, "fc": {"fd_clip": 2.0}}
    assert "`vq` (1.00) has the lowest FD-CLIP." in sentence(one_board(board, rows), "lowest FD-CLIP")
    assert not sentence(one_board(board, {"vq": {"fd_clip": 1.0}, "ema": {"fd_clip": 3.0}}), "lowest FD-CLIP")


@pytest.mark.parametrize(
    ("value", "words"), [(25.0, "above"), (19.0, "below"), (22.0, "not distinguishable from")]
)
def test_words_and_random_vectors_both_ways(board: Board, value: float, words: str) -> None:
    rows = {"vqct": {"psnr": value}, "vqct-random": {"psnr": 22.0}}
    text = sentence(one_board(board, rows), "What VQCT's codes")
    assert text.endswith(
        f"`vqct` ({value:.2f} dB) is {words} random vectors of the same dimension and scale (22.00 dB)."
    )


def test_vectors_are_compared_with_random_ones_of_their_own_codebook(board: Board) -> None:
    rows = {
        "vqct": {"psnr": 25.0}, "vqct-random": {"psnr": 22.0}, "vqct-glove": {"psnr": 23.0},
        "vqct-glove-random": {"psnr": 24.0}, "vqct-minilm": {"psnr": 26.0}, "vqct-mlp": {"psnr": 20.0},
    }  # fmt: skip
    text = sentence(one_board(board, rows), "What VQCT's codes")
    assert "`vqct` (25.00 dB) is above random vectors of the same dimension and scale (22.00 dB) and " in text
    assert "(22.00 dB) and `vqct-glove` (23.00 dB) is" in text
    assert "is below random vectors of the same dimension and scale (24.00 dB). Against `vqct`, " in text
    assert text.endswith(
        "Against `vqct`, `vqct-minilm` (26.00 dB) is above; `vqct-glove` (23.00 dB) is below."
    )


def test_sentences_wait_for_all_seeds_of_their_rows(board: Board) -> None:
    found = one_board(board, {"vqct": {"psnr": 21.0}, "vqct-random": {"psnr": 22.0}})
    assert sentence(found, "What VQCT's codes")
    unfinished = Found("scenes", CLAIMS, replace(found.results, board=board))
    assert not sentence(unfinished, "What VQCT's codes")
    texts, waiting = sentences([Found("scenes", CLAIMS, Results(board, {}, {}))])
    assert (texts, waiting) == ([], 13)


def test_other_methods_of_vqcts_bits_are_compared(board: Board) -> None:
    rows = {
        "vq": {"psnr": 20.0}, "vqct": {"psnr": 22.0, "bits_per_image": 3085.0},
        "ema-k4096": {"psnr": 23.0, "bits_per_image": 3072.0}, "fc-k4096": {"psnr": 21.0, "bits_per_image": 3072.0},
    }  # fmt: skip
    text = sentence(one_board(board, rows), "VQCT spends")
    assert "VQCT spends 3,085 bits an image, where one codebook of 1,024 codes spends 2,560." in text
    assert "`ema-k4096` (23.00 dB) is above; `fc-k4096` (21.00 dB) is below." in text


def test_rows_whose_bits_are_not_stated_have_no_sentence_on_them(board: Board) -> None:
    rows = {"vq": {"psnr": 20.0}, "vqct": {"psnr": 22.0, "bits_per_image": None}}
    assert not sentence(one_board(board, rows), "VQCT spends")


def test_moving_averages_with_both_starts_are_found_by_their_params(board: Board) -> None:
    ema = board.rows["ema-uniform"]
    changed = board.model_copy(update={
        "rows": {**board.rows, "ema-zero": {"quantizer": {**ema["quantizer"], "initial_size": 0}}},
        "runs": {**board.runs, "ema-zero-0": board.runs["ema-0"].model_copy(update={"row": "ema-zero"})},
    })  # fmt: skip
    rows = {"ema-uniform": {"psnr": 20.0, "utilisation": 0.1}, "ema-zero": {"psnr": 22.0, "utilisation": 0.4}}
    text = sentence(one_board(changed, rows), "Moving averages")
    assert text.endswith("; the first PSNR is above the second.")
    rows["ema-zero"]["psnr"] = 19.0
    assert sentence(one_board(changed, rows), "Moving averages").endswith("is below the second.")
    assert (
        "`ema-zero` (22.00 dB) uses 40.0 % of 1,024 codes, with sizes that start at 1 `ema-uniform` (20.00 dB)"
        in text
    )
    assert results(changed, rows).departure("ema-zero") is None
    assert results(changed, rows).departure("ema-uniform")


def test_the_rows_of_the_sentence_on_moving_averages_have_three_seeds(board: Board) -> None:
    rows = {row: {"psnr": 20.0, "utilisation": 0.1} for row in board.rows if row.startswith("ema")}
    named = re.findall("`([^`]+)`", sentence(one_board(board, rows), "Moving averages"))
    assert len(named) == 2
    for row in named:
        assert {run.seed for run in board.runs.values() if run.row == row} == {0, 1, 2}, row


def test_the_probe_is_ranked_against_psnr(board: Board) -> None:
    shares = {"vq": 0.5, "ema": 0.45, "fc": 0.2}
    rows = {row: {"psnr": 20.0 + i, "linear_probe": share, "linear_probe_chance": 0.1}
            for i, (row, share) in enumerate(shares.items())}  # fmt: skip
    text = sentence(one_board(board, rows), "linear probe")
    assert (
        "best from `vq` (50.0 %), where chance is 10.0 %; `ema` (45.0 %) cannot be distinguished from it."
        in text
    )
    assert "rank correlation with PSNR is -1.00" in text


@pytest.mark.parametrize(("value", "words"), [(25.0, "above"), (19.0, "below")])
def test_frozen_codes_of_other_origin_are_compared_and_other_settings_are_not(
    board: Board, value: float, words: str
) -> None:
    others = (
        "lc-d16",
        "lc-trainable",
        "lc-standard",
        "lc-random-standard",
    )  # another start, width or training
    rows = {row: {"psnr": value} for row in ("lc-random", "lc-selection", *others)}
    text = sentence(one_board(board, {"lc": {"psnr": 22.0}, **rows}), "What VQGAN-LC's frozen codes are")
    one = f"`lc-random` ({value:.2f} dB) and `lc-selection` ({value:.2f} dB) are {words}."
    assert text.endswith(f"give 22.00 dB; codes of other origin in their place: {one}")
    rows |= {"lc-reference-start": {"psnr": 22.0}, "lc-random-code": {"psnr": value}}
    text = sentence(one_board(board, {"lc": {"psnr": 22.0}, **rows}), "What VQGAN-LC's frozen codes are")
    start = "With the projector's start of its code (22.00 dB), that code's random codes"
    assert text.endswith(f"in their place: {one} {start}: `lc-random-code` ({value:.2f} dB) is {words}.")


@pytest.mark.parametrize(("gain", "counts"), [(0.1, (4, 0)), (-0.1, (0, 4)), (0.0, (0, 0))])
def test_differences_of_tasks_are_counted_by_their_intervals(gain: float, counts: tuple[int, int]) -> None:
    board = load_board(FOLDER / "tasks/params.yaml", Board)

    def runs(base: float, seeds: int) -> dict[int, dict[str, Any]]:
        return {s: dict.fromkeys(TASKS.values(), base + 0.01 * s) | {"seed": s} for s in range(seeds)}

    plain, aligned = runs(0.5, 3), runs(0.5 + gain, 3)
    aligned[1]["task.vqa.fresh.accuracy"] += 0.001
    rows = {"vq": plain, "vq+lg": aligned, "cvq": plain, "cvq+lg": runs(0.9, 2), "ema": plain}
    found = Found("tasks", read_claims(FOLDER / "tasks"), Results(board, rows, {}))
    text = sentence(found, "Alignment (LG-VQ) in tasks")
    assert "of 4 differences" in text
    assert "; rows: 1), " in text, "cvq+lg waits for its third seed"
    assert f"{counts[0]} are above 0 and {counts[1]} below" in text
    assert text.endswith("about 0.2.")


def test_the_start_and_the_second_data_set(board: Board) -> None:
    rows = {"vq": {"psnr": 21.0, "utilisation": 0.9}, "vq-uniform": {"psnr": 19.5, "utilisation": 0.1},
            "ema": {"psnr": 22.0}, "fc": {"psnr": 23.0}}  # fmt: skip
    first = one_board(board, rows)
    text = sentence(first, "The start of the codes")
    assert "from the papers' uniform start plain VQ uses 10.0 % of its codes and has 19.50 dB" in text
    assert text.endswith("from the first latents it uses 90.0 % and has 21.00 dB, which is above that.")
    rows["vq"]["psnr"] = 19.55
    assert sentence(one_board(board, rows), "The start of the codes").endswith(
        "not distinguishable from that."
    )
    other = load_board(FOLDER / "tiny-imagenet/params.yaml", Board)
    second = Found("tiny-imagenet", read_claims(FOLDER / "tiny-imagenet"),
                   results(other, {"vq": {"psnr": 19.0}, "ema": {"psnr": 18.0}, "fc": {"psnr": 17.0}}))  # fmt: skip
    text = sentence([first, second], "On Tiny ImageNet")
    assert "the PSNR of 3 methods has a rank correlation of -1.00 with that on embedded scenes." in text


def test_alignment_is_compared_seed_by_seed() -> None:
    language = load_board(FOLDER / "language/params.yaml", Board)
    names = ("task.masked_words.fresh.masked_1.recall", "task.retrieval.fresh.image_to_text.r10")

    def runs(shift: float, row: str) -> dict[int, dict[str, Any]]:
        return {s: {names[0]: 0.5 + 0.01 * s + shift, names[1]: 0.1, "row": row, "seed": s} for s in range(3)}

    for shift, words in ((0.05, "by +5.0 points (raised)"), (-0.05, "by -5.0 points (lowered)")):
        found = Results(language, {"vq": runs(0.0, "vq"), "vq+lg": runs(shift, "vq+lg")}, {})
        text = sentence(Found("language", read_claims(FOLDER / "language"), found), "Aligning")
        assert words in text
        assert "by +0.00 points (no change that can be distinguished)" in text


# --- larger codebooks


def sized(board: Board, share: float, psnr: float = 24.0) -> Found:
    rows = {
        "vq": {"psnr": 20.0, "fd_clip": 2.0}, "lc": {"psnr": 21.0, "fd_clip": 2.0},
        "vq-k100000": {"psnr": 20.0, "fd_clip": 2.0, "num_codes": 100_000, "utilisation": 0.05},
        "lc-k100000": {"psnr": psnr, "fd_clip": 1.0, "num_codes": 100_000, "utilisation": share},
    }  # fmt: skip
    for row in ("vq-k100000", "lc-k100000"):
        rows[row]["bits_per_image"] = 4252.0
    return one_board(board, rows)


def test_the_question_of_the_largest_codebook_is_answered_both_ways(board: Board) -> None:
    yes = " ".join(answer(sized(board, 0.991).results))
    assert yes.startswith(
        "Of 100,000 codes, `lc` (99.1 %) uses 99 % or more, measured on 512,000 test tokens"
    )
    assert "uniform sampling would use 50.0 %" in yes
    assert "The others do not: `vq` (5.0 %)." in yes
    assert (
        "For `lc`, going from 1,024 to 100,000 codes changes PSNR by +3.00 dB and FD-CLIP from 2.00 to 1.00, for 66 %"
        in yes
    )
    assert "its PSNR is the highest of the 2 methods at that size" in yes
    no = " ".join(answer(sized(board, 0.98).results))
    assert no.startswith("No method uses 99 % of 100,000 codes")
    assert "the highest share is that of `lc` (98.0 %)" in no
    below = " ".join(answer(sized(board, 0.991, 19.0).results))
    assert "`vq` (20.00) is above its 19.00 dB at that size" in below
    tie = " ".join(answer(sized(board, 0.991, 20.05).results))
    assert "`vq` cannot be distinguished from it by PSNR at that size" in tie
    assert not list(answer(one_board(board, {"vq": {"psnr": 20.0}}).results))
    found = sized(board, 0.991).results
    large = {row: runs for row, runs in found.metrics.items() if row != "lc"}
    assert all(answer(replace(found, metrics=large))), (
        "no empty sentence where the smaller codebook is missing"
    )


def test_of_several_methods_that_use_all_the_best_by_psnr_is_described(board: Board) -> None:
    found = sized(board, 0.991)
    runs = {row: dict(own) for row, own in found.results.metrics.items()}
    runs["vq-k100000"] = {0: {**runs["vq-k100000"][0], "codes.code.utilisation": 0.995}}
    text = " ".join(answer(replace(found.results, metrics=runs)))
    assert text.startswith("Of 100,000 codes, `vq` (99.5 %) and `lc` (99.1 %) use 99 % or more, ")
    assert "For `lc`, going from " in text
    assert "For `vq`, going" not in text
    planned = {
        **found.results.board.runs,
        "lc-k100000-1": board.runs["lc-1"].model_copy(update={"row": "lc-k100000"}),
    }
    unfinished = found.results.board.model_copy(update={"runs": planned})
    assert "`lc`" not in " ".join(answer(replace(found.results, board=unfinished)))


def test_the_page_of_sizes_has_a_line_for_each_and_names_what_is_missing(board: Board) -> None:
    found = sized(board, 0.991)
    assert [(one.method, list(one.rows)) for one in by_size(found.results)] == [
        ("vq", ["vq", "vq-k100000"]), ("lc", ["lc", "lc-k100000"]),
    ]  # fmt: skip
    text = boards_pages([found], None)["scoreboard/scenes-sizes.md"]
    assert (
        "| lc | `lc-k100000` | 100,000 | 1 | 4,252 | 24.00 [23.90, 24.10] | 1.00 | 99.1 % | 99,100 | 50.0 | 512,000 |"
        in text
    )
    assert "rows with a size in their name are not run yet: `vq-k4096`" in text
    assert "PSNR rises for `lc` (+3.00 dB); does not change for `vq` (+0.00 dB)." in text


def test_use_of_two_groups_of_codes_is_that_of_all_codes(board: Board) -> None:
    run = {
        "codes.adjective.num_codes": 50, "codes.adjective.utilisation": 1.0, "codes.adjective.num_tokens": 100,
        "codes.adjective.uniform_expectation": 0.9, "codes.noun.num_codes": 150, "codes.noun.utilisation": 0.5,
        "codes.noun.num_tokens": 100, "codes.noun.uniform_expectation": 0.5,
    }  # fmt: skip
    use = Results(board, {"vqct": {0: run}}, {}).use("vqct")
    assert use is not None
    assert (use.num_tokens, use.num_codes, use.used) == (100, 200, 125.0)
    assert use.uniform == pytest.approx(0.6)


# --- verdicts that changed


def earlier(**outcomes: str) -> Earlier:
    verdicts = tuple(EarlierVerdict(text, outcome, "before") for text, outcome in outcomes.items())
    return Earlier("abc", "8 x 8 tokens", {"scenes": {"T: old words": verdicts}})


def test_changed_verdicts_are_listed_with_the_nearest_cause(board: Board) -> None:
    table = BoardTable("T: new words", "about", ("vq", "ema"), (  # type: ignore[arg-type]
        Claim("better", ("vq", "ema")),
        Claim("corrected", ("vq", "ema"), cause="another baseline"),
        Claim("same", ("vq", "ema")),
        Claim("waits", ("vq", "fc")),
    ))  # fmt: skip
    found = Found(
        "scenes",
        BoardClaims("Here", "make", (table,), cause="the board", causes={"T": "the grid"}),
        results(board, {"vq": {"psnr": 20.0}, "ema": {"psnr": 22.0}}),
    )
    yes, no = OUTCOMES[:2]
    text = changes_page(
        earlier(better=no, corrected=no, same=yes, waits=yes, gone=yes), [found], "scoreboard.md"
    )
    assert (
        "Of 5 verdicts there: 2 changed; 1 as before; 1 waiting for rows that are not run yet;\n1 without"
        in text
    )
    assert (
        "| Here, [T: new words](scenes-t.md) | better | not reproduced at this scale | **reproduced** | the grid |"
        in text
    )
    assert "| corrected | not reproduced at this scale | **reproduced** | another baseline |" in text
    assert "| better | before | PSNR: vq 20.00" in text
    assert "- T: old words: gone" in text
    assert "same" not in text


def test_the_earlier_verdicts_are_of_boards_tables_and_outcomes_that_exist(tmp_path: Path) -> None:
    found = read_earlier(FOLDER)
    assert found is not None
    assert set(found.boards) == {"scenes", "language", "tiny-imagenet"}
    every = [one for tables in found.boards.values() for own in tables.values() for one in own]
    assert len(every) == 148
    assert {one.outcome for one in every} <= set(OUTCOMES)
    assert read_earlier(tmp_path) is None
    (tmp_path / "earlier.yaml").write_text("commit: a\nabout: b\nboards: {}\n")
    with pytest.raises(ParamsError, match="boards"):
        read_earlier(tmp_path)


# --- pictures

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> list[tuple[str, float, float, float, float]]:
    """The names in a picture with the boxes of their letters, ticks and axes left out."""
    found = []
    for text in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        if text.get("class") is None:
            width, x, y = 6.9 * len(text.text or ""), float(text.get("x", 0)), float(text.get("y", 0))
            left = x - width if text.get("text-anchor") == "end" else x
            found.append((text.text or "", left, y - 9, left + width, y + 3))
    return found


def test_names_of_a_full_picture_cover_neither_names_nor_points() -> None:
    heights = [20 + 0.05 * (i % 7) for i in range(20)]
    lines = [
        Line(f"method_{i}", [Point(2560 + 100 * (i % 4), y, y - 0.1, y + 0.1)]) for i, y in enumerate(heights)
    ]
    lines += [
        Line(f"sized_{i}", [Point(2560, 20 + i / 9, 20, 21), Point(4252, 21 + i / 50, 21, 22, False)])
        for i in range(6)
    ]
    svg = str(picture(lines, x_label="bits", y_label="PSNR", alt="a & b"))
    found = boxes(svg)
    assert len(found) == 26
    assert all(name for name, *_ in found)
    circles = [
        (float(c.get("cx", 0)), float(c.get("cy", 0)))
        for c in ElementTree.fromstring(svg).iter(f"{SVG}circle")
    ]
    assert len(circles) == 32
    for i, (name, left, top, right, bottom) in enumerate(found):
        assert (min(left, top) >= 0, right <= WIDTH, bottom <= HEIGHT) == (True, True, True), name
        for other, a, b, c, d in found[i + 1 :]:
            assert not (left < c and a < right and top < d and b < bottom), f"{name} covers {other}"
        assert not any(left < x < right and top < y < bottom for x, y in circles), f"{name} covers a point"


@pytest.mark.parametrize("many", [5, 6, 20])
def test_of_many_single_points_of_one_x_the_highest_and_the_lowest_are_named(many: int) -> None:
    lines = [Line(f"m{i}", [Point(2560, 20 + (7 * i % many), 19, 40)]) for i in range(many)]
    lines += [Line("other", [Point(3084, 22, 21, 23)])]
    lines += [
        Line(f"sized_{i}", [Point(2560, 19 - i, 19, 21), Point(4252, 30 + i, 21, 40)]) for i in range(3)
    ]
    svg = str(picture(lines, x_label="b", y_label="P", alt="a"))
    heights = {line.label: line.points[0].y for line in lines[:many]}
    ends = {max(heights, key=heights.__getitem__), min(heights, key=heights.__getitem__)}
    rest = {"other", "sized_0", "sized_1", "sized_2"}
    assert {name for name, *_ in boxes(svg)} == rest | (ends if many >= 6 else heights.keys())
    assert svg.count("<circle") == many + 1 + 6, "all points are drawn"


def test_long_names_leave_room_for_the_points() -> None:
    lines = [Line("a" * 60 + str(i), [Point(2560, 20 + i, 19 + i, 21 + i)]) for i in range(8)]
    lines.append(Line("b", [Point(3084, 22.5, 21, 23)]))
    svg = str(picture(lines, x_label="b", y_label="P", alt="a"))
    points = [float(c.get("cx", 0)) for c in ElementTree.fromstring(svg).iter(f"{SVG}circle")]
    assert points[-1] > max(points[:-1]) + 100, "more bits are to the right of fewer"


def test_no_leader_crosses_a_name_of_twelve_close_ones() -> None:
    lines = [
        Line(f"method_{i}", [Point(2000, 20, 20, 20), Point(2560, 20 + i / 25, 19.9 + i / 25, 20.1 + i / 25)])
        for i in range(12)
    ]
    lines.append(Line("other", [Point(3084, 22, 21.9, 22.1)]))
    svg = str(picture(lines, x_label="bits", y_label="PSNR", alt="a"))
    for name, left, top, right, bottom in boxes(svg):
        crossing = [at for at in leaders(svg) if left + 1 < at[0] < right - 1 and top < at[1] < bottom]
        assert not crossing, f"a leader crosses {name}"


def leaders(svg: str) -> list[tuple[float, float]]:
    """Places on the lines from points to their names, the ends left out."""
    found = []
    for line in ElementTree.fromstring(svg).iter(f"{SVG}line"):
        if line.get("class") == "leader":
            a, b, c, d = (float(line.get(name, 0)) for name in ("x1", "y1", "x2", "y2"))
            found += [(a + (c - a) * k / 40, b + (d - b) * k / 40) for k in range(1, 40)]
    assert found, "close names need some"
    return found


def test_equal_points_are_set_apart_and_a_ninth_line_is_dotted() -> None:
    equal = [Point(1024, 100, 100, 100), Point(16384, 50, 40, 60)]
    svg = str(picture([Line(f"m{i}", equal) for i in range(9)], x_label="K", y_label="used", alt="a"))
    circles = [(c.get("cx"), c.get("cy")) for c in ElementTree.fromstring(svg).iter(f"{SVG}circle")]
    assert len(set(circles)) == 6, "three places of each of two points"
    lines = [line.get("class", "") for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline")]
    assert [line.endswith(" dotted") for line in lines] == [False] * 8 + [True]
    assert lines[0].split()[1] == lines[8].split()[1], "the first colour again"


def test_a_picture_has_colours_for_light_and_dark_and_hollow_points_of_one_seed(board: Board) -> None:
    drawing = quality_picture(one_board(board, {"vq": {"psnr": 20.0}, "ema": {"psnr": 21.0}}))
    assert drawing is not None
    assert "prefers-color-scheme: dark" in drawing
    assert drawing.count(" hollow") == 2
    assert quality_picture(Found("scenes", CLAIMS, Results(board, {}, {}))) is None
    three = quality_picture(one_board(board, {"vq": {"psnr": 20.0}}, seeds=3))
    assert three is not None
    assert " hollow" not in three


def test_metrics_of_the_boards_read(board: Board) -> None:
    for folder in FOLDER.glob("*/claims.yaml"):
        found = read_results(folder.parent)
        assert all(
            run["protocol"] == found.board.protocol for own in found.metrics.values() for run in own.values()
        )


def test_a_cell_keeps_its_bar() -> None:
    assert table(["norm"], [["||z||"]]) == "| norm |\n| --- |\n| \\|\\|z\\|\\| |"
