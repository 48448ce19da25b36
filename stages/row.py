"""One row of a board: train a tokenizer, measure it on the test split, solve tasks from it; only numbers are kept."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import stage_app

FILE = Path("boards/scenes/params.yaml")


def main(
    row: Annotated[str, typer.Option(help="A name under rows in the params file.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and augmentation.")],
    codebook: Annotated[
        Path, typer.Option(help="The codebook that the row is built on, or the one that means none.")
    ],
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")],
    cost: Annotated[Path, typer.Option(help="The cost file to publish; nothing depends on it.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact.")] = Path("artifacts/clip"),
    params: Annotated[Path, typer.Option(help="The board's params file.")] = FILE,
    threads: Annotated[int, typer.Option(help="Threads; the numbers depend on it in the last digits.")] = 1,
) -> None:
    """Train and measure one row, and solve the tasks that its board states; a run that was killed resumes from its last
    checkpoint.

    Example: python -m stages.row --row lc --seed 0 --codebook artifacts/codebook/patches
    --metrics boards/scenes/metrics/lc-0.json --cost boards/scenes/cost/lc-0.json
    """
    import torch

    from vqpipe.artifacts.inputs_outputs import JSON
    from vqpipe.artifacts.publish import publish_json
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.boards.board import Board, load_board
    from vqpipe.boards.recipe import given
    from vqpipe.boards.row import train_row
    from vqpipe.codebooks.load import PRETRAINED, load_pretrained
    from vqpipe.runtime.code import stage_code
    from vqpipe.runtime.device import device
    from vqpipe.runtime.preflight import need_compiler
    from vqpipe.vision.clip import Clip

    torch.set_num_threads(threads)
    board, where = load_board(params, Board), device()
    identity = board.identity(row, seed)
    config, tasks = board.tokenizer(row, seed), board.tasks_of(row, seed)
    if config.training.compile:
        need_compiler(where.type)
    with stage_run(
        "row", identity, [(dataset, DATASET), (clip, CLIP), (codebook, PRETRAINED)],
        [(metrics, JSON), (cost, JSON)], roles={codebook: None} if config.foreign_codebook else {},
    ) as run:  # fmt: skip
        scratch, shared = run.scratch(), stage_code("row", kinds=())
        made = train_row(
            config, board.evaluate, load_pretrained(codebook), dataset, Clip.load(clip, where),
            scratch=scratch, device=where, title=f"{row}-{seed}", probe=board.probe, tasks=tasks,
        )  # fmt: skip
        about = {
            "row": row, "seed": seed, "protocol": board.protocol, "code": run.code, "code_shared": shared,
            "given": given("row", identity, [dataset, clip, codebook]),
        }  # fmt: skip
        run.metrics(metrics, {**made.metrics, **about})
        publish_json(run.staged(cost), {**made.cost, "row": row, "seed": seed})


app = stage_app(main)

if __name__ == "__main__":
    app()
