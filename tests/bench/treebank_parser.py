"""A small spaCy pipeline trained on a part of a treebank, to exercise the `spacy` backend where none is installed.

It is no stand-in for a pipeline trained on a whole treebank: 1,600 sentences are a tenth of one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tests.text_quality import Gold

EPOCHS = 12
SEED = 0
DROPOUT = 0.2
BATCH_WORDS = 400


def train(sentences: Sequence[Gold], folder: Path) -> None:
    """Fit a morphologizer (universal tags) and a parser from random weights, and save them as a pipeline."""
    from spacy.cli.init_config import init_config
    from spacy.tokens import Doc
    from spacy.training import Example
    from spacy.training.batchers import minibatch_by_words
    from spacy.util import fix_random_seed, load_model_from_config

    fix_random_seed(SEED)
    config = init_config(lang="en", pipeline=["morphologizer", "parser"], optimize="efficiency")
    config["components"]["parser"]["min_action_freq"] = 5
    nlp = load_model_from_config(config, auto_fill=True)
    examples = [
        Example.from_dict(
            Doc(nlp.vocab, words=list(gold.tokens)),
            {
                "pos": list(gold.tags),
                "heads": [at if head < 0 else head for at, head in enumerate(gold.heads)],
                "deps": [relation if relation != "root" else "ROOT" for relation in gold.relations],
            },
        )
        for gold in sentences
    ]
    optimizer = nlp.initialize(lambda: examples)
    order = random.Random(SEED)
    for _ in range(EPOCHS):
        order.shuffle(examples)
        for batch in minibatch_by_words(examples, size=BATCH_WORDS, tolerance=0.2):
            nlp.update(list(batch), sgd=optimizer, drop=DROPOUT)
    nlp.to_disk(folder)
