"""`vqpipe export`: a tokenizer as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqpipe.runtime.terminal import say


def export(
    tokenizer: Annotated[
        str, typer.Argument(metavar="PATH", help="The tokenizer: a folder, or owner/name on the Hub.")
    ],
    out: Annotated[
        Path, typer.Option(help="The folder to publish: encoder.onnx, decoder.onnx, manifest.json.")
    ],
) -> None:
    """Write a tokenizer's encoder and decoder as ONNX graphs, and check them in onnxruntime.

    Example: vqpipe export artifacts/tokenizer/lc --out lc-onnx
    """
    from vqpipe.artifacts.places import need_output
    from vqpipe.artifacts.specs.exported import ONNX
    from vqpipe.library.export import export_tokenizer, need_packages

    need_packages()
    need_output(out, ONNX)
    from vqpipe.library.hub import Tokenizer

    done = export_tokenizer(Tokenizer.from_pretrained(tokenizer), out)
    facts = done.facts
    side, (rows, columns) = facts["resolution"], facts["grid"]
    say(
        f"wrote {out}: images (batch, 3, {side}, {side}) to indices (batch, {facts['groups']}, {rows}, {columns}) and "
        f"back, opset {facts['opset']}"
    )
    say(
        f"in onnxruntime: {done.num_equal} of {done.num_indices} indices equal, images within {done.image_error:.1e}"
    )
