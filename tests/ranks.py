"""Two gloo ranks on this machine, each a process that runs a short program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
START = """
import sys
import torch.distributed as dist

rank = int(sys.argv[1])

def join():
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)

def average_gradients(module):
    for parameter in module.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2
"""


def torchrun(script: Path | str, *arguments: str) -> None:
    """Run a script, or `-m` and a module's name, in two processes under torchrun, as a user starts a stage.

    Raises:
        AssertionError: one of them failed; the message holds what they wrote.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "VQPIPE_DEVICE": "cpu"}
    done = subprocess.run(
        [*command, str(script), *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"


def run_two(program: str, tmp_path: Path) -> None:
    """Run the program in two processes, `rank` 0 and 1; from its call of `join()` on they are one group.

    Raises:
        AssertionError: one of them failed; the message holds what they wrote to standard error.
    """
    text = f"{START}{program}\ndist.destroy_process_group()\n"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", text, str(rank), str(tmp_path / "meet")],
            stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)
