"""The vocabulary stage: which adjectives and nouns the captions have, how often, and which modifies which."""

from pathlib import Path
from typing import Annotated

import typer

from stages.cli import DEFAULT_PARAMS, Params, stage_app
from stages.corpus import Corpus, corpus_input, corpus_role
from vqpipe.runtime.terminal import say

OUT = Path("artifacts/vocabulary")
METRICS = Path("artifacts/metrics/vocabulary.json")


def main(
    corpus: Corpus = None,
    out: Annotated[Path, typer.Option(help="The vocabulary artifact to publish.")] = OUT,
    metrics: Annotated[Path, typer.Option(help="The metrics file to publish.")] = METRICS,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Count the adjectives, nouns and pairs of the captions, and keep the frequent words with their pairs.

    Example: python -m stages.vocabulary --corpus artifacts/dataset --out artifacts/vocabulary
    """
    from vqpipe.artifacts.inputs_outputs import JSON
    from vqpipe.artifacts.run import stage_run
    from vqpipe.artifacts.specs.codebooks import VOCABULARY
    from vqpipe.data.captions import Unusable
    from vqpipe.data.corpus import read_captions
    from vqpipe.params.base import load_params
    from vqpipe.text.usable import Limit
    from vqpipe.text.vocabulary import VocabularyParams, build_vocabulary, publish_vocabulary
    from vqpipe.vision.byte_pairs import is_single_token

    config = load_params(params, "vocabulary", VocabularyParams)
    source, captions = corpus_input(params, corpus)
    shown = {
        "vocabulary": config.model_dump(mode="json"),
        "corpus": source.model_dump(mode="json", exclude={"path"}),
    }
    with stage_run(
        "vocabulary", shown, [captions], [(out, VOCABULARY), (metrics, JSON)], roles=corpus_role(captions)
    ) as run:
        unusable = Unusable()
        limit = Limit(source.max_bad_fraction, unusable, unusable.examples)
        keep = is_single_token if config.single_clip_tokens else None
        stream = read_captions(source, unusable=unusable)
        vocabulary, measured = build_vocabulary(stream, config, keep, limit, run.scratch)
        publish_vocabulary(run.staged(out), vocabulary)
        noted = {"captions_without_id": unusable.without_id, "captions_other_splits": unusable.other_splits}
        run.metrics(metrics, measured.model_copy(update=noted))
    if measured.unusable_share >= 0.01:
        share = f"{measured.unusable_share:.1%}"
        say(f"warning: {share} of the captions are unusable; {metrics} counts them by reason", err=True)


app = stage_app(main)

if __name__ == "__main__":
    app()
