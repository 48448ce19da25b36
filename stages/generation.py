"""One row of the board of generation: train a tokenizer and priors on it, and measure all; only numbers are kept."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import stage_app

FILE = Path("boards/generation/params.yaml")


def main(
    row: Annotated[str, typer.Option(help="A name under rows in the params file.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, batches, augmentation and samples.")],
    codebook: Annotated[
        Path, typer.Option(help="The codebook that the row is built on, or the one that means none.")
    ],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    cost: Annotated[Path, typer.Option(help="The cost file to publish; nothing depends on it.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    judges: Annotated[Path, typer.Option(help="The judges artifact.")] = Path("artifacts/judges"),
    params: Annotated[Path, typer.Option(help="The board's params file.")] = FILE,
    threads: Annotated[int, typer.Option(help="Threads; the numbers depend on it in the last digits.")] = 1,
) -> None:
    """Train and measure a tokenizer and the priors of its row; a run that was killed resumes from its last checkpoint.

    Example: python -m stages.generation --row lc --seed 0 --codebook artifacts/codebook/patches
    --metrics boards/generation/metrics/lc-0.json --cost boards/generation/cost/lc-0.json
    """
    import torch

    from vqpipe.artifacts.inputs_outputs import JSON
    from vqpipe.artifacts.publish import publish_json
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.judges import JUDGES
    from vqpipe.boards.board import load_board
    from vqpipe.boards.generation import GenerationBoard, train_generation_row
    from vqpipe.boards.recipe import given
    from vqpipe.codebooks.load import PRETRAINED, load_pretrained
    from vqpipe.evaluation.judges import Judges
    from vqpipe.runtime.code import stage_code
    from vqpipe.runtime.device import device
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.vision.clip import Clip

    torch.set_num_threads(threads)
    board, where = load_board(params, GenerationBoard), device()
    identity = board.identity(row, seed)
    board.priors_of(row, seed)
    config = board.tokenizer(row, seed)
    if config.training.compile:
        need_compiler(where.type)
    with stage_run(
        "generation", identity, [(dataset, DATASET), (clip, CLIP), (judges, JUDGES), (codebook, PRETRAINED)],
        [(metrics, JSON), (cost, JSON)], roles={codebook: None} if config.foreign_codebook else {},
    ) as run:  # fmt: skip
        scratch, shared = run.scratch(), stage_code("generation", kinds=())
        made = train_generation_row(
            board, row, seed, load_pretrained(codebook), dataset, Clip.load(clip, where), Judges.load(judges, where),
            scratch=scratch, device=where,
        )  # fmt: skip
        about = {
            "row": row, "seed": seed, "protocol": board.protocol, "code": run.code, "code_shared": shared,
            "given": given("generation", identity, [dataset, clip, judges, codebook]),
        }  # fmt: skip
        run.metrics(metrics, {**made.metrics, **about})
        publish_json(run.staged(cost), {**made.cost, "row": row, "seed": seed})


app = stage_app(main)

if __name__ == "__main__":
    app()
