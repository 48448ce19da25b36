"""`vqpipe tokenize` and `vqpipe detokenize`: a folder of images as a file of tokens, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqpipe.runtime.terminal import say

TokenizerOption = Annotated[
    str, typer.Option(metavar="PATH", help="The tokenizer: a folder, or owner/name on the Hub.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in memory at once.")]


def tokenize(
    images: Annotated[Path, typer.Argument(metavar="IMAGE_DIR", help="A folder of images, at any depth.")],
    tokenizer: TokenizerOption,
    out: Annotated[Path, typer.Option(help="The Parquet file to publish.")],
    batch_size: BatchSize = 32,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Side of the squares in pixels; the tokenizer's without it.")
    ] = None,
) -> None:
    """Write the indices of every image below a folder to a Parquet file, and beside it what was left out.

    Example: vqpipe tokenize photos --tokenizer artifacts/tokenizer/lc --out photos.parquet
    """
    from vqpipe.artifacts.places import need_output
    from vqpipe.artifacts.specs.tokens import CODES
    from vqpipe.library.hub import Tokenizer
    from vqpipe.library.tokens import tokenize as run
    from vqpipe.runtime.device import device

    need_output(out, CODES)
    done = run(images, Tokenizer.from_pretrained(tokenizer, device()), out, batch_size, resolution)
    groups, rows, columns = done.facts["shape"]
    codes = " x ".join(f"{count:,}" for count in done.facts["num_codes"])
    say(f"wrote {out}: {done.images:,} images, {groups} x {rows} x {columns} indices each, of {codes} codes")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in done.left_out.items()) or "none"
    say(f"left out: {sum(done.left_out.values()):,} files ({reasons}); see {done.quarantine}")


def detokenize(
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="What `vqpipe tokenize` wrote.")],
    tokenizer: TokenizerOption,
    out: Annotated[Path, typer.Option(help="The folder of PNG files to publish.")],
    batch_size: BatchSize = 32,
) -> None:
    """Write the image of every row of a tokens file as a PNG, with the tokenizer that made the file.

    Example: vqpipe detokenize photos.parquet --tokenizer artifacts/tokenizer/lc --out again
    """
    from vqpipe.artifacts.places import need_output
    from vqpipe.artifacts.specs.exported import DECODED
    from vqpipe.library.hub import Tokenizer
    from vqpipe.library.tokens import detokenize as run
    from vqpipe.runtime.device import device

    need_output(out, DECODED)
    count = run(tokens, Tokenizer.from_pretrained(tokenizer, device()), out, batch_size)
    say(f"wrote {out}: {count:,} images")
