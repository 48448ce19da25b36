"""`vqpipe ask`: what a solved task says of images: a class, a caption, the answer to a question, a box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqpipe.runtime.terminal import say


def ask(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images of any size; each is cut to a square.")
    ],
    task: Annotated[
        str, typer.Option(metavar="PATH", help="The task: a folder, or a name below artifacts/task.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="A question or an expression in quotes, where the task takes one; repeat it for several."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Its tokenizer: a folder, a name below artifacts/tokenizer, or owner/name on the Hub; without "
            "it where the task says.",
        ),
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="The run's CLIP; without it where the task says.")] = None,
) -> None:
    """Print what a task's head says of images, a line for each: class, caption, answer, or a box in percent of the
    square that is cut out of the middle of the image.

    Example: vqpipe ask photo.jpg --task lc-vqa --text "what color is the car?"
    """
    from vqpipe.cli.priors import read_picture
    from vqpipe.library.tasks import ImageTask
    from vqpipe.runtime.device import device

    pictures = [read_picture(path) for path in images]
    loaded = ImageTask.from_pretrained(task, device(), tokenizer=tokenizer, clip=clip)
    texts = text or None
    for path, picture in zip(images, pictures, strict=True):
        for asked, found in zip(texts or [""], loaded.answer(picture, texts), strict=True):
            say(f"{path}: {asked}{'' if not asked else ' ' if asked.endswith('?') else ': '}{found}")
