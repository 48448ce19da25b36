"""The graph stage: which adjective modifies which noun, word vectors, packed as one prior."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Mixed, Params, stage_app
from stages.corpus import Corpus, corpus_input, corpus_role

OUT = Path("artifacts/prior/words")
METRICS = Path("artifacts/metrics/graph.json")


def main(
    corpus: Corpus = None,
    vocabulary: Annotated[Path, typer.Option(help="The vocabulary artifact.")] = Path("artifacts/vocabulary"),
    clip: Annotated[Path, typer.Option(help="The CLIP artifact, for vectors from one.")] = Path(
        "artifacts/clip"
    ),
    out: Annotated[Path, typer.Option(help="The words prior to publish.")] = OUT,
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = METRICS,
    params: Params = DEFAULT_PARAMS,
    mixed: Mixed = False,
) -> None:
    """Count which adjective modifies which noun, give each word a vector, and pack both as one prior.

    Example: python -m stages.graph --corpus artifacts/dataset --vocabulary artifacts/vocabulary
    """
    from functools import partial

    from vqpipe.artifacts.places import JSON, Input, need_input
    from vqpipe.artifacts.publish import MANIFEST
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.clip import CLIP
    from vqpipe.artifacts.specs.words import VOCABULARY, WORDS
    from vqpipe.data.captions import Unusable
    from vqpipe.data.corpus import read_captions
    from vqpipe.params.base import load_params
    from vqpipe.params.graph import GraphParams
    from vqpipe.runtime.device import device
    from vqpipe.text.graph import build_graph, measure
    from vqpipe.text.prior import pack
    from vqpipe.text.usable import Limit
    from vqpipe.text.vectors import word_vectors
    from vqpipe.text.vocabulary import read_vocabulary
    from vqpipe.vision.clip import Clip

    config = load_params(params, "graph", GraphParams)
    source, captions = corpus_input(params, corpus)
    needs_clip = config.vectors.kind in ("clip", "clip_tokens")
    if clip.is_file() or (clip / MANIFEST).is_file():
        need_input(clip, CLIP)
    shown = {
        "graph": config.model_dump(mode="json"),
        "corpus": source.model_dump(mode="json", exclude={"path"}),
    }
    inputs: list[Input] = [captions, (vocabulary, VOCABULARY), *([(clip, CLIP)] if needs_clip else [])]
    with stage_run(
        "graph", shown, inputs, [(out, WORDS), (metrics, JSON)], mixed=mixed, roles=corpus_role(captions)
    ) as run:
        words = read_vocabulary(vocabulary)
        vectors = word_vectors(words, config.vectors, partial(Clip.load, clip, device()))
        unusable = Unusable()
        limit = Limit(source.max_bad_fraction, unusable, unusable.examples)
        graph = build_graph(read_captions(source, unusable=unusable), vectors.vocabulary, config, limit)
        pack(run.staged(out), graph, vectors, config)
        measured = measure(graph, vectors.vocabulary, Path(source.path) / "truth.parquet", config.min_count)
        run.metrics(metrics, {**measured, **vectors.metrics})


app = stage_app(main)

if __name__ == "__main__":
    app()
