"""LG-VQ's board: what it shares, which rows are compared, its verdicts both ways, its page and its costs."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from vqpipe.boards.board import Board, load_board
from vqpipe.boards.claims import (
    NOT_REPRODUCED,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    UNDECIDED,
    Claim,
    judge,
    read_claims,
)
from vqpipe.boards.columns import COLUMNS, column, head, shown
from vqpipe.boards.costs import costs, ratios
from vqpipe.boards.found import Found
from vqpipe.boards.markdown import table as markdown
from vqpipe.boards.page import boards_pages
from vqpipe.boards.results import Estimate, Results
from vqpipe.errors import ParamsError
from vqpipe.params.base import read_yaml

FOLDER = Path(__file__).parents[2] / "boards"
CLAIMS = read_claims(FOLDER / "language")
MAIN = ("vq", "cvq", "vqct", "lc")
MASKED, RELATED = "task.masked_words.fresh.masked_1", "task.relations.{}.similarity"
MSE, OWN_MSE = f"{RELATED.format('fresh')}.raw.mse", f"{RELATED.format('own')}.raw.mse"
ONE_COSINE = f"{RELATED.format('own')}.constant"
RECALL, OTHER = "task.masked_words.own.masked_1.recall", "task.masked_words.own.masked_1.other_image"


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board(FOLDER / "language/params.yaml", Board)


def results(
    board: Board,
    numbers: Mapping[str, Mapping[str, float]],
    spent: Mapping[str, Mapping[str, float]] | None = None,
) -> Results:
    """Rows with three seeds, which lie one hundredth of a value below and above its own."""

    def runs(own: Mapping[str, float], row: str) -> dict[int, dict[str, Any]]:
        about = {
            "row": row, "protocol": board.protocol, "code": "c", "num_codes": "1024", "bits_per_image": 2560.0,
        }  # fmt: skip
        return {
            seed: {
                **{name: value * (0.99 + 0.01 * seed) for name, value in own.items()},
                **about,
                "seed": seed,
            }
            for seed in range(3)
        }

    return Results(
        board,
        {row: runs(own, row) for row, own in numbers.items()},
        {row: {0: dict(own), 1: dict(own)} for row, own in (spent or {}).items()},
    )


def page(board: Board, found: Results) -> str:
    return "\n".join(boards_pages([Found("language", CLAIMS, found)], None).values())


# --- params


def test_what_is_shared_is_that_of_the_main_board(board: Board) -> None:
    main = load_board(FOLDER / "scenes/params.yaml", Board)
    assert {name: value for name, value in board.common.items() if name != "align"} == main.common
    assert board.evaluate == main.evaluate
    for row in (*MAIN, "vq-vae"):
        plain = board.tokenizer(row, 1)
        assert plain.align is None
        assert plain == main.tokenizer(row, 1), "a plain row trains as the main board's"
        assert board.tokenizer(f"{row}+lg", 1).model_copy(update={"align": None}) == plain


def test_every_row_has_three_seeds(board: Board) -> None:
    seeds = {row: sorted(run.seed for run in board.runs.values() if run.row == row) for row in board.rows}
    assert {row for row, found in seeds.items() if found != [0, 1, 2]} == set()


def test_each_ablation_has_the_losses_that_its_name_says(board: Board) -> None:
    for row in board.rows:
        align = board.tokenizer(row, 0).align
        named = tuple(row.split("+")[1:])
        wanted = ("global", "masked", "relationship") if named and named[0].startswith("lg") else named
        assert (align.losses() if align is not None else ()) == wanted
        assert board.plain(row) == (row.split("+")[0] if named else None)


def test_every_row_of_a_seed_has_the_same_tasks(board: Board) -> None:
    one, other, later = board.tasks_of("vq", 1), board.tasks_of("lc+lg", 1), board.tasks_of("vq", 2)
    assert set(one) == {"masked_words", "retrieval", "relations"}
    align = board.tokenizer("vq+lg", 0).align
    assert align is not None
    for kind, task in one.items():
        assert other[kind] == task.model_copy(update={"tokenizer": "lc+lg"})
        assert later[kind] == task.model_copy(update={"seed": 2})
        head = task.align()
        assert (align.width, align.num_layers, align.max_tokens) == (
            head.width,
            head.num_layers,
            head.max_tokens,
        )
    with pytest.raises(ParamsError, match="did you mean vq"):
        board.tasks_of("vqq", 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base: ../scenes/params.yaml", "base: ../none.yaml", "none.yaml does not exist"),
        ("base: ../scenes/params.yaml", "base: 3", "base is no path"),
        ("base: ../scenes/params.yaml", "base: ../language/params.yaml", "has a base itself"),
        ("tasks:\n", "tasks:\n  tokenizer: vq\n", "solved from every row"),
    ],
)
def test_a_board_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    for name in ("scenes/params.yaml", "language/params.yaml"):
        text = (FOLDER / name).read_text()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace(old, new, 1) if name.startswith("language") else text)
    with pytest.raises(ParamsError, match=message):
        load_board(tmp_path / "language/params.yaml", Board)


def test_names_with_a_plus_are_one_word_of_a_shell_and_a_file_name(board: Board) -> None:
    for name in board.runs:
        assert shlex.quote(f"metrics/{name}.json") == f"metrics/{name}.json"
    params = read_yaml(FOLDER / "language/dvc.yaml")["stages"]["row"]["do"]["params"]
    assert {"boards/scenes/params.yaml": ["common", "evaluate", "probe"]} in params


# --- verdicts


def named(text: str) -> Claim:
    (found,) = [c for table in CLAIMS.tables for c in table.claims if c.text == text]
    return found


@pytest.mark.parametrize(
    ("text", "numbers", "expected"),
    [
        ("Alignment lowers VQ-GAN's FID", {"vq": {"fd_clip": 1.0}, "vq+lg": {"fd_clip": 0.8}}, REPRODUCED),
        ("Alignment lowers VQ-GAN's FID", {"vq": {"fd_clip": 1.0}, "vq+lg": {"fd_clip": 1.01}}, NOT_REPRODUCED),
        ("VQ-GAN loses at most 1 % of PSNR", {"vq": {"psnr": 21.0}, "vq+lg": {"psnr": 20.9}}, REPRODUCED),
        ("VQ-GAN loses at most 1 % of PSNR", {"vq": {"psnr": 21.0}, "vq+lg": {"psnr": 18.0}}, NOT_REPRODUCED),
        ("PSNR changes little: CVQ's stays within 2 %", {"cvq": {"psnr": 21.0}, "cvq+lg": {"psnr": 20.0}},
         NOT_REPRODUCED),
        ("VQ-GAN: codes relate as words do, MSE by fresh heads falls",
         {"vq": {MSE: 0.6}, "vq+lg": {MSE: 0.04}}, REPRODUCED),
        ("VQ-GAN: MSE by its own heads is below the plain row's",
         {"vq": {MSE: 0.2}, "vq+lg": {OWN_MSE: 0.3}}, NOT_REPRODUCED),
        ("VQ-GAN + LG: MSE by its own heads is below what one cosine all over would reach",
         {"vq+lg": {OWN_MSE: 0.03, ONE_COSINE: 0.05}}, REPRODUCED),
        ("VQ-GAN + LG: MSE by its own heads is below what one cosine all over would reach",
         {"vq+lg": {OWN_MSE: 0.05, ONE_COSINE: 0.05}}, UNDECIDED),
        ("VQ-GAN + LG: MSE by its own heads is below what one cosine all over would reach",
         {"vq+lg": {OWN_MSE: 0.06, ONE_COSINE: 0.05}}, NOT_REPRODUCED),
        ("VQ-GAN: codes relate as words do, MSE by fresh heads falls", {"vq": {"psnr": 20.0}}, NOT_RUN),
    ],
)  # fmt: skip
def test_verdicts_both_ways(
    board: Board, text: str, numbers: dict[str, dict[str, float]], expected: str
) -> None:
    assert judge(named(text), results(board, numbers)).outcome == expected


@pytest.mark.parametrize(("other", "expected"), [(0.4, REPRODUCED), (0.6, UNDECIDED), (0.7, NOT_REPRODUCED)])
def test_a_claim_may_set_two_numbers_of_one_row_side_by_side(
    board: Board, other: float, expected: str
) -> None:
    claim = Claim("c", ("vq+lg", "vq+lg"), relation="above_all", metrics=(RECALL, OTHER))
    verdict = judge(claim, results(board, {"vq+lg": {RECALL: 0.6, OTHER: other}}))
    assert verdict.outcome == expected
    assert "vq+lg, 1 word, own heads 60.0 % [58.5, 61.5]" in verdict.evidence
    assert "vq+lg, 1 word, own heads, other image" in verdict.evidence
    assert ("cannot be distinguished" in verdict.evidence) == (expected == UNDECIDED)
    missing = judge(claim, results(board, {"vq+lg": {RECALL: 0.6}}))
    assert (missing.outcome, missing.evidence) == (NOT_RUN, "missing: vq+lg, 1 word, own heads, other image")
    with pytest.raises(ValueError, match="one for each row"):
        Claim("c", ("vq",), relation="at_least", metrics=(RECALL, OTHER))


def test_every_number_of_a_task_has_chance_and_the_plain_row_next_to_it() -> None:
    read = [table for table in CLAIMS.tables if any(name.startswith("task.") for name in table.metrics)]
    assert len(read) == 7
    for table in read:
        rows = [row for _, row in table.rows]
        assert {row.split("+")[0] for row in rows} <= set(rows)
        assert all(name in COLUMNS for name in table.metrics if name.startswith("task."))
        if table.title.startswith("LG-VQ Table 2"):
            continue  # one column, whose chance is in Table 4
        assert any("chance" in name for name in table.metrics)


# --- the page


def test_shares_of_a_reading_are_shown_in_percent_and_errors_as_they_are() -> None:
    value = Estimate(0.4321, 0.4, 0.46, "seeds", 3)
    assert shown("task.masked_words.fresh.masked_1.recall", value) == "43.2 % [40.0, 46.0]"
    assert shown("task.relations.own.similarity.raw.mse", value) == "0.4321 [0.4000, 0.4600]"
    assert head("task.retrieval.own.image_to_text.r10").startswith("image to text R@10, own heads, % ")
    assert column("task.else").label == "task.else"
    assert shown("psnr", None) == "missing"


def test_the_page_with_and_without_rows(board: Board) -> None:
    assert "Run: `make board-language`" in page(board, Results(board, {}, {}))
    numbers = {
        "vq": {"psnr": 21.0, "fd_clip": 1.0, f"{MASKED}.recall": 0.41, f"{MASKED}.chance": 0.006},
        "vq+lg": {"psnr": 21.0, "fd_clip": 0.8, f"{MASKED}.recall": 0.62, RECALL: 0.65, OTHER: 0.4},
    }  # fmt: skip
    text = page(board, results(board, numbers))
    assert "What the task numbers are" in text
    assert "Alignment lowers VQ-GAN's FID | **reproduced** | FD-CLIP: vq 1.00" in text
    assert "It is the semantics of well pretrained text that help | **not testable here**" in text
    assert "| VQ-GAN | `vq` | 1,024 | 3 | 2,560 | 41.0 % [40.0, 42.0] | – | – | – | – | 0.6 %" in text
    assert "| VQ-GAN + LG | `vq+lg` | 1,024 | 3 | 2,560 | 62.0 %" in text
    assert "| CVQ | `cvq` |" not in text
    assert "Not run yet: `cvq`, " in text
    assert re.search(r"Missing: \d+ runs, all of \d+ rows \(cvq, ", text)
    lines = text.splitlines()
    tables = [(a, b) for a, b in pairwise(lines) if a.startswith("|") and b.startswith("|")]
    assert all(a.count("|") == b.count("|") for a, b in tables), "ragged table"


def test_untestable_claims_say_what_is_lacking(board: Board) -> None:
    every = [judge(claim, Results(board, {}, {})) for table in CLAIMS.tables for claim in table.claims]
    assert {verdict.outcome for verdict in every} == {NOT_RUN, NOT_TESTABLE}
    assert any("CLIP pretrained" in v.evidence for v in every if v.outcome == NOT_TESTABLE)
    assert CLAIMS.tables[0].claims[-1].untestable


# --- costs


def test_alignment_is_compared_with_the_plain_row_as_a_ratio(board: Board) -> None:
    plain = {"cpu_seconds_per_step": 0.08, "training_memory_bytes": 2.0**28, "peak_memory_bytes": 2.0**30}
    dear = {"cpu_seconds_per_step": 0.1, "training_memory_bytes": 1.5 * 2.0**28, "peak_memory_bytes": 2.0**30}
    worse = {**dear, "cpu_seconds_per_step": 0.12}
    found = results(board, {}, {"vq": plain, "vq+lg": dear, "vq+global": worse})
    second = {**found.costs["vq+lg"], 1: {**dear, "cpu_seconds_per_step": 0.104}, 2: dear}
    found = Results(board, {}, {**found.costs, "vq+lg": second})
    assert ratios(found, "vq+lg", "vq", "cpu_seconds_per_step") == pytest.approx([1.25, 1.3])
    text = "\n".join(markdown(head, rows) for _, head, rows in costs(found))
    mean = statistics.fmean([0.1, 0.104, 0.1]) * 1e3
    assert (
        f"| `vq+lg` | `vq` | {mean:.1f} | 80.0 | 1.27 [1.25, 1.30] | yes | 384 | 256 | 1.50 [1.50, 1.50] |"
        in text
    )
    assert "| `vq+global` | `vq` | 120.0 | 80.0 | 1.50 [1.50, 1.50] | no |" in text
    assert "| `cvq+lg` |" not in text  # which was not run
    assert len(list(costs(Results(board, {}, {"vq+lg": second})))) == 1  # no pair, no table of ratios
    assert not list(costs(Results(board, {}, {}))), "no cost, no table"


def shown_costs(found: Results) -> str:
    about, heads, rows = next(costs(found))
    return f"{about}\n{markdown(heads, rows)}"


def test_columns_that_no_row_measured_are_left_out(board: Board) -> None:
    old = {"cpu_seconds_per_step": 0.08, "peak_memory_bytes": 2.0**30}
    text = shown_costs(results(board, {}, {"vq": old}))
    assert "of the training, MiB" not in text
    assert "aligner" not in text
    new = {**old, "training_memory_bytes": 2.0**28, "parameters.aligner": 100}
    text = shown_costs(results(board, {}, {"vq": old, "vq+lg": new}))
    assert "of the training, MiB" in text
    assert "| 256 |" in text
    assert text.splitlines()[-2].endswith("| 0 |"), "a plain row has no aligner"
    assert text.splitlines()[-1].endswith("| 100 |")
