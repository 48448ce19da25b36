"""The tokenizer stage: one quantizer in the common trunk, trained under the common schedule."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    variant: Annotated[str, typer.Option(help="A name under tokenizer.variants in the params file.")],
    prior: Annotated[Path, typer.Option(help="The codebook prior that the variant is built on.")],
    out: Annotated[Path, typer.Option(help="The tokenizer artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    aligner: Annotated[
        Path | None, typer.Option(help="The aligner artifact to publish; variants with align need it.")
    ] = None,
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train one tokenizer variant; a run that was killed goes on from its last checkpoint.

    Example: python -m stages.run tokenizer@lc
    """
    from vqpipe.artifacts.places import CURVES, JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.aligner import ANY_ALIGNER
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.codebooks.load import PRIOR, load_prior
    from vqpipe.params.base import load_merged
    from vqpipe.params.tokenizer import TokenizerParams
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.env import is_main_process
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.tokenizers.aligner_folder import check_aligner_out, save_aligner
    from vqpipe.tokenizers.train import train_tokenizer
    from vqpipe.vision.clip import Clip

    config = load_merged(params, "tokenizer.common", f"tokenizer.variants.{variant}", TokenizerParams)
    check_aligner_out(config, aligner)
    inputs: list[Input] = [(dataset, DATASET), (clip, CLIP), (prior, PRIOR)]
    outputs: list[Output] = [(out, TOKENIZER), (metrics, JSON), (curves, CURVES)]
    beside: list[Output] = [(aligner, ANY_ALIGNER)] if aligner is not None else []
    foreign = {prior: None} if config.foreign_prior else {}
    if config.training.compile:
        need_compiler(device().type)
    with (
        process_group(),
        stage_run("tokenizer", config, inputs, [*outputs, *beside], mixed=mixed, roles=foreign) as run,
    ):
        scratch = run.scratch()
        given, clip_model = load_prior(prior), Clip.load(clip, device())
        done = train_tokenizer(
            config, given, dataset, clip_model,
            scratch=scratch, curves=run.staged(curves), device=device(), title=variant,
        )  # fmt: skip
        if is_main_process():
            run.metrics(metrics, done.metrics)
            source, weights = dict(given.facts) if given is not None else None, done.metrics["weights"]
            done.tokenizer.save(run.staged(out), {"weights": weights, "prior": source})
            if aligner is not None:
                save_aligner(run.staged(aligner), done.aligner, done.tokenizer, clip_model.id, weights)


app = stage_app(main)

if __name__ == "__main__":
    app()
