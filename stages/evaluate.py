"""Measure one tokenizer on the test split: errors, distances and code usage, compared with floors and a reference."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer to measure.")],
    out: Annotated[Path, typer.Option(help="The evaluation to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Measure one tokenizer on the test split, and floors and a reference to compare with.

    Example: python -m stages.evaluate --tokenizer artifacts/tokenizer/lc --out artifacts/evaluation/lc
    --metrics artifacts/metrics/evaluate/lc.json
    """
    from vqpipe.artifacts.inputs_outputs import JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.evaluation import EVALUATION
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.evaluation.evaluate import evaluate_dataset
    from vqpipe.evaluation.measure import EvaluateParams
    from vqpipe.params.base import load_params
    from vqpipe.runtime.distributed import process_group
    from vqpipe.tokenizers.named import need_own_outputs, variants_like

    config = load_params(params, "evaluate", EvaluateParams)
    inputs: list[Input] = [(dataset, DATASET), (clip, CLIP), (tokenizer, TOKENIZER)]
    outputs: list[Output] = [(out, EVALUATION), (metrics, JSON)]
    with process_group(), stage_run("evaluate", config, inputs, outputs, mixed=mixed) as run:
        need_own_outputs(variants_like(tokenizer, params), dict(outputs), params, "tokenizer")
        result = evaluate_dataset(dataset, clip, tokenizer, config)
        if result is not None:
            result.write(run.staged(out))
            run.metrics(metrics, result.metrics)


app = stage_app(main)

if __name__ == "__main__":
    app()
