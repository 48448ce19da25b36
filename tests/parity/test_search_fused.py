"""The fused kernel of the search, interpreted on the CPU, gives the naive form's answers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux alone")
def test_the_fused_search_equals_the_naive_form() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fused_search"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compared"] == 52
    assert found["different"] == []
    assert found["not_finite"] == [0, 0]
    ordinary, doubled = found["settled"]
    assert ordinary > 0.98  # else the kernel settles nothing, and the tiled search did the work
    assert doubled == 0.0  # equal costs are never settled by rounded scores
