"""Solves every task of the table for a few steps as a rank under torchrun, and writes the metrics.

    torchrun --nproc-per-node 2 tests/train_task_ranks.py DATA FOLDER

DATA is what `tests.small_answers.write_all` wrote; the metrics go to FOLDER/KIND.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.properties.test_every_task import CASES, make, solved
from vqpipe.runtime.distributed import is_main, process_group
from vqpipe.tasks import TASKS


def solve_all(data: Path, folder: Path) -> None:
    for kind in (kind for kind in TASKS if CASES[kind].by_ranks):
        found = solved(make(kind, data, folder / f"{kind}-two", training={"num_steps": 12}), data)
        if is_main():
            (folder / f"{kind}.json").write_text(json.dumps(found.metrics.plain()), encoding="utf-8")


if __name__ == "__main__":
    with process_group():
        solve_all(Path(sys.argv[1]), Path(sys.argv[2]))
