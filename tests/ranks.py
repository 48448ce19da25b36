"""Gloo ranks on this machine, each a process that runs a script, a module or a short program."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
START = """
import os
import sys
import torch.distributed as dist

rank = int(os.environ["TEST_RANK"])

def join():
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)

def average_gradients(module):
    for parameter in module.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2
"""


def run_ranks(script: Path | str, *arguments: str, count: int = 2) -> None:
    """Run a script, or `-m` and a module's name, in processes with the environment that torchrun gives them.

    Under torchrun itself, which is one more process that imports torch, `tests/stages/test_patches.py` has a stage.

    Raises:
        AssertionError: one of them failed; the message holds what they wrote to standard error.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "VQPIPE_DEVICE": "cpu", **address}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]
    _run([str(script), *arguments], [env | place for place in places], Path.cwd())


def run_two(program: str, tmp_path: Path) -> None:
    """Run the program in two processes, `rank` 0 and 1; from its call of `join()` on they are one group.

    Raises:
        AssertionError: one of them failed; the message holds what they wrote to standard error.
    """
    text = f"{START}{program}\ndist.destroy_process_group()\n"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    _run(
        ["-c", text, str(tmp_path / "meet")], [env | {"TEST_RANK": str(rank)} for rank in range(2)], tmp_path
    )


def _free_port() -> int:
    """A port that nothing has open, below those that the system gives to connections of its own choice."""
    while True:
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port := random.SystemRandom().randrange(20_000, 32_000)))
            return port


def _run(words: list[str], environments: list[Mapping[str, str]], folder: Path) -> None:
    """Run Python with these words once for each environment, all at once."""
    ranks = [
        subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env, cwd=folder
        )
        for env in environments
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=300)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert not any(process.returncode for process in ranks), "\n".join(errors)
