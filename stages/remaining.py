"""The time left until all stages are up to date: seconds recorded in dvc.yaml, scaled by those measured here.

`meta: {seconds: …}` of a stage in dvc.yaml is what it took in the recorded run. Each stage that ran on this machine has
left its seconds in a cost sidecar next to its output. `stages.cli` starts this module in a process of its own when DVC
starts a stage: so it is in no stage's listing of code, and what goes wrong here leaves the stage alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.cli import stage_app
from vqpipe.errors import VqpipeError
from vqpipe.runtime.terminal import say

if TYPE_CHECKING:
    from stages.dvcfile import Stage


def main(
    name: Annotated[
        str | None,
        typer.Argument(help="The stage that begins; without it, list all stages with their seconds."),
    ] = None,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Print nothing of a stage that is not in dvc.yaml, as of a board's."),
    ] = False,
) -> None:
    """Print which stage of how many begins and about how long it is until all are up to date.

    Example: python -m stages.remaining tokenizer@lc
    """
    from stages.dvcfile import find_stage

    root = Path.cwd()
    if name is None:
        for stage in timed_stages(root).values():
            here = measured_seconds(stage, root)
            say(f"{stage.name}: recorded {_exact(stage.seconds)}, here {_exact(here)}")
        return
    with suppress(VqpipeError) if quiet else nullcontext():  # the stage itself says what is wrong
        stages = timed_stages(root)
        find_stage(stages, name)
        old = outdated_stages(stages, root) | {name}
        left, done = ([other for other in stages if (other in old) == wanted] for wanted in (True, False))
        say(f"{progress(stages, left, done, root)}: {name}", err=True)


def timed_stages(root: Path) -> dict[str, Stage]:
    """The stages of dvc.yaml by name, without `code`, which runs first and takes half a second."""
    from stages.dvcfile import read_stages
    from stages.lock import LISTINGS

    return {name: stage for name, stage in read_stages(root).items() if LISTINGS.as_posix() not in stage.outs}


def progress(stages: dict[str, Stage], left: Sequence[str], done: Sequence[str], root: Path) -> str:
    """Such as `stage 7 of 28, about 14 min left`; see `shown_time_left`."""
    return f"stage {len(done) + 1} of {len(done) + len(left)}{shown_time_left(stages, left, done, root)}"


def shown_time_left(
    stages: dict[str, Stage], left: Sequence[str], done: Sequence[str], root: Path, jobs: int = 1
) -> str:
    """Such as `, about 14 min left`, as far as the time is recorded; empty where none is.

    Args:
        left: the stages that are still to run, the one that begins among them.
        done: those whose costs on this machine scale the recorded seconds.
        jobs: stages that run at once.
    """
    known = [seconds for name in left if (seconds := stages[name].seconds) is not None]
    if not known:
        return ""
    took, recorded = 0.0, 0.0
    for name in done:
        seconds, here = stages[name].seconds, measured_seconds(stages[name], root)
        if seconds is not None and here is not None:
            took, recorded = took + here, recorded + seconds
    text = f", about {_shown(sum(known) / jobs * (took / recorded if recorded else 1.0))} left"
    if recorded:
        text += f" (the recorded run's, times {took / recorded:.2g} for the stages done)"
    if len(known) < len(left):
        text += f", and {len(left) - len(known)} of unknown length"
    return text


def measured_seconds(stage: Stage, root: Path) -> float | None:
    """What the stage took when it last ran on this machine, from a cost sidecar; None where there is none."""
    from vqpipe.artifacts.lineage import COST

    for out in stage.outs:
        try:
            return float(json.loads((root / f"{out}{COST}").read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


SMALL = 4 << 20
"""Bytes of the largest file whose content is compared."""


def outdated_stages(
    stages: dict[str, Stage], root: Path, ran: Collection[str] = (), entries: dict[str, Any] | None = None
) -> set[str]:
    """The stages that DVC would run, by dvc.lock, params.yaml, the listings of code, and which outputs are there.

    A stage after an outdated one counts, although DVC skips it where the new output equals the old one: ask again when
    that one has run. Outputs that are a small file are compared, since git can put back other metrics and curves. Raw
    data and the content of larger outputs are not: that would take as long as `dvc status`.

    Args:
        ran: stages that ran and were recorded since an earlier call. Of what reads a part of their output counts all.
        entries: dvc.lock's stages, where they have been read.

    Raises:
        ParamsError: dvc.lock or params.yaml cannot be read.
    """
    from stages.dvcfile import makers_of

    entries, inputs = recorded_stages(root) if entries is None else entries, makers_of(stages)
    known = dict.fromkeys(differing_stages(stages, root, entries), True)

    def is_outdated(name: str) -> bool:
        if name not in known:
            entry = entries[name]
            known[name] = any(
                is_outdated(maker)
                or (_recorded(entry, dep) != _recorded(entries[maker], dep) if out == dep else maker in ran)
                for maker, out, dep in inputs[name]
            )
        return known[name]

    return {name for name in stages if is_outdated(name)}


def differing_stages(stages: dict[str, Stage], root: Path, entries: dict[str, Any]) -> set[str]:
    """The stages that DVC would run even if all that other stages make came out equal; see `outdated_stages`."""
    from vqpipe.params.base import read_yaml

    context = read_yaml(root / "params.yaml")
    return {
        name
        for name, stage in stages.items()
        if name not in entries or _differs(stage, entries[name], context, root)
    }


def recorded_stages(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock, where there is one."""
    from vqpipe.params.base import read_yaml
    from vqpipe.params.bounded_yaml import GENERATED

    lock = root / "dvc.lock"
    return read_yaml(lock, GENERATED).get("stages", {}) if lock.is_file() else {}


def _differs(stage: Stage, entry: dict[str, Any], context: dict[str, Any], root: Path) -> bool:
    """Whether a stage's command, params or code are not those that dvc.lock has, or an output is not there."""
    from stages.lock import LISTINGS, changed_params, md5

    listings = [path for path in stage.deps if Path(path).parent == LISTINGS]
    return (
        entry["cmd"].split() != stage.cmd.split()
        or bool(changed_params(stage, entry, context, root))
        or any(not (root / path).is_file() or md5(root / path) != _recorded(entry, path) for path in listings)
        or any(not (root / out).exists() or _changed(root / out, _recorded(entry, out)) for out in stage.outs)
    )


def _changed(path: Path, recorded: str | None) -> bool:
    """Whether an output is a small file with another content than dvc.lock has."""
    from stages.lock import md5

    return path.is_file() and path.stat().st_size <= SMALL and md5(path) != recorded


def _recorded(entry: dict[str, Any] | None, path: str) -> str | None:
    """The hash that dvc.lock has of a path in a stage's entry; None where it has none."""
    items = [*entry.get("deps", []), *entry.get("outs", [])] if entry else []
    return next((item.get("md5") for item in items if item["path"] == path), None)


def _exact(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.0f} s"


def _shown(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


app = stage_app(main)

if __name__ == "__main__":
    app()
