"""Run stages by their commands in dvc.yaml where DVC is not installed; `dvc commit` records the results afterwards."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from stages.cli import stage_app
from vqpipe.runtime.signals import run_child
from vqpipe.runtime.terminal import say


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Stages, such as graph or tokenizer@lc.")] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the stages and their commands; run nothing.")
    ] = False,
) -> None:
    """Run stages by their commands in dvc.yaml, in the order given, without DVC.

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
    if not names:
        raise ParamsError("no stage was named", choices=list(stages), run="python -m stages.run --list")
    plan = [find_stage(stages, name).name for name in names]
    for number, stage in enumerate(stages[name] for name in plan):
        say(
            f"{progress(stages, plan[number:], plan[:number], Path.cwd())}: {stage.name}: {stage.cmd}",
            err=True,
        )
        words = shlex.split(stage.cmd)
        code = run_child([sys.executable if words[0] == "python" else words[0], *words[1:]])
        if code:
            raise typer.Exit(code)


app = stage_app(main)

if __name__ == "__main__":
    app()
