"""Two torchrun ranks through `train_tokenizer` at pico scale: the same codebooks, and the losses of one process."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import ROOT, run_ranks
from tests.small_training import merged
from tests.tiny import write_dataset, write_tiny_clip
from tests.train_ranks import train_all
from vqpipe.cli.presets import load_preset
from vqpipe.params.base import validate
from vqpipe.tokenizers.tokenizer import TokenizerParams

pytestmark = pytest.mark.slow

RUNS: dict[str, dict[str, Any]] = {
    "vq": {"quantizer": {"kind": "vq", "init": "data"}},
    "lc": {},
    "accumulated": {
        "quantizer": {"init": "data"}, "training": {"accumulate": 2},
        "losses": {"adversarial": {"warmup": 1.0, "r1": {"weight": 1.0, "every": 4},
                                   "discriminator": {"spectral_norm": True}}},
    },
    "aligned": {
        "quantizer": {"init": "data"},
        "align": {
            "width": 8, "num_layers": 1, "num_heads": 1, "max_tokens": 8, "masked": None, "relationship": None,
            "global": {"weight": 1.0, "directions": "both", "gather": True,
                       "temperature": {"kind": "learned", "initial": 0.5, "lowest": 0.01}},
        },
    },
}  # fmt: skip
"""`aligned` has the loss that draws nothing, over the captions of all ranks: what they read must be the same."""
VARIANTS = {"vq": "vq", "lc": "lc", "accumulated": "vq", "aligned": "vq"}


def sections() -> dict[str, dict[str, Any]]:
    """Pico's params at 16 pixels, adversarial from the middle on, without a CLIP."""
    tokenizer = load_preset("pico")["tokenizer"]
    small = {
        "resolution": 16,
        "losses": {"perceptual": {"kind": "none"}},
        "training": {"num_steps": 16, "log_every": 1, "checkpoint_every": 8},
    }
    out = {}
    for name, changes in RUNS.items():
        section = merged(merged(tokenizer["common"], tokenizer["variants"][VARIANTS[name]]), small)
        out[name] = merged(section, changes)
        validate(out[name], name, TokenizerParams)
    return out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where one process and two ranks have trained every run."""
    folder = tmp_path_factory.mktemp("ranks")
    captions = ["a {} picture", "{}", "one that is rather {}"]
    write_dataset(folder, {"train": 40, "validation": 8, "test": 2}, templates=captions)
    write_tiny_clip(folder / "clip")
    (folder / "params.json").write_text(json.dumps(sections()))
    run_ranks(ROOT / "tests/train_ranks.py", str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each rank has
    try:
        train_all(folder)
    finally:
        torch.set_num_threads(threads)
    return folder


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "curves.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", RUNS)
def test_ranks_hold_the_same_bytes(root: Path, name: str) -> None:
    one, two = ((root / "2" / name / f"rank{rank}.safetensors").read_bytes() for rank in (0, 1))
    assert one == two
    first, second = ((root / "2" / name / f"rank{rank}.json").read_text() for rank in (0, 1))
    assert first == second


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_as_one_process_does(root: Path, name: str) -> None:
    one, two = rows(root / "1" / name), rows(root / "2" / name)
    assert [set(row) for row in one] == [set(row) for row in two]
    assert "disc/loss" in one[-1]
    assert ("ae/align_global" in one[-1]) is (name == "aligned")
    assert ("disc/r1" in one[8]) is (name == "accumulated")
    assert ("ae/adaptive_weight" in one[-1]) is (name != "accumulated")
    for a, b in zip(one, two, strict=True):
        for term in ("ae/loss", "disc/loss", "ae/commitment", "ae/window_perplexity_0", "ae/align_global"):
            if term in a:
                assert b[term] == pytest.approx(a[term], rel=1e-5, abs=1e-5), (term, a["step"])
    whole = load_file(root / "1" / name / "rank0.safetensors")
    shared = load_file(root / "2" / name / "rank0.safetensors")
    for key, value in whole.items():
        if key.endswith(
            "in_proj_bias"
        ):  # a key's bias has no gradient but rounding, which Adam makes a whole step
            continue
        torch.testing.assert_close(shared[key], value, rtol=0, atol=2e-4, msg=lambda m, k=key: f"{k}: {m}")
