"""Parts of speech: one function, with the backend that params choose behind it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from vqpipe.params.pos import PosParams
from vqpipe.text.words import Tagger, Word


def _wordnet(config: PosParams) -> Tagger:
    from vqpipe.text.wordnet_tagger import WordnetTagger

    return WordnetTagger()


BACKENDS: dict[str, Callable[[PosParams], Tagger]] = {"wordnet": _wordnet}


@lru_cache(maxsize=4)
def tagger(config: PosParams) -> Tagger:
    """This process's tagger for these params; it is loaded on first use."""
    return BACKENDS[config.kind](config)


def tag(caption: str, config: PosParams) -> list[Word]:
    """The words of one caption with lemma and part of speech. Any string will do."""
    return tagger(config).tag(caption)
