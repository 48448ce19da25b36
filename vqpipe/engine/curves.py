"""Training curves: CSV always; TensorBoard and DVCLive where `VQPIPE_TRACKERS` asks for them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vqpipe.artifacts.publish import publish_text
from vqpipe.errors import SetupError
from vqpipe.runtime.distributed import is_main
from vqpipe.runtime.env import scratch_root

TRACKERS = ("tensorboard", "dvclive")


def write_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Publish rows as CSV: column `step` first, the others in alphabetical order, six significant digits."""
    names = ["step", *sorted({name for row in rows for name in row} - {"step"})]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            [f"{row[n]:.6g}" if n in row and n != "step" else int(row[n]) if n in row else "" for n in names]
        )
    publish_text(path, text.getvalue())


class Trackers:
    """Live trackers under `$VQPIPE_SCRATCH/trackers/<title>`; none unless `VQPIPE_TRACKERS` names some.

    Raises:
        SetupError: an unknown tracker, or one whose package is not installed.
    """

    def __init__(self, title: str) -> None:
        wanted = (
            [name for name in os.environ.get("VQPIPE_TRACKERS", "").split(",") if name] if is_main() else []
        )
        unknown = [name for name in wanted if name not in TRACKERS]
        if unknown:
            raise SetupError("VQPIPE_TRACKERS names no tracker", found=", ".join(unknown), choices=TRACKERS)
        folder = scratch_root() / "trackers" / title.replace("/", "-")
        self._board: Any = None
        self._live: Any = None
        try:
            if "tensorboard" in wanted:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]
            if "dvclive" in wanted:
                from dvclive import Live  # type: ignore[attr-defined]

                self._live = Live(str(folder / "dvclive"), dvcyaml=None, save_dvc_exp=False)
        except ImportError as error:
            raise SetupError(
                f"a tracker's package is missing: {error.name}", run="pip install tensorboard dvclive"
            ) from error

    def log(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        for name, value in row.items():
            if name != "step" and self._board is not None:
                self._board.add_scalar(name, value, step)
            if name != "step" and self._live is not None:
                self._live.log_metric(name, value)
        if self._live is not None:
            self._live.step = step
            self._live.sync()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._board is not None:
            self._board.close()
        if self._live is not None:
            self._live.end()
