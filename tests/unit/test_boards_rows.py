"""The boards' params: every row is valid and fits its codebook and the protocol; runs and stages agree."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.dvcfile import Stage, read_stages
from vqpipe.boards.board import Board, load_board
from vqpipe.boards.row import code_use
from vqpipe.errors import ParamsError
from vqpipe.metrics.codes import usage_metrics
from vqpipe.params.base import read_yaml

ROOT = Path(__file__).parents[2]
FOLDERS = tuple(ROOT / "boards" / name for name in ("scenes", "tiny-imagenet", "language"))
BOARDS = {folder.name: load_board(folder / "params.yaml", Board) for folder in FOLDERS}
STAGES = {folder.name: read_stages(folder) for folder in FOLDERS}
ROWS = [(name, row) for name, board in BOARDS.items() for row in board.rows]
TOKENS = {"scenes": 2000 * 256, "tiny-imagenet": 1000 * 256, "language": 2000 * 256}
"""Tokens of the test split: utilisation compares where K is at most a quarter of them."""
MAIN = (
    "vq", "ema", "fc", "gumbel", "cvq", "reg_vq", "sq_vae", "lc", "vqct", "sim_vq", "fsq", "lfq", "ibq", "residual",
)  # fmt: skip


def leaves(node: Any, key: str) -> list[Any]:
    """The values of a key anywhere in plain data."""
    if not isinstance(node, dict):
        return []
    return [v for k, v in node.items() if k == key] + [x for v in node.values() for x in leaves(v, key)]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda value: value)
def test_every_row_is_valid_and_shares_all_but_its_quantizer_and_alignment(name: str, row: str) -> None:
    board = BOARDS[name]
    config, common = board.tokenizer(row, 7), board.tokenizer("vq", 7)
    assert config.seed == 7
    wide = {"latent_channels": 64} if leaves(board.rows[row], "dim") == [64] else {}
    assert config.trunk == common.trunk.model_copy(update=wide)
    assert (config.training, config.augment) == (common.training, common.augment)
    assert config.latent_init == common.latent_init
    if not row.removesuffix("+lg").endswith("-vae"):
        assert config.losses == common.losses
    folders = {Path(run.codebook).name for run in board.runs.values() if run.row == row}
    assert len(folders) == 1
    (folder,) = folders
    assert (folder == "none") == (config.codebook == "none")
    assert folder.startswith("words") == (config.codebook == "words")


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda value: value)
def test_codebooks_are_no_larger_than_their_source_and_a_quarter_of_the_tokens(name: str, row: str) -> None:
    board = BOARDS[name]
    for count in leaves(board.rows[row], "num_codes"):
        assert count <= TOKENS[name] / 4
        for run in board.runs.values():
            folder = Path(run.codebook).name
            if run.row != row or folder in ("none", "words"):
                continue
            held = board.clusters.get(folder)
            main = read_yaml(ROOT / "params.yaml")["cluster"]
            whole = held.num_clusters if held else main["num_clusters"]
            prefixes = held.prefixes if held else main["prefixes"]
            assert count in (whole, *prefixes), f"{row}: {count} is no nested codebook of {folder}"


def test_main_rows_have_three_seeds_and_others_one_or_three() -> None:
    board = BOARDS["scenes"]
    seeds = {row: sorted(r.seed for r in board.runs.values() if r.row == row) for row in board.rows}
    assert {row for row, found in seeds.items() if found == [0, 1, 2]} >= set(MAIN)
    assert all(found in ([0], [0, 1, 2]) for found in seeds.values())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_run_is_a_stage_that_declares_what_it_reads_and_writes(folder: Path) -> None:
    stages, board = STAGES[folder.name], BOARDS[folder.name]
    rows = {name.removeprefix("row@"): stage for name, stage in stages.items() if name.startswith("row@")}
    assert set(rows) == set(board.runs)
    for name, stage in rows.items():
        run, options = board.runs[name], options_of(stage)
        assert (options["--row"], options["--seed"]) == (run.row, str(run.seed))
        inputs = {options[key] for key in ("--dataset", "--clip", "--codebook")}
        assert inputs | {"artifacts/code/row.txt"} == set(stage.deps)
        assert stage.outs == (options["--metrics"],), "costs are never the same twice: no out"
        assert not any(dep.endswith(".py") for dep in stage.deps)
    made = {out for other in (*stages.values(), *read_stages(ROOT).values()) for out in other.outs}
    for stage in stages.values():
        for dep in stage.deps:
            assert dep in made or (ROOT / dep).exists() or dep.startswith("data/"), dep


def options_of(stage: Stage) -> dict[str, str]:
    words = shlex.split(stage.cmd)
    assert words[1:3] == ["-m", "stages.row"]
    return dict(zip(words[3::2], words[4::2], strict=True))


@pytest.mark.parametrize(
    ("name", "run", "message"),
    [
        ("vq-1", {"row": "vq", "seed": 0}, "should be called vq-0"),
        ("no-0", {"row": "no", "seed": 0}, "row no"),
    ],
)
def test_runs_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, run: dict[str, Any], message: str
) -> None:
    text = (FOLDERS[0] / "params.yaml").read_text()
    line = f"  {name}: {{row: {run['row']}, seed: {run['seed']}, codebook: codebook/none}}\n"
    (tmp_path / "params.yaml").write_text(text.split("\nruns:\n")[0] + "\nruns:\n" + line)
    with pytest.raises(ParamsError, match=message):
        load_board(tmp_path / "params.yaml", Board)


def test_an_unknown_row_is_told_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match="did you mean vqct"):
        BOARDS["scenes"].tokenizer("vqtc", 0)


@pytest.mark.parametrize("name", ["scenes", "tiny-imagenet"])
def test_boards_without_tasks_do_not_mention_them(name: str) -> None:
    board = BOARDS[name]
    assert board.tasks_of("vq", 0) == {}
    probe = {"probe"} if board.probe is not None else set()
    assert set(board.identity("vq", 0)) == {"protocol", "row", "seed", "tokenizer", "evaluate"} | probe
    assert board.plain("vq") is None
    other = board.model_copy(update={"tasks": BOARDS["language"].tasks})
    assert other.identity("vq", 0) == {**board.identity("vq", 0), "tasks": other.tasks}


def test_identity_follows_row_seed_and_protocol_and_nothing_else() -> None:
    board = BOARDS["scenes"]
    assert board.identity("vq", 0) == board.identity("vq", 0)
    assert board.identity("vq", 0) != board.identity("vq", 1)
    assert board.identity("vq", 0) != board.identity("ema", 0)
    raised = board.model_copy(update={"protocol": board.protocol + 1})
    assert raised.identity("vq", 0) != board.identity("vq", 0)
    other = board.model_copy(update={"rows": {**board.rows, "lc": {}}})
    assert other.identity("vq", 0) == board.identity("vq", 0)


def test_a_board_takes_its_bases_probe_or_none(tmp_path: Path) -> None:
    assert BOARDS["language"].probe == BOARDS["scenes"].probe is not None
    text = (FOLDERS[2] / "params.yaml").read_text().replace("../scenes", str(FOLDERS[0]))
    (tmp_path / "params.yaml").write_text(f"{text}\nprobe: null\n")
    assert load_board(tmp_path / "params.yaml", Board).probe is None


def test_use_over_groups() -> None:
    groups = {
        "adjective": usage_metrics(np.array([1, 1, 0, 0])),
        "noun": usage_metrics(np.ones(16, np.int64)),
    }
    found = code_use(groups)
    assert found["num_codes"] == "4 x 16"
    assert found["utilisation"] == 18 / 20
    assert found["entropy_bits"] == 5.0
    assert found["perplexity_share"] == pytest.approx((2 / 4 * 16 / 16) ** 0.5)
