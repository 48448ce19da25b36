"""Sampling and the loss of a preset's GPT on a CPU, compared with another commit: python -m tests.bench.sampling

Runs this file once more for each measurement, in turn with this checkout's code and with that of `--against` (in a
temporary `git worktree`), and prints the medians and the median ratio. CPU time and not the clock's, so that other
work on the machine moves it less. Also whether both draw the same codes.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).parents[2]
CASES = {
    "sample 8 x 8": (8, 250), "sample 16 x 16": (16, 125), "train 8 x 8": (8, 32), "train 16 x 16": (16, 8),
    "bits 16 x 16": (16, 32),
}  # fmt: skip
"""Side of the grid, and images: drawn at random, in a step's forward and backward pass, in a likelihood."""


def measure(case: str, batch: int | None) -> dict[str, Any]:
    """CPU seconds of a case with the code on the path, and a digest of what it gave."""
    import torch

    from vqpipe.cli.presets import load_preset
    from vqpipe.params.base import validate
    from vqpipe.priors import PRIORS
    from vqpipe.priors.contract import Condition, ImageSpace
    from vqpipe.priors.gpt import GPT, GPTParams

    torch.set_num_threads(1)
    section = load_preset("scenes")["prior"]
    entry = PRIORS.entry("prior.pairs", section["common"], section["pairs"]["lc-gpt"])
    if batch is not None and "batch" in entry["sampling"]:
        entry["sampling"]["batch"] = batch
    config = validate(entry, "prior", GPTParams)
    side, count = CASES[case]
    torch.manual_seed(0)
    model = GPT(config, ImageSpace((1024,), (side, side), tuple(map(str, range(10)))))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    labels = Condition(labels=torch.arange(count) % 10)
    tokens = torch.randint(1024, (count, 1, side, side))

    def sample() -> Any:
        return model.eval().sample(labels, count, config.sampling, torch.Generator().manual_seed(0))

    def train() -> Any:
        torch.manual_seed(0)
        model.train().zero_grad()
        loss = model.loss(tokens, labels)
        loss.backward()
        return torch.cat([loss.detach()[None], *(p.grad.flatten() for p in model.parameters())])

    def bits() -> Any:
        with torch.no_grad():
            return model.eval().log_likelihood(tokens, labels)

    work: Callable[[], Any] = {"sample": sample, "train": train, "bits": bits}[case.split()[0]]
    times = []
    for _ in range(2 if case.startswith("sample") else 6):
        start = time.process_time()
        given = work()
        times.append(time.process_time() - start)
    return {"seconds": min(times[1:]), "digest": hashlib.sha256(given.numpy().tobytes()).hexdigest()}


def _measured(tree: Path, case: str, batch: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", case, *(["--batch", str(batch)] if batch else [])]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tree, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(
    against: Annotated[str, typer.Option(help="The commit to compare with.")] = "37aadb0",
    rounds: Annotated[int, typer.Option(help="Measurements of each.")] = 3,
    batch: Annotated[int | None, typer.Option(help="`sampling.batch`; the preset's without it.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Cases; all without it.")] = None,
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure and print a table."""
    if one is not None:
        print(json.dumps(measure(one, batch)))
        return
    print(f"{'case':16} {'now':>9} {'before':>9} {'before / now':>13}   result")
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "before"
        subprocess.run(
            ["git", "worktree", "add", "--detach", "--quiet", other, against], cwd=ROOT, check=True
        )
        try:
            for case in only or CASES:
                pairs = [[_measured(tree, case, batch) for tree in (ROOT, other)] for _ in range(rounds)]
                now, before = ([pair[at]["seconds"] for pair in pairs] for at in (0, 1))
                ratio = statistics.median(old / new for new, old in zip(now, before, strict=True))
                same = all(new["digest"] == old["digest"] for new, old in pairs)
                print(
                    f"{case:16} {statistics.median(now):7.3f} s {statistics.median(before):7.3f} s {ratio:12.2f}x   "
                    f"{'equal bit for bit' if same else 'not equal'}",
                    flush=True,
                )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", other], cwd=ROOT, check=True)


if __name__ == "__main__":
    typer.run(main)
