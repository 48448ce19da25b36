"""`vqpipe import-vqgan`: a foreign VQGAN checkpoint as a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqpipe.runtime.terminal import say


def import_vqgan(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint: .ckpt, .pt, .pth or .safetensors.")],
    config: Annotated[Path, typer.Argument(help="Its YAML config, with model.params.ddconfig.")],
    out: Annotated[Path, typer.Option(help="The tokenizer's folder to publish.")],
    list_: Annotated[bool, typer.Option("--list", help="List every key that is left out.")] = False,
) -> None:
    """Read a VQGAN checkpoint of the taming-transformers layout, weights only, into a tokenizer.

    Example: vqpipe import-vqgan last.ckpt model.yaml --out artifacts/tokenizer/vqgan
    """
    from vqpipe.artifacts.places import need_output
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.library.vqgan import import_vqgan as read
    from vqpipe.library.vqgan import publish_import

    need_output(out, TOKENIZER)
    imported = read(checkpoint, config)
    publish_import(imported, checkpoint, config, out)
    tokenizer = imported.tokenizer
    dropped = ", ".join(f"{name} {count:,}" for name, count in imported.left_out_counts.items()) or "none"
    say(f"keys mapped: {imported.num_mapped:,}; left out: {len(imported.left_out):,} ({dropped})")
    for key in imported.left_out if list_ else ():
        say(f"  {key}")
    rows, columns = tokenizer.grid
    say(
        f"wrote {out}: K = {tokenizer.num_codes[0]:,}, {tokenizer.resolution} x {tokenizer.resolution} pixels to "
        f"{rows} x {columns} indices"
    )
    say(f"measure it: vqpipe evaluate IMAGES --tokenizer {out}")
