"""Shared by all stages: one Typer app around one function, and exit code 2 with a message for a user's mistake."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from vqpipe.errors import sentences
from vqpipe.runtime.env import is_main_process
from vqpipe.runtime.signals import end_with_parent, leave_at_once, start_child, stop_on_signals

Params = Annotated[Path, typer.Option(help="The params file.")]
DEFAULT_PARAMS = Path("params.yaml")
Mixed = Annotated[
    bool,
    typer.Option(
        "--mixed",
        help="Accept inputs that were not made from each other, such as a tokenizer of another data set.",
    ),
]

MEMORY = {
    "dataset": "dataset.source.resolution",
    "clip": "clip.fit.training.batch_size or clip.fit.vision.width",
    "vocabulary": "vocabulary.max_nouns or vocabulary.max_adjectives",
    "graph": "vocabulary.max_nouns",
    "patches": "patches.batch_size",
    "cluster": "cluster.num_clusters",
    "tokenizer": "tokenizer.common.training.batch_size, tokenizer.common.trunk.channels or num_codes",
    "tokens": "tokens.batch_size",
    "prior": "prior.common.training.batch_size or prior.common.gpt.model.width",
    "judges": "judges.training.batch_size or judges.batch_size",
    "evaluate": "evaluate.batch_size",
    "task": "task.common.batch_size or task.common.training.batch_size",
    "report": "report.max_picture_pixels",
}
"""The params that determine a stage's memory, for its message when there is too little."""


@contextmanager
def time_left() -> Iterator[None]:
    """Under DVC, `stages.remaining` prints meanwhile how long all stages will take."""
    if "DVC_STAGE" not in os.environ or not is_main_process():
        yield
        return
    env = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    shown = start_child(
        [sys.executable, "-m", "stages.remaining", "--quiet", os.environ["DVC_STAGE"]], env=env
    )
    try:
        yield
    finally:
        shown.wait()


def stage_app(main: Callable[..., None]) -> typer.Typer:
    """A Typer app with `main` as its only command; its doc string is the help text."""

    @functools.wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> None:
        if "DVC_STAGE" in os.environ:  # DVC passes no signal on
            end_with_parent(os.getppid())
        with time_left(), sentences(MEMORY.get(Path(main.__code__.co_filename).stem)), stop_on_signals():
            main(*args, **kwargs)
        if main.__module__ == "__main__":
            leave_at_once()

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(guarded)
    return app
