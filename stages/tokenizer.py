"""The tokenizer stage: one quantizer in the common trunk, trained under the common schedule."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    variant: Annotated[str, typer.Option(help="A name under tokenizer.variants in the params file.")],
    codebook: Annotated[Path, typer.Option(help="The pretrained codebook that the variant is built on.")],
    out: Annotated[Path, typer.Option(help="The tokenizer artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train one tokenizer variant; a run that was killed resumes from the last checkpoint.

    Example: python -m stages.run tokenizer@lc
    """
    from vqpipe.artifacts.inputs_outputs import CURVES, JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.codebooks.load import PRETRAINED, load_pretrained
    from vqpipe.params.base import load_merged
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.env import is_main_process
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.tokenizers.named import need_own_outputs
    from vqpipe.tokenizers.tokenizer import TokenizerParams
    from vqpipe.tokenizers.train import train_tokenizer, uses_clip
    from vqpipe.vision.clip import Clip

    config = load_merged(params, "tokenizer.common", f"tokenizer.variants.{variant}", TokenizerParams)
    inputs: list[Input] = [(dataset, DATASET), (clip, CLIP), (codebook, PRETRAINED)]
    outputs: list[Output] = [(out, TOKENIZER), (metrics, JSON), (curves, CURVES)]
    foreign = {codebook: None} if config.foreign_codebook else {}
    if config.training.compile:
        need_compiler(device().type)
    with (
        process_group(),
        stage_run("tokenizer", config, inputs, outputs, mixed=mixed, roles=foreign) as run,
    ):
        need_own_outputs([variant], dict(outputs), params, "tokenizer")
        scratch = run.scratch()
        pretrained = load_pretrained(codebook)
        trained = train_tokenizer(
            config, pretrained, dataset, Clip.load(clip, device()) if uses_clip(config) else None,
            scratch=scratch, curves=run.staged(curves), device=device(), title=variant, clip_id=Clip.read_id(clip),
        )  # fmt: skip
        if is_main_process():
            run.metrics(metrics, trained.metrics)
            trained.save(run.staged(out), pretrained)


app = stage_app(main)

if __name__ == "__main__":
    app()
