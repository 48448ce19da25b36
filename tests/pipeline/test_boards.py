"""Rows at pico scale through the runner: numbers and nothing else, once, to the same bytes after a kill."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.pipeline.conftest import ROOT, Checkout
from vqpipe.params.base import merged, read_yaml

pytestmark = pytest.mark.pipeline

RUNS = {"vq-0": "codebook/none", "lc-0": "codebook/patches"}


@pytest.fixture(scope="module")
def board(pico: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the pico checkout with a board of two rows, both of which have run."""
    folder = tmp_path_factory.mktemp("boards") / "repo"
    shutil.copytree(pico.folder, folder, symlinks=True)
    shutil.copytree(ROOT / "boards", folder / "boards", ignore=shutil.ignore_patterns("metrics", "cost"))
    write_params(folder / "boards/scenes/params.yaml", read_yaml(folder / "params.yaml"))
    checkout = Checkout(folder)
    checkout.run("stages.boards", "--jobs", "2")
    return checkout


def write_params(path: Path, pico: dict[str, dict[str, object]]) -> None:
    board, tokenizer = read_yaml(path), pico["tokenizer"]
    board["common"] = merged(board["common"], {**tokenizer["common"], "latent_init": "whiten"})  # type: ignore[dict-item]
    board["evaluate"] = pico["evaluate"]
    board["clusters"], board["codebooks"] = {}, {}
    rows = {name: merged(board["rows"][name], {"quantizer": {"num_codes": 16}}) for name in ("vq", "lc")}
    board["rows"] = rows
    board["runs"] = {
        name: {"row": name[:-2], "seed": 0, "codebook": codebook} for name, codebook in RUNS.items()
    }
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(board, stream)


def test_a_row_leaves_its_numbers_and_no_weights(board: Checkout) -> None:
    for name in RUNS:
        metrics = json.loads((board.folder / f"boards/scenes/metrics/{name}.json").read_text())
        assert all(not isinstance(value, dict | list) for value in metrics.values())
        assert (metrics["row"], metrics["seed"], metrics["num_steps"]) == (name[:-2], 0, 24)
        assert metrics["psnr_low"] < metrics["psnr"] < metrics["psnr_high"]
        assert 0 < metrics["utilisation"] <= 1
        assert {"fd_clip", "clip_distance", "perplexity_share"} <= set(metrics)
        assert {"code", "code_shared", "protocol", "given"} <= set(metrics)
        cost = json.loads((board.folder / f"boards/scenes/cost/{name}.json").read_text())
        assert cost["num_steps"] == 24
        assert cost["cpu_seconds_per_step"] > 0
        assert cost["parameters.decoder"] > 0
        assert cost["encode_seconds_per_image"] > 0
        assert (
            0 <= metrics["linear_probe_low"] <= metrics["linear_probe"] <= metrics["linear_probe_high"] <= 1
        )
        assert metrics["linear_probe_dim"] == 16 * 8
        assert not {"cpu_seconds_per_step", "peak_memory_bytes", "seconds_per_step"} & set(metrics)
    assert not list((board.folder / ".scratch/row").iterdir()), "checkpoints are scratch"


def test_dvc_and_the_runner_agree_that_nothing_is_left_to_do(board: Checkout) -> None:
    assert "up to date" in board.run("dvc", "status", "boards/scenes/dvc.yaml:row").stdout
    done = board.run("stages.boards", "--dry")
    assert done.stdout.strip() == ""
    assert "0 of 2 rows" in done.stderr


def test_only_the_row_whose_params_changed_is_run_again_and_all_after_the_protocol(board: Checkout) -> None:
    path = board.folder / "boards/scenes/params.yaml"
    text = path.read_text()
    changed = text.replace("beta: 0.33", "beta: 0.5")
    raised = text.replace("protocol: 2", "protocol: 3")
    assert text not in (changed, raised)
    try:
        path.write_text(changed)
        assert board.run("stages.boards", "--dry").stdout.split() == ["lc-0"]
        path.write_text(raised)
        assert board.run("stages.boards", "--dry").stdout.split() == ["vq-0", "lc-0"]
    finally:
        path.write_text(text)


def test_rows_that_other_code_made_are_listed_and_kept_until_they_are_asked_for(board: Checkout) -> None:
    path = board.folder / "stages/row.py"
    text = path.read_text()
    try:
        path.write_text(text + "CHANGED = 1\n")
        done = board.run("stages.boards", "--dry")
        assert done.stdout.strip() == ""
        assert "2 rows were made by other code" in done.stderr
        board.run("stages.boards")
        board.run("dvc", "repro", "-q", "code")
        assert "artifacts/code/row.txt" in board.run("dvc", "status", "boards/scenes/dvc.yaml:row").stdout
        again = board.run("stages.boards", "--dry", "--other-code")
        assert again.stdout.split() == list(RUNS)
    finally:
        path.write_text(text)
    board.run("dvc", "repro", "-q", "code")
    assert "up to date" in board.run("dvc", "status", "boards/scenes/dvc.yaml:row").stdout


def test_a_killed_row_goes_on_to_the_same_bytes(board: Checkout, tmp_path: Path) -> None:
    metrics = board.folder / "boards/scenes/metrics/vq-0.json"
    whole = metrics.read_bytes()
    words = [
        "stages.row", "--params", "boards/scenes/params.yaml", "--row", "vq", "--seed", "0",
        "--codebook", "artifacts/codebook/none", "--metrics", "again.json", "--cost", "cost.json",
    ]  # fmt: skip
    board.run_killed(tmp_path, 3, *words)
    assert not (board.folder / "again.json").exists()
    board.run(*words, fresh=True)
    assert (board.folder / "again.json").read_bytes() == whole
    cost = json.loads((board.folder / "cost.json").read_text())
    assert 0 < cost["num_steps"] < 24, "the cost is that of the steps of this process"


def test_a_row_that_fails_is_reported_and_the_others_are_run(board: Checkout) -> None:
    metrics = board.folder / "boards/scenes/metrics"
    whole = {name: (metrics / f"{name}.json").read_bytes() for name in RUNS}
    for name in RUNS:
        (metrics / f"{name}.json").unlink()
    words = board.folder / "artifacts/codebook/patches/centroids.safetensors"
    kept = words.read_bytes()
    try:
        words.write_bytes(kept[:-64])
        done = board.run("stages.boards", check=False)
    finally:
        words.write_bytes(kept)
    assert done.returncode == 1
    assert "1 rows failed: lc-0" in done.stderr
    assert (metrics / "vq-0.json").read_bytes() == whole["vq-0"]
    assert not (metrics / "lc-0.json").exists()
    (metrics / "lc-0.json").write_bytes(whole["lc-0"])


def test_the_page_shows_the_rows_and_names_what_is_missing(board: Checkout) -> None:
    board.run("vqpipe.cli.app", "boards", "--out", "page.md")
    page = (board.folder / "page.md").read_text()
    assert "2 of 2 runs" in page
    assert "Not run yet: ema, " in page
    rows = (board.folder / "page/scenes-main-rows.md").read_text()
    assert "| `lc` | " in rows
    assert "| `vqct` |" not in rows
    assert re.search(r"Not run yet: `ema`, .*`vqct`", rows)


def test_a_board_over_another_reads_its_rows_and_dvc_knows_names_with_a_plus(board: Checkout) -> None:
    path = board.folder / "boards/language/params.yaml"
    own = read_yaml(path)
    narrow = {"width": 16, "max_tokens": 24, "masked": {"width": 16}}
    short = {"num_steps": 24, "batch_size": 8, "log_every": 4, "checkpoint_every": 8}
    own["common"] = merged(own["common"], {"align": narrow})
    head, masked = {"width": 16, "max_tokens": 24}, {"width": 16}
    tasks = {"training": short, "num_images": 48, "num_bootstrap": 100, "batch_size": 32}
    own["tasks"] = merged(
        own["tasks"],
        {
            **tasks,
            "masked_words": {"head": head, "masked": masked},
            "retrieval": {"head": head},
            "relations": {"head": head, "masked": masked},
        },
    )
    own["rows"] = {"vq+lg": {"quantizer": {**own["rows"]["vq+lg"]["quantizer"], "num_codes": 16}}}
    own["runs"] = {"vq+lg-0": {"row": "vq+lg", "seed": 0, "codebook": "codebook/none"}}
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(own, stream)
    folder = ("--folder", "boards/language")
    assert board.run("stages.boards", *folder, "--dry").stdout.split() == ["vq+lg-0"]
    board.run("stages.boards", *folder, "vq+*")
    metrics = json.loads((board.folder / "boards/language/metrics/vq+lg-0.json").read_text())
    assert metrics["num_steps"] == metrics["task.retrieval.training.num_steps"] == 24
    assert 0 <= metrics["task.masked_words.own.masked_1.recall"] <= 1
    assert "up to date" in board.run("dvc", "status", "boards/language/dvc.yaml").stdout
    assert board.run("stages.boards", *folder, "--dry").stdout.strip() == ""
    base = board.folder / "boards/scenes/params.yaml"
    text = base.read_text()
    try:
        base.write_text(text.replace("num_bootstrap: 100", "num_bootstrap: 200"))
        assert base.read_text() != text
        assert board.run("stages.boards", *folder, "--dry").stdout.split() == ["vq+lg-0"]
        assert "boards/scenes/params.yaml" in board.run("dvc", "status", "boards/language/dvc.yaml").stdout
    finally:
        base.write_text(text)
