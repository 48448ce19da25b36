"""The tokens stage: every image of every split as indices of one tokenizer."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app


def main(
    tokenizer: Annotated[Path, typer.Option(help="The tokenizer artifact.")],
    out: Annotated[Path, typer.Option(help="The tokens artifact to publish.")],
    dataset: Annotated[Path, typer.Option(help="The dataset artifact.")] = Path("artifacts/dataset"),
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Encode every image as indices.

    Example: python -m stages.tokens --tokenizer artifacts/tokenizer/vq --out artifacts/tokens/vq
    """
    from vqpipe.artifacts.inputs_outputs import Input
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.artifacts.specs.tokenizer import TOKENIZER
    from vqpipe.artifacts.specs.tokens import TOKENS
    from vqpipe.params.base import load_params
    from vqpipe.runtime.device import device
    from vqpipe.runtime.distributed import process_group
    from vqpipe.tokenizers.named import need_own_outputs, variants_like
    from vqpipe.tokenizers.tokenizer import Tokenizer
    from vqpipe.tokenizers.tokens import TokensParams, write_tokens

    config = load_params(params, "tokens", TokensParams)
    inputs: list[Input] = [(dataset, DATASET), (tokenizer, TOKENIZER)]
    with process_group(), stage_run("tokens", config, inputs, [(out, TOKENS)], mixed=mixed) as run:
        need_own_outputs(variants_like(tokenizer, params), [out], params, "tokenizer")
        write_tokens(
            dataset, Tokenizer.from_pretrained(tokenizer, device()), run.staged(out), config, device()
        )


app = stage_app(main)

if __name__ == "__main__":
    app()
