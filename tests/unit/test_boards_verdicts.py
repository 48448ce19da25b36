"""Verdicts follow from the numbers by the stated rule, and what is missing is named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from vqpipe.boards.board import Board, load_board
from vqpipe.boards.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    UNDECIDED,
    BoardClaims,
    BoardTable,
    Claim,
    judge,
    read_claims,
)
from vqpipe.boards.columns import shown
from vqpipe.boards.found import Found
from vqpipe.boards.page import boards_pages
from vqpipe.boards.results import Results, over_seeds, read_results
from vqpipe.errors import ArtifactError, ParamsError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "boards"
TABLES = [
    (FOLDER / name, table)
    for name in ("scenes", "tiny-imagenet", "language")
    for table in read_claims(FOLDER / name).tables
]
CLAIMS = read_claims(FOLDER / "scenes")
MAIN = BoardClaims("Here", "make board-scenes", CLAIMS.tables[:1])
VQCT = BoardClaims(
    "Here", "make board-scenes", tuple(t for _, t in TABLES if "VQCT" in t.title or "Main" in t.title)
)


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board(FOLDER / "scenes/params.yaml", Board)


def results(
    board: Board, rows: Mapping[str, Sequence[float]], metric: str = "psnr", half: float = 0.1
) -> Results:
    """Rows with one value per seed, all that are planned; those of one seed have an interval over images of +-half."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for row, values in rows.items():
        for seed, value in enumerate(values):
            entry: dict[str, Any] = {
                metric: value,
                "row": row,
                "seed": seed,
                "protocol": board.protocol,
                "code_shared": "c",
                "num_codes": "1024",
                "bits_per_image": 2560.0,
            }
            if half:
                entry |= {f"{metric}_low": value - half, f"{metric}_high": value + half}
            runs.setdefault(row, {})[seed] = entry
    planned = {n: r for n, r in board.runs.items() if r.row not in rows or r.seed < len(rows[r.row])}
    return Results(board.model_copy(update={"runs": planned}), runs, {})


def page(claims: BoardClaims, found: Results) -> str:
    """All pages of one board in one text."""
    return "\n".join(boards_pages([Found("scenes", claims, found)], None).values())


def outcome(board: Board, claim: Claim, rows: Mapping[str, Sequence[float]], **options: Any) -> str:
    return judge(claim, results(board, rows, **options)).outcome


def test_students_interval_over_three_seeds() -> None:
    found = over_seeds([20.0, 21.0, 22.0])
    assert found.mean == 21.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3))
    assert found.mean - found.low == pytest.approx(4.302653 / math.sqrt(3))
    assert (found.source, found.num_seeds) == ("seeds", 3)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"vq": [20.0], "vqct": [20.3]}, REPRODUCED),
        ({"vq": [20.0], "vqct": [20.15]}, UNDECIDED),  # the intervals overlap
        ({"vq": [20.3], "vqct": [20.0]}, NOT_REPRODUCED),  # the other way round
        ({"vq": [20.0, 20.01, 20.02], "vqct": [20.5, 20.51, 20.52]}, REPRODUCED),
        ({"vq": [20.0, 21.0, 22.0], "vqct": [22.5, 22.51, 22.52]}, UNDECIDED),  # seeds differ widely
        ({"vqct": [20.0]}, NOT_RUN),
    ],
)
def test_a_rise_needs_intervals_apart(board: Board, rows: dict[str, list[float]], expected: str) -> None:
    assert outcome(board, Claim("c", ("vq", "vqct")), rows) == expected


def test_the_evidence_says_which_comparison_fails_and_how(board: Board) -> None:
    rows = {"vqct": [21.0], "vq": [20.0], "cvq": [22.0], "gumbel": [21.1]}
    claim = Claim("c", ("vqct", "vq", "cvq", "gumbel"), "psnr", "above_all")
    evidence = judge(claim, results(board, rows)).evidence
    assert "vqct 21.00 [20.90, 21.10]" in evidence
    assert "vqct and cvq are in the opposite order" in evidence
    assert "vqct and gumbel cannot be distinguished" in evidence
    assert "vqct and vq " not in evidence.split("; ", 1)[1]


def test_without_an_interval_the_margin_decides(board: Board) -> None:
    claim = Claim("c", ("vq", "vqct"), "fd_clip", "falls", 0.1)
    options: dict[str, Any] = {"metric": "fd_clip", "half": 0.0}
    assert outcome(board, claim, {"vq": [1.0], "vqct": [0.85]}, **options) == REPRODUCED
    assert outcome(board, claim, {"vq": [1.0], "vqct": [0.95]}, **options) == UNDECIDED
    assert outcome(board, claim, {"vq": [1.0], "vqct": [1.05]}, **options) == UNDECIDED
    assert outcome(board, claim, {"vq": [1.0], "vqct": [1.15]}, **options) == NOT_REPRODUCED


def test_a_number_of_zero_is_compared_too(board: Board) -> None:
    options: dict[str, Any] = {"metric": "utilisation", "half": 0.0}
    for relation, expected in (("rises", REPRODUCED), ("falls", NOT_REPRODUCED)):
        claim = Claim("c", ("vq", "lc"), "utilisation", relation)  # type: ignore[arg-type]
        assert outcome(board, claim, {"vq": [0.0], "lc": [0.2]}, **options) == expected


@pytest.mark.parametrize(
    "fields", [{}, {"rows": ["vq"]}, {"relation": "stays", "rows": ["vq"]}, {"relation": "at_least"}]
)
def test_a_claim_that_compares_nothing_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    table = {"title": "T", "about": "a", "claims": [{"text": "c", **fields}]}
    (tmp_path / "claims.yaml").write_text(json.dumps({"title": "B", "run": "make", "tables": [table]}))
    with pytest.raises(ParamsError, match=r"claims\.tables\.0\.claims\.0.* needs [12] or more rows"):
        read_claims(tmp_path)


def test_a_difference_below_the_margin_is_told_as_such(board: Board) -> None:
    claim = Claim("c", ("vq", "lc"), "utilisation", "rises", 0.5)
    options: dict[str, Any] = {"metric": "utilisation", "half": 0.0}
    evidence = judge(claim, results(board, {"vq": [0.8], "lc": [1.0]}, **options)).evidence
    assert evidence.endswith("lc and vq differ by 25.0 %, and the claim asks for more than 50 %")
    assert (
        "cannot be distinguished"
        in judge(claim, results(board, {"vq": [1.0], "lc": [1.0]}, **options)).evidence
    )


def test_a_shares_interval_ends_at_one_and_equal_seeds_have_none() -> None:
    assert shown("utilisation", over_seeds([0.9, 0.95, 1.0])) == "95.0 % [82.6, 100.0]"
    assert shown("utilisation", over_seeds([1.0, 1.0, 1.0])) == "100.0 %"


@pytest.mark.parametrize(
    ("relation", "margin", "values", "expected"),
    [
        ("falls", 0.05, ([22.0], [21.0], [20.0]), REPRODUCED),
        ("falls", 0.05, ([22.0], [20.0], [21.0]), NOT_REPRODUCED),
        ("below_all", 0.05, ([20.0], [21.0], [22.0]), REPRODUCED),
        ("below_all", 0.05, ([21.0], [20.0], [22.0]), NOT_REPRODUCED),
        ("no_rise", 0.05, ([21.0], [21.1], [20.0]), REPRODUCED),
        ("no_rise", 0.05, ([21.0], [20.0], [22.5]), NOT_REPRODUCED),
        ("no_rise", 0.05, ([21.0], [21.0], [22.0]), UNDECIDED),
        ("no_rise", 0.05, ([21.0], [22.0], [22.5]), NOT_REPRODUCED),
        ("stays", 0.02, ([20.0], [20.15], [19.9]), REPRODUCED),
        ("stays", 0.01, ([20.0], [20.15], [19.9]), UNDECIDED),
        ("stays", 0.01, ([20.0], [20.5], [19.9]), NOT_REPRODUCED),
        ("stays", 0.01, ([20.0], [20.0], [19.5]), NOT_REPRODUCED),
        ("at_least", 19.5, ([20.0], [20.3], [19.6]), REPRODUCED),
        ("at_least", 20.0, ([20.1], [20.3], [19.8]), NOT_REPRODUCED),
        ("at_least", 20.0, ([20.1], [20.3], [19.95]), UNDECIDED),
        ("at_most", 20.5, ([20.0], [20.3], [19.6]), REPRODUCED),
        ("at_most", 20.0, ([19.9], [20.2], [19.8]), NOT_REPRODUCED),
        ("at_most", 20.0, ([19.9], [20.05], [19.8]), UNDECIDED),
    ],
)
def test_every_relation(board: Board, relation: Any, margin: float, values: Any, expected: str) -> None:
    claim = Claim("c", ("vq", "ema", "fc"), "psnr", relation, margin)
    assert outcome(board, claim, dict(zip(claim.rows, values, strict=True))) == expected


def test_there_is_no_verdict_before_all_seeds_are_there(board: Board) -> None:
    claim, found = (
        Claim("c", ("vqct", "vq")),
        results(board, {"vq": [20.0, 20.0, 20.0], "vqct": [21.0, 21.0]}),
    )
    assert judge(claim, found).outcome == NOT_REPRODUCED
    verdict = judge(claim, Results(board, found.metrics, {}))
    assert (verdict.outcome, verdict.evidence) == (NOT_RUN, "missing: vqct-2")


@pytest.mark.parametrize(
    ("other", "expected", "evidence"),
    [
        ([20.2, 21.3, 22.2], REPRODUCED, "seed by seed +0.23 [+0.09, +0.38]"),
        ([20.5, 20.8, 22.1], UNDECIDED, "cannot be distinguished"),
        ([19.8, 20.7, 21.8], NOT_REPRODUCED, "are in the opposite order"),
        ([20.2], UNDECIDED, "cannot be distinguished"),
    ],
)
def test_numbers_of_the_same_seeds_are_compared_seed_by_seed(
    board: Board, other: list[float], expected: str, evidence: str
) -> None:
    """The rows' own intervals overlap in every case."""
    rows = {"vq": [20.0, 21.0, 22.0], "vqct": other}
    verdict = judge(Claim("c", ("vq", "vqct")), results(board, rows, half=0.0 if len(other) > 1 else 3.0))
    assert (verdict.outcome, evidence in verdict.evidence) == (expected, True), verdict.evidence


def test_each_of_several_differences_is_named(board: Board) -> None:
    rows = {"vqct": [25.0, 26.0, 27.0], "vq": [20.0, 21.0, 22.1], "cvq": [24.0, 26.5, 26.9]}
    verdict = judge(Claim("c", ("vqct", "vq", "cvq"), relation="above_all"), results(board, rows, half=0.0))
    assert (
        "; vqct less vq, seed by seed +4.97 [+4.82, +5.11]; vqct less cvq, seed by seed +0.20 "
        in verdict.evidence
    )
    assert (verdict.outcome, "vqct and vq " in verdict.evidence) == (UNDECIDED, False)


def test_one_comparison_that_fails_is_enough(board: Board) -> None:
    rows = {"vqct": [21.0], "vq": [22.0], "cvq": [21.1]}
    assert outcome(board, Claim("c", tuple(rows), relation="above_all"), rows) == NOT_REPRODUCED


@pytest.mark.parametrize(
    ("larger", "expected"),
    [
        ([25.05, 25.06, 25.04], REPRODUCED),
        ([25.35, 25.36, 25.34], NOT_REPRODUCED),
        ([25.1, 25.4, 25.0], UNDECIDED),
    ],
)
def test_that_nothing_is_gained_needs_the_whole_interval(
    board: Board, larger: list[float], expected: str
) -> None:
    """The means of the last rise by 0.7 % where 1 % is allowed, and one seed rises by 1.6 %."""
    claim = Claim("no gain", ("vq", "vqct"), "psnr", "no_rise", 0.01)
    verdict = judge(claim, results(board, {"vq": [25.0, 25.0, 25.0], "vqct": larger}, half=0.0))
    assert verdict.outcome == expected, verdict.evidence
    assert "; within 1 %; seed by seed +" in verdict.evidence
    assert ("reaches beyond that" in verdict.evidence) == (expected == UNDECIDED)
    assert ("vqct differs from vq by 1.4 %" in verdict.evidence) == (expected == NOT_REPRODUCED)


def test_claims_of_no_change_state_a_margin_that_shows_one() -> None:
    claims = [one for _, table in TABLES for one in table.claims if one.relation in ("no_rise", "stays")]
    assert len(claims) > 10
    assert {one.text for one in claims if one.margin > 0.02} == set(), "5 % of a PSNR is more than 1 dB"


def test_what_rests_on_absent_weights_is_not_testable_whatever_was_measured(board: Board) -> None:
    verdict = judge(Claim("GloVe", ("vq",), untestable="no GloVe file"), results(board, {"vq": [20.0]}))
    assert (verdict.outcome, verdict.evidence) == (NOT_TESTABLE, "no GloVe file")


@pytest.mark.parametrize(
    ("folder", "table"), TABLES, ids=lambda v: v.title if isinstance(v, BoardTable) else v.name
)
def test_tables_and_claims_name_rows_that_are_run(folder: Path, table: BoardTable) -> None:
    named = {row for _, row in table.rows} | {row for claim in table.claims for row in claim.rows}
    run = {run.row for run in load_board(folder / "params.yaml", Board).runs.values()}
    assert named <= run, f"not run: {named - run}"
    assert all(claim.untestable or claim.rows for claim in table.claims)


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in FOLDER.glob("*/claims.yaml")), ids=lambda v: v.name
)
def test_rows_that_carry_a_claim_have_three_seeds(folder: Path) -> None:
    seeds: dict[str, set[int]] = {}
    for run in load_board(folder / "params.yaml", Board).runs.values():
        seeds.setdefault(run.row, set()).add(run.seed)
    claims = [claim for table in read_claims(folder).tables for claim in table.claims if not claim.untestable]
    assert {row for claim in claims for row in claim.rows if not seeds[row] >= {0, 1, 2}} == set()


@pytest.mark.parametrize("name", ["scenes", "tiny-imagenet"])
def test_the_ablation_of_vqct_has_the_vectors_of_every_language_model(name: str) -> None:
    tables = [table for folder, table in TABLES if folder.name == name]
    two, five = (
        {row for table in tables if re.match(rf"VQCT Table {number}\b", table.title) for _, row in table.rows}
        for number in (2, 5)
    )
    assert {"vqct", "vqct-glove", "vqct-minilm"} <= five
    assert {row for row in five if "random" not in row} <= two


def test_the_papers_tables_that_were_asked_for_are_there() -> None:
    titles = [table.title for _, table in TABLES]
    wanted = [f"VQCT Table {n}:" for n in (1, 2, 3, 4, 5)]
    wanted += [f"VQGAN-LC Table {n}:" for n in (1, 2, 6, 7, 8, 9, 10)]
    wanted += [f"LG-VQ Table {n}:" for n in (1, 2, 3, 4)]
    for start in wanted:
        assert any(title.startswith(start) for title in titles), start
    generation = [table.title.split(":")[0] for table in read_claims(FOLDER / "generation").tables]
    wanted = [
        *(f"LG-VQ Table {n}" for n in (5, 6, 7, 10)),
        "VQGAN-LC Table 4",
        "VQGAN-LC Table 5",
        "VQCT Table 6",
    ]
    assert set(wanted) <= set(generation)


def test_the_pages_show_numbers_verdicts_and_what_is_missing(board: Board) -> None:
    rows = {"vq": [20.0, 20.1, 20.2], "vqct": [21.5, 21.6, 21.7], "vqct-random": [21.0]}
    text = page(VQCT, results(board, rows))
    assert "| `vq` |" in text
    assert "20.10 [19.85, 20.35]" in text
    assert "CLIP vectors are better than the baseline | **reproduced** | PSNR: vq 20.10" in text
    assert "GloVe vectors are better than the baseline | **not run yet** | missing: vqct-glove" in text
    untestable = [claim for table in CLAIMS.tables for claim in table.claims if claim.untestable]
    assert untestable
    texts = page(CLAIMS, results(board, rows))
    assert all(f"| {claim.text} | **not testable here** |" in texts for claim in untestable)
    assert "| `lc` |" not in text
    assert re.search(r"Not run yet: .*`lc`", text)
    assert "The code that all rows share was of 1 version: c." in text
    assert re.search(r"Missing: \d+ runs, all of \d+ rows \(ema, ", text)
    assert all(line.count("|") == page_line.count("|") for page_line, line in _tables(text)), "ragged table"


def _tables(page: str) -> list[tuple[str, str]]:
    """Every line of a table with the line before it."""
    lines = page.splitlines()
    return [(a, b) for a, b in pairwise(lines) if a.startswith("|") and b.startswith("|")]


def test_several_versions_of_the_shared_code_are_stated(board: Board) -> None:
    found = results(board, {"vq": [20.0, 20.1], "lc": [21.0]})
    runs = {row: {seed: dict(run) for seed, run in own.items()} for row, own in found.metrics.items()}
    runs["vq"][1]["code_shared"] = "other"
    del runs["lc"][0]["code_shared"]
    text = page(MAIN, Results(board, runs, {}))
    assert "The code that all rows share was of 2 versions: c, other." in text
    assert "1 runs do not name it." in text
    assert "Rows of different versions compare" in text


def test_rows_of_another_protocol_are_counted_and_no_results(tmp_path: Path, board: Board) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "params.yaml").write_text((FOLDER / "scenes/params.yaml").read_text())
    for name, number in (
        ("vq-0", board.protocol),
        ("vq-1", board.protocol - 1),
        ("ema-0", board.protocol - 1),
    ):
        run = board.runs[name]
        content = {"row": run.row, "seed": run.seed, "protocol": number, "psnr": 12.34}
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps(content))
    found = read_results(tmp_path)
    assert found.metrics == {"vq": {0: {"row": "vq", "seed": 0, "protocol": board.protocol, "psnr": 12.34}}}
    assert {number: sorted(runs) for number, runs in found.other.items()} == {
        board.protocol - 1: ["ema-0", "vq-1"]
    }
    text = page(replace(MAIN, protocols={board.protocol - 1: "8 x 8 tokens"}), found)
    old = f"2 runs of protocol {board.protocol - 1} (8 x 8 tokens) are no result of this board"
    assert old in text
    assert text.count("12.34") == 2, "the first table and the table's page show the one run"
    runs, rows = len(board.runs), len(board.rows)
    assert f"Missing: {runs - 1} runs, all of {rows - 1} rows (ema, " in text
    assert ") and 2 of rows that have others (vq-1, vq-2). Run: `make board-scenes`" in text


def test_a_dash_has_a_reason(board: Board) -> None:
    name = "task.retrieval.own.image_to_text.r1"
    claims = replace(MAIN, tables=(BoardTable("T", "about", (("plain", "vq"),), metrics=(name, "ssim")),))
    text = page(claims, results(board, {"vq": [20.0]}))
    assert "Dashes at `vq`: trained without alignment, so without own heads." in text
    assert "Dashes at `vq`: not measured under the row's protocol." in text


def test_a_board_without_rows_says_what_to_run(board: Board) -> None:
    text = page(MAIN, Results(board, {}, {}))
    assert f"No row has been run under protocol {board.protocol}. Run: `make board-scenes`" in text


def test_metrics_of_another_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "params.yaml").write_text((FOLDER / "scenes/params.yaml").read_text())
    (tmp_path / "metrics/vq-0.json").write_text('{"row": "ema", "seed": 0, "psnr": 1.0}')
    with pytest.raises(ArtifactError, match="not of run vq-0"):
        read_results(tmp_path)


def test_both_boards_share_the_protocol_of_training() -> None:
    yaml = YAML(typ="safe", pure=True)
    ours, theirs = (
        yaml.load((path / "params.yaml").read_text())
        for path in (FOLDER / "scenes", FOLDER / "tiny-imagenet")
    )
    ours["common"]["augment"] = theirs["common"]["augment"]
    assert ours["common"] == theirs["common"]
    assert ours["evaluate"] == theirs["evaluate"]
    own = {name: row for name, row in theirs["rows"].items() if name != "lc-from-scenes"}
    assert own == {name: ours["rows"][name] for name in own}


def test_baselines_that_are_not_the_reference_codes_are_said_to_be(board: Board) -> None:
    departing = {row for row in board.rows if Results(board, {}, {}).departure(row)}
    for kind in ("ema", "fc"):
        own = {row for row, change in board.rows.items() if change.get("quantizer", {}).get("kind") == kind}
        reference = {row for row in own if row.startswith(f"{kind}-reference")}
        assert {kind, f"{kind}-uniform", f"{kind}-uniform-k16384"} <= own - reference <= departing
        assert {f"{kind}-reference", f"{kind}-reference-k16384"} <= reference
        assert not reference & departing
    assert {row for row in departing if row[:3] not in ("ema", "fc-") and row != "fc"} == {
        "lc-random", "lc-random-standard", "lc-no-projector",
    }  # fmt: skip
    found = results(board, {"lc-random": [20], "lc": [25, 25, 25], "vq": [20, 20, 20]})
    claim = Claim("k-means is better", ("lc-random", "lc"))
    assert judge(claim, found).evidence.endswith("; not in the form of VQGAN-LC's own code: lc-random")
    assert judge(claim, found).outcome == REPRODUCED, "the note changes no verdict"
    assert "own code" not in judge(Claim("lc is better", ("vq", "lc")), found).evidence
    other = board.model_copy(update={"rows": {"fc": {"quantizer": {"kind": "fc", "normalise": False}}}})
    assert Results(other, {}, {}).departure("fc") is None


def test_the_pages_state_it_at_the_rows(board: Board) -> None:
    found = results(board, {"ema-uniform": [20.0], "fc": [20.0], "lc-random": [20.0], "vq": [20.0]})
    pages = boards_pages([Found("scenes", read_claims(FOLDER / "scenes"), found)], None)
    for row in ("ema-uniform", "lc-random"):
        parts = [text for text in pages.values() if f"| `{row}` | 1,024 |" in text and "verdict" in text]
        assert parts
        assert all("Not in the form of VQGAN-LC's own code: " in part for part in parts)
