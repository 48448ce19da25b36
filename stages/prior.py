"""The prior stage: a generator over the tokens of one tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    pair: Annotated[str, typer.Option(help="A name under prior.pairs in the params file.")],
    tokens: Annotated[Path, typer.Option(help="The tokens artifact to learn from.")],
    tokenizer: Annotated[
        Path, typer.Option(help="The tokenizer that wrote the tokens; it decodes the samples.")
    ],
    out: Annotated[Path, typer.Option(help="The generator artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train one generator and draw from it; a run that was killed goes on from its last checkpoint.

    Example: python -m stages.run prior@vq-gpt
    """
    from vqpipe.artifacts.places import CURVES, JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.generator import GENERATOR
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.artifacts.specs.tokens import TOKENS
    from vqpipe.params.base import load_merged
    from vqpipe.params.prior import PriorParams
    from vqpipe.priors.fit import fit_prior
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.tokenizers.tokenizer import Tokenizer
    from vqpipe.tokenizers.tokens import TokenSet
    from vqpipe.vision.clip import Clip

    config = load_merged(params, "prior.common", f"prior.pairs.{pair}", PriorParams)
    inputs: list[Input] = [(tokens, TOKENS), (tokenizer, TOKENIZER), (dataset, DATASET), (clip, CLIP)]
    outputs: list[Output] = [(out, GENERATOR), (metrics, JSON), (curves, CURVES)]
    if config.training.compile:
        need_compiler(device().type)
    with process_group(), stage_run("prior", config, inputs, outputs, mixed=mixed) as run:
        scratch = run.scratch()
        fitted = fit_prior(
            config, TokenSet.open(tokens), Tokenizer.from_pretrained(tokenizer, device()), dataset,
            Clip.load(clip, device()), scratch=scratch, curves=run.staged(curves), device=device(), title=pair,
        )  # fmt: skip
        if fitted is not None:
            run.metrics(metrics, fitted.metrics)
            run.cost.update(fitted.cost)
            fitted.save(run.staged(out))


app = stage_app(main)

if __name__ == "__main__":
    app()
