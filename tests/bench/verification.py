"""What comparing content with checksums costs: its share of each stage of preset pico, and its speed on one large file.

    python -m tests.bench.verification

Each stage runs once, in a process of its own with one worker, in which the functions of `TIMED` are wrapped. A share is
the time in them over the time of that very run, from the first import of vqpipe to the end.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMED = {
    "vqpipe.artifacts.seal": ("check_seal", "read_sealed_json", "seal_file"),
    "vqpipe.artifacts.publish": ("read_manifest", "tree_digest"),
    "vqpipe.artifacts.intact": ("need_intact",),
}
"""In the order of their imports: who imports a name from these modules gets the wrapped one."""
GOAL = 0.03
LARGE = 1 << 29


class Clock:
    """Seconds in wrapped functions, of all threads; a call inside another one counts once."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._inside = threading.local()
        self._lock = threading.Lock()

    def wrapped(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            if getattr(self._inside, "now", False):
                return work(*given, **named)
            self._inside.now, start = True, time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                self._inside.now = False
                with self._lock:
                    self.seconds += time.perf_counter() - start
                    self.calls += 1

        return timed


def run_timed(module: str, arguments: list[str], out: Path) -> None:
    """Run a stage's module in this process and write what checksums cost it."""
    start, clock = time.perf_counter(), Clock()
    for name, functions in TIMED.items():
        assert name not in sys.modules, "who has imported it holds the functions as they are"
        loaded = importlib.import_module(name)
        for function in functions:
            setattr(loaded, function, clock.wrapped(getattr(loaded, function)))
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        spent = {"seconds": time.perf_counter() - start, "checks": clock.seconds, "calls": clock.calls}
        out.write_text(json.dumps(spent))


def shares() -> None:
    from stages.dvcfile import read_stages
    from vqpipe.cli.presets import preset_text

    print(f"{'stage':22s} {'seconds':>8s} {'checks, ms':>11s} {'calls':>6s} {'share':>8s}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(preset_text("pico", []))
        shutil.copy(ROOT / "dvc.yaml", folder)
        shutil.copytree(ROOT / "artifacts/prior/none", folder / "artifacts/prior/none")
        own = {"PYTHONPATH": str(ROOT), "VQPIPE_WORKERS": "1", "VQPIPE_SCRATCH": str(folder / "scratch")}
        total = {"seconds": 0.0, "checks": 0.0, "calls": 0}
        for stage in read_stages(folder).values():
            _, _, module, *arguments = shlex.split(stage.cmd)
            command = [sys.executable, "-m", "tests.bench.verification", str(folder / "spent.json"), module]
            subprocess.run(
                [*command, *arguments],
                cwd=folder,
                env={**os.environ, **own},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            spent = json.loads((folder / "spent.json").read_text())
            show(stage.name, spent)
            total = {key: total[key] + spent[key] for key in total}
        show("all", total)
    print(f"goal: a share of at most {GOAL:.0%} of each stage")


def show(name: str, spent: dict[str, float]) -> None:
    share = spent["checks"] / spent["seconds"]
    print(
        f"{name:22s} {spent['seconds']:8.2f} {1000 * spent['checks']:11.1f} {spent['calls']:6.0f} {share:8.2%}"
        f"{'' if share <= GOAL else '   over the goal'}",
        flush=True,
    )


def speed() -> None:
    """One large file, in the system's cache: reading it, and comparing it with a checksum."""
    from vqpipe.artifacts.publish import file_digest

    block = os.urandom(1 << 20)
    with tempfile.NamedTemporaryFile() as stream:
        for _ in range(LARGE >> 20):
            stream.write(block)
        stream.flush()
        path = Path(stream.name)
        seconds = {}
        for what, work in (("read", path.read_bytes), ("SHA-256", lambda: file_digest(path))):
            start = time.perf_counter()
            work()
            seconds[what] = time.perf_counter() - start
            print(f"{what:22s} {LARGE / seconds[what] / 1e9:8.2f} GB/s")
        print(f"{'SHA-256 / read':22s} {seconds['SHA-256'] / seconds['read']:8.2f} times the time")


def main() -> None:
    shares()
    speed()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run_timed(sys.argv[2], sys.argv[3:], Path(sys.argv[1]))
    else:
        main()
