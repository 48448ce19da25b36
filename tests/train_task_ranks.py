"""Solves every task of the table for a few steps as a rank, and one by its stage.

    torchrun --nproc-per-node 2 tests/train_task_ranks.py DATA FOLDER

DATA is what `tests.small_answers.write_all` wrote. Head and metrics of rank r go to FOLDER/NAME-r.safetensors and
FOLDER/NAME-r.json; FOLDER/stage is what the stage wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from stages.task import main
from tests.properties.test_every_task import entry_of, make, rank_runs, solved
from vqpipe.runtime.distributed import barrier, is_main, process_group, rank


def solve_all(data: Path, folder: Path) -> None:
    for name, changes in rank_runs().items():
        found = solved(make(name.removesuffix("-own"), data, folder / f"{name}-two", **changes), data)
        state = {key: value.contiguous() for key, value in found.head.network.state_dict().items()}
        save_file(state, folder / f"{name}-{rank()}.safetensors")
        metrics = json.dumps(found.metrics.plain(), allow_nan=False)
        (folder / f"{name}-{rank()}.json").write_text(metrics, encoding="utf-8")


def run_stage(data: Path, folder: Path) -> None:
    params = {"task": {"common": {}, "pairs": {"one": entry_of("masked_words", training={"num_steps": 12})}}}
    if is_main():
        (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    barrier()
    own = folder / "stage"
    main("one", data / "vq", own / "out", own / "m.json", own / "c.csv", data / "dataset", data / "clip",
         folder / "params.yaml")  # fmt: skip


if __name__ == "__main__":
    with process_group():
        solve_all(Path(sys.argv[1]), Path(sys.argv[2]))
        run_stage(Path(sys.argv[1]), Path(sys.argv[2]))
