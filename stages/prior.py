"""The prior stage: a prior over the tokens or latents of one tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    pair: Annotated[str, typer.Option(help="A name under prior.pairs in the params file.")],
    tokens: Annotated[Path, typer.Option(help="The tokens artifact to train on.")],
    tokenizer: Annotated[
        Path, typer.Option(help="The tokenizer that wrote the tokens; it also decodes the samples.")
    ],
    out: Annotated[Path, typer.Option(help="The prior artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    judges: Annotated[
        Path | None, typer.Option(help="The judges artifact; without it, what they measure is absent.")
    ] = None,
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train one prior and sample from it; a killed run resumes from its last checkpoint.

    Example: python -m stages.run prior@vq-gpt
    """
    from vqpipe.artifacts.inputs_outputs import CURVES, JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.judges import JUDGES
    from vqpipe.artifacts.specs.prior import PRIOR
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.artifacts.specs.tokens import TOKENS
    from vqpipe.evaluation.judges import Judges
    from vqpipe.priors import load_prior_params
    from vqpipe.priors.measure_prior import train_and_measure
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.tokenizers.named import need_own_outputs, need_tokenizer
    from vqpipe.tokenizers.tokenizer import Tokenizer
    from vqpipe.tokenizers.tokens import TokenSet
    from vqpipe.vision.clip import Clip

    config = load_prior_params(params, pair)
    inputs: list[Input] = [(tokens, TOKENS), (tokenizer, TOKENIZER), (dataset, DATASET), (clip, CLIP)]
    if judges is not None:
        inputs.append((judges, JUDGES))
    outputs: list[Output] = [(out, PRIOR), (metrics, JSON), (curves, CURVES)]
    if config.training.compile:
        need_compiler(device().type)
    with process_group(), stage_run("prior", config, inputs, outputs, mixed=mixed) as run:
        need_tokenizer(config.tokenizer, tokenizer, params, "prior", pair)
        need_own_outputs([pair], dict(outputs), params, "prior")
        scratch = run.scratch()
        trained = train_and_measure(
            config, TokenSet.open(tokens), Tokenizer.from_pretrained(tokenizer, device()), dataset,
            Clip.load(clip, device()), judges=None if judges is None else Judges.load(judges, device()),
            scratch=scratch, curves=run.staged(curves), device=device(), title=pair,
        )  # fmt: skip
        if trained is not None:
            run.metrics(metrics, trained.metrics)
            run.cost.update(trained.cost)
            trained.save(run.staged(out))


app = stage_app(main)

if __name__ == "__main__":
    app()
