"""Training that is killed at any step ends with the same bytes as training that is not."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.pipeline.conftest import Checkout
from vqpipe.artifacts.publish import tree_digest

pytestmark = [pytest.mark.pipeline, pytest.mark.xdist_group("pipeline")]


@pytest.mark.parametrize("variant", ["vq", "lc"])
def test_sigkill_at_a_random_step_changes_no_byte(pico: Checkout, variant: str) -> None:
    out = pico.folder / "artifacts/tokenizer" / variant
    curve = pico.folder / f"artifacts/curves/tokenizer/{variant}.csv"
    whole, whole_curve = tree_digest(out), curve.read_bytes()
    env = os.environ | {"PYTHONPATH": str(pico.folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.run", f"tokenizer@{variant}"]
    kills = 0
    wanted = random.randrange(2, 5)
    while kills < 2:
        run = subprocess.Popen(command, cwd=pico.folder, env=env, start_new_session=True)
        seen: set[int] = set()
        while run.poll() is None and len(seen) < wanted:
            for path in (pico.folder / ".scratch/tokenizer").glob("*/checkpoint.safetensors"):
                seen.add(path.stat().st_mtime_ns)
            time.sleep(0.005)
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        kills += 1
        assert tree_digest(out) == whole, "a killed run leaves the published tokenizer as it was"
    assert kills > 0, "the run ended before it could be killed"
    assert list((pico.folder / ".scratch/tokenizer").glob("*/checkpoint.safetensors")), (
        "the checkpoint is kept"
    )
    pico.run("stages.run", f"tokenizer@{variant}")
    assert tree_digest(out) == whole
    assert curve.read_bytes() == whole_curve
