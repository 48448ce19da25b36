"""The board of generation on the page: samples next to reconstructions, and whether one predicts the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from vqpipe.boards.board import Board
from vqpipe.boards.claims import BoardClaims, BoardTable
from vqpipe.boards.columns import head
from vqpipe.boards.found import GFD, SAMPLES, Found, with_samples
from vqpipe.boards.results import Results
from vqpipe.boards.sentences import _generation, rank_interval
from vqpipe.params.base import validate

TABLE = BoardTable(title="Table", about="", rows=["vq"], metrics=[SAMPLES])
MADE = SAMPLES.replace(".samples.", ".reconstructions.")
CLAIMS = BoardClaims(title="Generation", run="make board-generation", about="", tables=[TABLE])
EVALUATE: dict[str, Any] = {
    "seed": 0, "num_images": None, "batch_size": 8, "num_bootstrap": 100,
    "perceptual": {"kind": "clip", "layers": [0]},
    "distances": {"features": "clip", "num_subsets": 2, "subset_images": 8, "num_neighbours": 3, "seed": 0},
    "floors": {"num_patches": 8, "num_iterations": 1, "max_num_codes": 2},
    "examples": {"num_images": 0, "num_codes": 0, "num_patches": 0},
}  # fmt: skip


def results(metrics: dict[str, dict[int, dict[str, Any]]], **rows: dict[str, Any]) -> Results:
    runs = {
        f"{row}-{seed}": {"row": row, "seed": seed, "codebook": "none"}
        for row, own in metrics.items()
        for seed in own
    }
    content = {
        "protocol": 1, "common": {"resolution": 64}, "evaluate": EVALUATE, "clusters": {}, "runs": runs,
        "rows": {row: {"quantizer": {"kind": row}} for row in metrics} | rows,
    }  # fmt: skip
    return Results(validate(content, "board", Board), metrics, {})


def test_rows_get_the_samples_of_tokenizers_that_were_trained_alike() -> None:
    generated = results({"vq": {0: {SAMPLES: 5.0}, 1: {SAMPLES: 6.0}}, "lc": {0: {SAMPLES: 7.0}}})
    first = results(
        {"vq": {0: {"psnr": 20.0}, 2: {"psnr": 21.0}}, "lc": {0: {"psnr": 22.0}}, "ema": {0: {"psnr": 1.0}}},
        lc={"quantizer": {"kind": "lc", "beta": 2}},
    )
    found = with_samples(first, generated).metrics
    assert found["vq"] == {0: {"psnr": 20.0, GFD: 5.0}, 2: {"psnr": 21.0}}
    assert found["lc"] == {0: {"psnr": 22.0}}, "its params are others"
    assert found["ema"] == {0: {"psnr": 1.0}}
    turned = results({"vq": {0: {"psnr": 20.0}}}, vq={"beta": 2, "quantizer": {"kind": "vq"}})
    again = results({"vq": {0: {SAMPLES: 5.0}}}, vq={"quantizer": {"kind": "vq"}, "beta": 2})
    assert with_samples(turned, again).metrics["vq"] == {0: {"psnr": 20.0, GFD: 5.0}}, "in any order"


def test_a_prior_is_named_in_the_head_of_its_numbers() -> None:
    assert head(SAMPLES) == head("fd_clip").replace(" ↓", ", gpt-class ↓")


def test_the_head_says_which_images_are_not_samples() -> None:
    assert head(SAMPLES.replace("samples", "reconstructions")) == "FD-CLIP, reconstructions, gpt-class ↓"
    completion = "prior.gpt-none.completion.lower_half.samples"
    assert head(f"{completion}.distances.fd_clip") == "FD-CLIP, completions, gpt-none ↓"
    assert head(f"{completion}.psnr") == "PSNR, completions, gpt-none, dB ↑"


def test_the_rank_correlation_has_the_interval_of_its_source() -> None:
    one, other = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 3.0, 2.0, 5.0, 4.0, 6.0]
    rank, low, high = rank_interval(one, other)
    assert rank == pytest.approx(float(stats.spearmanr(one, other).statistic))
    # r = 31/35, z = 1.4013, standard error sqrt((1 + r^2 / 2) / 3) = .6812: tanh(1.4013 -+ 1.96 x .6812)
    assert (low, high) == (pytest.approx(0.066, abs=1e-3), pytest.approx(0.9917, abs=1e-3))
    assert rank_interval(one, one)[0] == 1.0
    assert np.isnan(rank_interval(one, one)[1:]).all(), "equal orders of few rows are not certain"


def test_the_sentence_is_of_the_tokenizers_that_are_complete() -> None:
    rows = {f"r{i}": {0: {MADE: float(i), SAMPLES: float(i * i)}} for i in range(5)}
    board = {"generation": Found("generation", CLAIMS, results(rows))}
    assert _generation(board) == (
        "The rank correlation of the FD-CLIP of reconstructions with that of samples is +1.00 (no interval) for "
        "gpt-class over 5 tokenizers."
    )
    few = {"generation": Found("generation", CLAIMS, results(dict(list(rows.items())[:3])))}
    assert _generation(few) == ""
    assert _generation({}) == ""
