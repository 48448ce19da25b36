"""Run stages of dvc.yaml by their commands: those named, in order, or all that are outdated, several at once.

DVC runs one stage at a time. Two stages of one thread each take little more than half the time of one after the other
with two threads, since small networks keep no second thread busy.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.cli import stage_app
from vqpipe.runtime.env import workers
from vqpipe.runtime.forks import Forks, may_use_gpu
from vqpipe.runtime.signals import end_children, run_child
from vqpipe.runtime.terminal import say

if TYPE_CHECKING:
    from stages.dvcfile import Stage


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Stages, such as graph or tokenizer@lc.")] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the stages and their commands; run nothing.")
    ] = False,
    outdated: Annotated[
        bool,
        typer.Option(
            "--outdated", help="All stages that are not up to date, several at once; DVC records each."
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --outdated: stages at once. By default one per core; one where there is a GPU."
        ),
    ] = None,
) -> None:
    """Run stages by their commands in dvc.yaml: those named, in the order given, or all that are outdated.

    Stages that were named are recorded by `dvc commit` afterwards. With more than one at once each has one thread.

    Example: python -m stages.run clip patches cluster tokenizer@lc
    """
    from stages.dvcfile import find_stage, read_stages
    from stages.remaining import progress
    from vqpipe.errors import ParamsError

    stages = read_stages(Path.cwd())
    if show:
        for stage in stages.values():
            say(f"{stage.name}\n    {stage.cmd}")
        return
    if outdated == bool(names):
        found = "both" if outdated else "no stage was named"
        raise ParamsError(
            f"stages are run by name or with --outdated; {found}", choices=list(stages),
            run="python -m stages.run --list",
        )  # fmt: skip
    if outdated:
        run_outdated(jobs)
        return
    if jobs is not None:
        again = f"python -m stages.run --outdated --jobs {jobs}"
        raise ParamsError("stages that are named run one by one", found=f"--jobs {jobs}", run=again)
    plan = [find_stage(stages, name).name for name in names or []]
    with closing(Forks(os.environ, len(plan) > 1)) as forks:
        for number, stage in enumerate(stages[name] for name in plan):
            left = progress(stages, plan[number:], plan[:number], Path.cwd())
            say(f"{left}: {stage.name}: {stage.cmd}", err=True)
            if code := forks.run(words_of(stage.cmd)):
                raise typer.Exit(code)


def run_outdated(jobs: int | None = None) -> None:
    """Run the stages of the current folder's dvc.yaml that are not up to date; DVC records each as it ends.

    Raises:
        Exit: stages failed. Those that need none of them are run all the same.
    """
    from stages.dvcfile import makers_of
    from stages.remaining import (
        differing_stages,
        outdated_stages,
        recorded_stages,
        shown_time_left,
        timed_stages,
    )
    from vqpipe.errors import SetupError
    from vqpipe.runtime.env import scratch_root

    if find_spec("dvc") is None:
        raise SetupError("DVC, which records what ran, is not installed", run="pip install dvc")
    if code := _dvc("repro", "code"):
        raise typer.Exit(code)
    root, jobs = Path.cwd(), jobs or jobs_at_once()
    stages = timed_stages(root)
    entries = recorded_stages(root)
    old = outdated_stages(stages, root, entries=entries)
    certain = differing_stages(stages, root, entries)
    done = [name for name in stages if name not in old]
    needs = {name: {maker for maker, _, _ in inputs} & old for name, inputs in makers_of(stages).items()}
    ran: list[str] = []

    def begin(name: str) -> bool:
        if name in certain or name in outdated_stages(stages, root, ran):
            return True
        done.append(name)
        return False

    def finish(name: str) -> str | None:
        # A bare name could be an output of any dvc.yaml: DVC would read those of all boards.
        if _dvc("commit", "--force", f"dvc.yaml:{name}"):
            return None
        done.append(name)
        ran.append(name)
        return shown_time_left(stages, [other for other in stages if other not in done], done, root, jobs)

    order = sorted(old, key=_seconds_to_the_end(stages, needs).__getitem__, reverse=True)
    commands = {name: words_of(stages[name].cmd) for name in order}
    failed = run_all(commands, jobs, scratch_root() / "logs" / "stages", needs, begin, finish, fork=True)
    if failed:
        say(f"{len(failed)} of {len(old)} stages failed or need one that did: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def run_all(
    commands: Mapping[str, list[str]], jobs: int, logs: Path, needs: Mapping[str, set[str]] | None = None,
    begin: Callable[[str], bool] | None = None, finish: Callable[[str], str | None] | None = None, fork: bool = False,
) -> list[str]:  # fmt: skip
    """Run commands, `jobs` at a time with one thread each where they are several; their output goes to `logs`.

    Args:
        commands: words by name; of those that can begin the first does.
        needs: the names that must have ended well before a command begins.
        begin: called with a name when all that it needs has ended; False leaves it out, as one that ended well.
        finish: called with a name when its command has ended well, for what the line about it says of the time left;
            None is a failure.
        fork: whether they are forks, where that is possible and they are several; not those whose memory is compared.

    Returns:
        The names of those that failed or that need one that failed. The others are run all the same.
    """
    logs.mkdir(parents=True, exist_ok=True)
    needs, waiting, failed = needs or {}, list(commands), list[str]()
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    ended: dict[str, tuple[int, float]] = {}
    started, done = time.monotonic(), 0
    env = os.environ | ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if jobs > 1 else {})
    forks = Forks(env, fork and len(commands) > 1)
    try:
        while waiting or running or ended:
            for name, (process, since) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    ended[name] = process.returncode, time.monotonic() - since
            for name in list(waiting):
                if needs.get(name, set()) & set(failed):
                    waiting.remove(name)
                    failed.append(name)
                elif len(running) < jobs and not needs.get(name, set()) & {*waiting, *running, *ended}:
                    waiting.remove(name)
                    if begin is not None and not begin(name):
                        done += 1
                        say(f"{done}/{len(commands)} {name}: up to date, its inputs came out equal", err=True)
                        continue
                    running[name] = forks.start(commands[name], logs / f"{name}.log"), time.monotonic()
            if not ended:
                time.sleep(0.2)
                continue
            name, (code, seconds) = next(iter(ended.items()))
            done += 1
            took = f"{done}/{len(commands)} {name}: {seconds:.0f} s"
            left = (time.monotonic() - started) / done * (len(waiting) + len(running)) / 60
            after: str | None = f"; about {left:.0f} minutes left"
            if not code and finish is not None:
                after = finish(name)  # while those that have begun are running
            del ended[name]
            if code or after is None:
                failed.append(name)
                after = f"; failed: {(logs / f'{name}.log').read_text(errors='replace').strip()[-400:]}"
            say(took + after, err=True)
    finally:
        end_children([process for process, _ in running.values()])
        forks.close()
    return failed


def jobs_at_once() -> int:
    """How many stages or rows run at once where nobody says: one per core, or one where they would share a GPU."""
    return 1 if may_use_gpu() else workers()


def words_of(command: str) -> list[str]:
    """The words of a stage's command, with this Python."""
    words = shlex.split(command)
    return [sys.executable if words[0] == "python" else words[0], *words[1:]]


def _dvc(*words: str) -> int:
    return run_child([sys.executable, "-m", "dvc", words[0], "--quiet", *words[1:]])


def _seconds_to_the_end(stages: Mapping[str, Stage], needs: Mapping[str, set[str]]) -> dict[str, float]:
    """Of each stage, the seconds of the longest chain of stages that begins with it; 1 for a stage without seconds."""
    chains: dict[str, float] = {}

    def chain(name: str) -> float:
        if name not in chains:
            after = [chain(other) for other, makers in needs.items() if name in makers]
            chains[name] = (stages[name].seconds or 1.0) + max(after, default=0.0)
        return chains[name]

    return {name: chain(name) for name in stages}


app = stage_app(main)

if __name__ == "__main__":
    app()
