"""The read stage: what can be read from the frozen codes of one tokenizer, beside chance."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    variant: Annotated[str, typer.Option(help="A name under read.variants in the params file.")],
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer to read.")],
    out: Annotated[Path, typer.Option(help="The reading artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    aligner: Annotated[
        Path | None,
        typer.Option(help="The aligner that was trained with the tokenizer; read beside fresh heads."),
    ] = None,
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train fresh alignment heads on one tokenizer's frozen codes, and measure what they read on the test split.

    Example: python -m stages.run read@vq
    """
    from vqpipe.artifacts.places import CURVES, JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.aligner import ANY_ALIGNER
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.reading import READING
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.params.base import load_merged
    from vqpipe.params.reading import ReadingParams
    from vqpipe.reading.read import read_tokenizer
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.env import is_main_process
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.tokenizers.tokenizer import Tokenizer
    from vqpipe.vision.clip import Clip

    config = load_merged(params, "read.common", f"read.variants.{variant}", ReadingParams)
    inputs: list[Input] = [(dataset, DATASET), (clip, CLIP), (tokenizer, TOKENIZER)]
    beside: list[Input] = [(aligner, ANY_ALIGNER)] if aligner is not None else []
    outputs: list[Output] = [(out, READING), (metrics, JSON), (curves, CURVES)]
    if config.training is not None and config.training.compile:
        need_compiler(device().type)
    with process_group(), stage_run("read", config, [*inputs, *beside], outputs, mixed=mixed) as run:
        scratch = run.scratch()
        reading = read_tokenizer(
            Tokenizer.from_pretrained(tokenizer, device()), aligner, dataset, Clip.load(clip, device()), config,
            scratch=scratch, curves=run.staged(curves), device=device(), title=f"read {variant}",
        )  # fmt: skip
        if is_main_process():
            run.metrics(metrics, reading.metrics)
            reading.write(run.staged(out))


app = stage_app(main)

if __name__ == "__main__":
    app()
