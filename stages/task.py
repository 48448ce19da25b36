"""The task stage: what a head can solve from the frozen tokens of one tokenizer, compared with chance and floors."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    pair: Annotated[str, typer.Option(help="A name under task.pairs in the params file.")],
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer whose tokens the task is solved from.")],
    out: Annotated[Path, typer.Option(help="The task artifact to publish.")],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    curves: Annotated[Path, typer.Option(help="The training curves to publish, CSV.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Train a head on one tokenizer's frozen tokens and measure it on the test split; a run that was killed resumes
    from its last checkpoint.

    Example: python -m stages.run task@vq-masked_words
    """
    from vqpipe.artifacts.inputs_outputs import CURVES, JSON, Input, Output
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.task import TASK
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.runtime.env import is_main_process
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.tasks.solve import own_aligner, solve_task
    from vqpipe.tasks.task import load_task
    from vqpipe.tokenizers.named import need_own_outputs, need_tokenizer
    from vqpipe.tokenizers.tokenizer import Tokenizer
    from vqpipe.vision.clip import StoredClip

    config = load_task(params, pair)
    inputs: list[Input] = [(dataset, DATASET), (clip, CLIP), (tokenizer, TOKENIZER)]
    outputs: list[Output] = [(out, TASK), (metrics, JSON), (curves, CURVES)]
    if config.training is not None and config.training.compile:
        need_compiler(device().type)
    with process_group(), stage_run("task", config, inputs, outputs, mixed=mixed) as run:
        need_tokenizer(config.tokenizer, tokenizer, params, "task", pair)
        need_own_outputs([pair], dict(outputs), params, "task")
        scratch = run.scratch()
        model, text = Tokenizer.from_pretrained(tokenizer, device()), StoredClip(clip, device())
        solved = solve_task(
            config, model, own_aligner(tokenizer, text), dataset, text,
            scratch=scratch, curves=run.staged(curves), device=device(), title=f"task {pair}",
        )  # fmt: skip
        if is_main_process():
            run.metrics(metrics, solved.metrics)
            solved.write(run.staged(out))


app = stage_app(main)

if __name__ == "__main__":
    app()
