"""Check dvc.lock against the tree: were the committed metrics made by this code with these params?

`dvc status` cannot say so in a clone without data. This looks only at what git holds: every stage's command, params,
code and raw deps, and the metrics and curves that are kept in git.
"""

import typer

from stages.cli import stage_app
from vqpipe.runtime.terminal import say


def main() -> None:
    """Say which stages of dvc.lock were made by other code or params than those of the tree.

    Example: python -m stages.lock
    """
    from pathlib import Path

    from stages.dvcfile import read_stages, stale

    root = Path.cwd()
    problems = {name: reasons for name, stage in read_stages(root).items() if (reasons := stale(stage, root))}
    for name, reasons in problems.items():
        say(f"{name}: {'; '.join(reasons)}")
    if problems:
        say(
            f"{len(problems)} stages of dvc.lock are not of this tree\n  run:      dvc repro, and commit dvc.lock"
        )
        raise typer.Exit(1)
    say("dvc.lock is of this tree")


app = stage_app(main)

if __name__ == "__main__":
    app()
