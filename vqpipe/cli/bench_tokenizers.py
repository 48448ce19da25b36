"""`vqpipe bench-tokenizers`: several tokenizers on the same images, in one table."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vqpipe.cli.tokenizers import TOKENIZER_HELP
from vqpipe.errors import ParamsError
from vqpipe.library.choices import FeaturesChoice, PerceptualChoice
from vqpipe.runtime.terminal import say

FILE_WIDTH = 160
"""Characters of a line where the output is no terminal."""


def bench_tokenizers(
    images: Annotated[Path, typer.Argument(metavar="IMAGE_DIR", help="A folder of images, at any depth.")],
    tokenizer: Annotated[
        list[str],
        typer.Option(metavar="PATH", help=f"{TOKENIZER_HELP}; repeat it for several."),
    ],
    clip: Annotated[
        Path | None,
        typer.Option(help="The CLIP whose features are compared; gives fd_clip and clip_distance."),
    ] = None,
    features: Annotated[
        FeaturesChoice | None,
        typer.Option(
            help="Of the distances between sets: with inception FID and KID. By default the CLIP's."
        ),
    ] = None,
    perceptual: Annotated[
        PerceptualChoice | None, typer.Option(help="The distance of each image. By default the CLIP's.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side in pixels at which all encode; their own without it, where they agree."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once, also for the times.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes; the median counts.")] = 5,
    damage: Annotated[
        bool,
        typer.Option(help="Damage to text and faces, where rapidocr and facenet-pytorch are installed."),
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="A file to write as well: .json for all numbers, .md for the table.")
    ] = None,
) -> None:
    """Measure tokenizers on the same images under one protocol and print one table.

    Example: vqpipe bench-tokenizers photos --tokenizer artifacts/tokenizer/lc --tokenizer owner/name --out bench.json
    """
    from vqpipe.artifacts.inputs_outputs import JSON, MARKDOWN, need_output
    from vqpipe.artifacts.publish import publish_sealed, publish_text
    from vqpipe.library import bench

    if out is not None:
        kinds = {".json": JSON, ".md": MARKDOWN}
        need_output(out, kinds.get(out.suffix, JSON))
        if out.suffix not in kinds:
            raise ParamsError("the ending of --out chooses the form", found=str(out), choices=kinds)
    found = bench.bench_tokenizers(
        images, tokenizer, clip=clip, features=features, perceptual=perceptual, resolution=resolution,
        batch_size=batch_size, repeats=repeats, damage=damage,
    )  # fmt: skip
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else FILE_WIDTH
    say(bench.terminal_table(found, width))
    if out is not None and out.suffix == ".json":
        publish_sealed(out, found.plain())
    elif out is not None:
        publish_text(out, bench.markdown_page(found))
    if out is not None:
        say(f"wrote {out}")
