"""Shared by the stages that read captions; apart from stages/cli.py, so that no other stage depends on the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vqpipe.artifacts.inputs_outputs import Input
    from vqpipe.data.corpus import CorpusParams

Corpus = Annotated[Path | None, typer.Option(help="The captions; by default the path in corpus.path.")]


def corpus_input(params: Path, corpus: Path | None) -> tuple[CorpusParams, Input]:
    """The section `corpus` of a params file, with `corpus` as its path if given, and as a stage's input."""
    from vqpipe.artifacts.specs.dataset import DATASET
    from vqpipe.data.corpus import CorpusParams
    from vqpipe.params.base import load_params

    stated: CorpusParams = load_params(params, "corpus", CorpusParams)  # type: ignore[arg-type]
    source = stated if corpus is None else stated.model_copy(update={"path": str(corpus)})
    path = Path(source.path)
    return source, (path, DATASET) if source.kind == "dataset" else path


def corpus_role(captions: Input) -> dict[Path, str | None]:
    """The role of the captions among the inputs: their dataset artifact need not be that of the images."""
    return {} if isinstance(captions, Path) else {captions[0]: "corpus"}
