"""What all stages share: one Typer app around one function, and exit code 2 with a message for a user's mistake."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vqpipe.errors import VqpipeError

Params = Annotated[Path, typer.Option(help="The params file.")]
DEFAULT_PARAMS = Path("params.yaml")


def stage_app(main: Callable[..., None]) -> typer.Typer:
    """A Typer app with `main` as its only command; its docstring is the help text."""

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except VqpipeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(guarded)
    return app
