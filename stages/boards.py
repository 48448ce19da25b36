"""Run the rows of a board that are missing, several at a time, and record in dvc.lock what was made.

DVC runs one stage after the other. Here a row is trained by one thread, so that its numbers do not depend on what else
runs, and as many rows run at a time as there are cores. A second call runs what is still missing.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from stages.cli import stage_app
from stages.run import jobs_at_once, run_all, words_of
from vqpipe.runtime.signals import run_child
from vqpipe.runtime.terminal import say

GROUP = "row@"
INPUTS = ("--dataset", "--clip", "--judges", "--codebook")
"""The options of a row's command that name what it reads, in the order in which the stage states them."""


def row_commands(folder: Path, patterns: list[str]) -> dict[str, list[str]]:
    """The commands of a board's rows by run name, those whose name matches one of the patterns.

    Raises:
        ParamsError: a folder that is not a board's, or a pattern that matches no run.
    """
    from stages.dvcfile import read_stages
    from vqpipe.errors import ParamsError

    if not (folder / "dvc.yaml").is_file() or not (folder / "params.yaml").is_file():
        boards = sorted(file.parent.as_posix() for file in Path("boards").glob("*/dvc.yaml"))
        raise ParamsError(
            f"{folder} is not the folder of a board", expected="a folder with dvc.yaml and params.yaml",
            choices=boards or None,
        )  # fmt: skip
    stages = {name: stage for name, stage in read_stages(folder).items() if name.startswith(GROUP)}
    commands = {name.removeprefix(GROUP): words_of(stage.cmd) for name, stage in stages.items()}
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in commands):
            raise ParamsError(f"no run of {folder} matches {pattern}", choices=list(commands))
    return {
        name: cmd for name, cmd in commands.items() if not patterns or any(fnmatch(name, p) for p in patterns)
    }


def options_of(command: list[str]) -> dict[str, str]:
    """The values of a row's command by option: every option has one."""
    return dict(zip(command[3::2], command[4::2], strict=True))


def module_of(command: list[str]) -> str:
    """The module of `stages` that makes a row: `row`, or `generation`."""
    return command[2].removeprefix("stages.")


def missing_rows(folder: Path, commands: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rows without metrics, or whose metrics were made with other params or inputs than the command names.

    Raises:
        ArtifactError: an input that is not there.
        ParamsError: params that are not valid, so that no row fails after an hour.
    """
    from vqpipe.boards.board import load_board
    from vqpipe.boards.generation import GenerationBoard
    from vqpipe.boards.recipe import given, recipe
    from vqpipe.errors import ArtifactError
    from vqpipe.report.inputs import read_json

    board, recipe_of = load_board(folder / "params.yaml", GenerationBoard), cache(recipe)
    missing = {}
    for name, command in commands.items():
        options = options_of(command)
        row, seed, metrics = options["--row"], int(options["--seed"]), Path(options["--metrics"])
        board.tokenizer(row, seed)
        board.tasks_of(row, seed)
        board.priors_of(row, seed)
        inputs = [Path(options[key]) for key in INPUTS if key in options]
        for path in inputs:
            if not path.exists():
                raise ArtifactError(f"row {name}: input {path} does not exist", run=_maker(path, folder))
        made_from = given(module_of(command), board.identity(row, seed), inputs, recipe_of)
        if not metrics.is_file() or read_json(metrics).get("given") != made_from:
            missing[name] = command
    return missing


def _maker(path: Path, folder: Path) -> str | None:
    """The command that makes an input of a board's rows, by the main pipeline or by the board next to it that does."""
    from stages.dvcfile import read_stages

    for place in (Path(), *sorted(file.parent for file in folder.parent.glob("*/dvc.yaml"))):
        for name, stage in read_stages(place).items():
            if path.as_posix() in stage.outs:
                return (
                    f"dvc repro {name}"
                    if place == Path()
                    else f"dvc repro {place.as_posix()}/dvc.yaml:{name}"
                )
    return None


def rows_of_other_code(folder: Path, commands: dict[str, list[str]]) -> dict[str, str]:
    """The digest of the code that made a row, for each row with metrics that other code made than that of the tree.

    A row's code is what its stage imports, without the plug-ins that the row does not name.
    """
    from vqpipe.boards.board import load_board
    from vqpipe.boards.generation import GenerationBoard
    from vqpipe.report.inputs import read_json
    from vqpipe.runtime.code import Code, words_in

    board, code, found = load_board(folder / "params.yaml", GenerationBoard), Code(), {}
    for name, command in commands.items():
        options = options_of(command)
        metrics = Path(options["--metrics"])
        if not metrics.is_file():
            continue
        kinds = words_in(board.identity(options["--row"], int(options["--seed"])))
        if (made_by := str(read_json(metrics).get("code"))) != code.digest(module_of(command), kinds):
            found[name] = made_by
    code.keep()
    return found


def record(folder: Path, names: list[str], every: bool) -> None:
    """Record in the board's dvc.lock that the tree's code made these rows; without DVC, report how to do so later.

    `every`: they are all the rows, which DVC takes as one target.
    """
    file = f"{folder.as_posix()}/dvc.yaml"
    targets = [f"{file}:{GROUP.rstrip('@')}"] if every else [f"{file}:{GROUP}{name}" for name in names]
    if not targets:
        return
    if find_spec("dvc") is None:
        say(f"DVC is not installed; record the rows later with: dvc commit -f {folder}/dvc.yaml", err=True)
        return
    for words in (["repro", "--quiet", "code"], ["commit", "--quiet", "--force", *targets]):
        if code := run_child([sys.executable, "-m", "dvc", *words]):
            raise typer.Exit(code)


def main(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Runs, such as vq-0 or '*-0'; all of them.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="The board's folder.")] = Path("boards/scenes"),
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Rows at a time; without it one per core, or one where there is a GPU."),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="List what is to be run; run nothing.")] = False,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="Also run again the rows that other code made.")
    ] = False,
) -> None:
    """Run the rows that are missing or whose params or inputs changed; count those that other code made.

    Example: python -m stages.boards '*-0' --jobs 2
    """
    from vqpipe.runtime.env import scratch_root

    commands = row_commands(folder, patterns or [])
    todo, other = missing_rows(folder, commands), rows_of_other_code(folder, commands)
    todo = {name: cmd for name, cmd in commands.items() if name in todo or (other_code and name in other)}
    kept = [name for name in other if name not in todo]
    say(f"{len(todo)} of {len(commands)} rows of {folder} are to be run", err=True)
    if kept:
        made = (
            f"{len(kept)} rows were made by other code ({', '.join(sorted({other[name] for name in kept}))})"
        )
        say(f"{made}; run them again with --other-code", err=True)
    if dry:
        say("\n".join(todo))
        return
    failed = run_all(todo, jobs or jobs_at_once(), scratch_root() / "logs" / "boards" / folder.resolve().name)
    done = [name for name in commands if name not in failed and name not in kept]
    record(folder, done, not patterns and len(done) == len(commands))
    if failed:
        say(f"{len(failed)} rows failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


app = stage_app(main)

if __name__ == "__main__":
    app()
