"""What all stages share: one Typer app around one function, and exit code 2 with a message for a user's mistake."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqpipe.errors import VqpipeError, of_file_system
from vqpipe.runtime.signals import end_with_parent, stop_on_signals

if TYPE_CHECKING:
    from vqpipe.artifacts.places import Input
    from vqpipe.params.corpus import CorpusParams

Params = Annotated[Path, typer.Option(help="The params file.")]
DEFAULT_PARAMS = Path("params.yaml")
Corpus = Annotated[Path | None, typer.Option(help="The captions; without it where corpus.path says.")]


def stage_app(main: Callable[..., None]) -> typer.Typer:
    """A Typer app with `main` as its only command; its docstring is the help text."""

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> None:
        if "DVC_STAGE" in os.environ:  # DVC passes no signal on
            end_with_parent(os.getppid())
        try:
            with stop_on_signals():
                main(*args, **kwargs)
        except (VqpipeError, OSError) as error:
            told = of_file_system(error) if isinstance(error, OSError) else error
            if told is None:
                raise
            typer.echo(f"error: {told}", err=True)
            raise typer.Exit(2) from error

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(guarded)
    return app


def corpus_input(params: Path, corpus: Path | None) -> tuple[CorpusParams, Input]:
    """The section `corpus` of a params file, read from `corpus` where that is named; and it as a stage's input."""
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.params.base import load_params
    from vqpipe.params.corpus import CorpusParams

    stated: CorpusParams = load_params(params, "corpus", CorpusParams)  # type: ignore[arg-type]
    source = stated if corpus is None else stated.model_copy(update={"path": str(corpus)})
    path = Path(source.path)
    return source, (path, DATASET) if source.kind == "dataset" else path
