"""The tokenizer stage: one quantizer in the common trunk, trained under the common schedule."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app


def main(
    variant: Annotated[str, typer.Option(help="A name under tokenizer.variants in the params file.")],
    prior: Annotated[Path, typer.Option(help="The codebook prior that the variant is built on.")],
    out: Annotated[Path, typer.Option(help="The tokenizer artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Train one tokenizer variant; a run that was killed goes on from its last checkpoint.

    Example: python -m stages.run tokenizer@lc
    """
    from vqpipe.artifacts.run import stage_run
    from vqpipe.codebooks.load import load_prior
    from vqpipe.params.base import load_merged
    from vqpipe.params.tokenizer import TokenizerParams
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.env import is_main_process
    from vqpipe.runtime.scratch import scratch_folder
    from vqpipe.tokenizers.train import train_tokenizer
    from vqpipe.vision.clip import Clip

    config = load_merged(params, "tokenizer.common", f"tokenizer.variants.{variant}", TokenizerParams)
    with (
        process_group(),
        stage_run("tokenizer", config, [dataset, clip, prior]) as run,
        scratch_folder("tokenizer", run.key()) as scratch,
    ):
        given = load_prior(prior)
        tokenizer, measured = train_tokenizer(
            config, given, dataset, Clip.load(clip, device()),
            scratch=scratch, curves=curves, device=device(), title=variant,
        )  # fmt: skip
        if is_main_process():
            run.metrics(metrics, measured)
            source = dict(given.facts) if given is not None else None
            tokenizer.save(run.published(out), {"weights": measured["weights"], "prior": source})


app = stage_app(main)

if __name__ == "__main__":
    app()
