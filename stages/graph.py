"""The graph stage: weighted pairs of the vocabulary and word vectors, published as the words codebook."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app
from stages.corpus import Corpus, corpus_input, corpus_role

OUT = Path("artifacts/codebook/words")
METRICS = Path("artifacts/metrics/graph.json")


def main(
    corpus: Corpus = None,
    vocabulary: Annotated[Path, typer.Option(help="The vocabulary artifact.")] = Path("artifacts/vocabulary"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact, for vectors from one.")] = Path(
        "artifacts/clip"
    ),
    out: Annotated[Path, typer.Option(help="The words codebook to publish.")] = OUT,
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = METRICS,
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
    section: Annotated[str, typer.Option(help="The section of the params file, by dotted name.")] = "graph",
) -> None:
    """Make edges of the vocabulary's pairs, give each word a vector, and publish both as the words codebook.

    Captions that come from a dataset artifact are named for the true pairs that a rendered one has: precision and
    recall are measured against them. The captions themselves are not read.

    Example: python -m stages.graph --corpus artifacts/dataset --vocabulary artifacts/vocabulary
    """
    from functools import partial

    from vqpipe.artifacts.inputs_outputs import JSON, Input, need_input
    from vqpipe.artifacts.publish import MANIFEST
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.codebooks import VOCABULARY, WORDS_CODEBOOK
    from vqpipe.codebooks.words import publish_words_codebook
    from vqpipe.params.base import load_params
    from vqpipe.runtime.device import device
    from vqpipe.text.graph import GraphParams, build_words, graph_metrics
    from vqpipe.text.vectors import word_vectors
    from vqpipe.text.vocabulary import read_vocabulary
    from vqpipe.vision.clip import Clip

    config = load_params(params, section, GraphParams)
    _, captions = corpus_input(params, corpus)
    dataset = None if isinstance(captions, Path) else captions
    needs_clip = config.vectors.kind in ("clip", "clip_tokens")
    if clip.is_file() or (clip / MANIFEST).is_file():
        need_input(clip, CLIP)
    inputs: list[Input] = [(vocabulary, VOCABULARY), *([dataset] if dataset else [])]
    inputs += [(clip, CLIP)] if needs_clip else []
    shown = {"graph": config.model_dump(mode="json")}
    with stage_run(
        "graph",
        shown,
        inputs,
        [(out, WORDS_CODEBOOK), (metrics, JSON)],
        mixed=mixed,
        roles=corpus_role(captions),
    ) as run:
        vectors = word_vectors(
            read_vocabulary(vocabulary), config.vectors, partial(Clip.load, clip, device())
        )
        codebook = build_words(vectors, config)
        publish_words_codebook(run.staged(out), codebook)
        truth = dataset[0] / "truth.parquet" if dataset else None
        run.metrics(metrics, graph_metrics(codebook, vectors, config, truth))


app = stage_app(main)

if __name__ == "__main__":
    app()
