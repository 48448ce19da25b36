"""Parts of speech: one function, with the backend that params choose behind it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vqpipe.params.pos import NltkPos, PosParams, SpacyPos, WordnetPos
from vqpipe.text.words import Tagger, Word


def _wordnet(config: WordnetPos) -> Tagger:
    from vqpipe.text.wordnet_tagger import WordnetTagger

    return WordnetTagger()


def _nltk(config: NltkPos) -> Tagger:
    from vqpipe.text.nltk_tagger import NltkTagger

    return NltkTagger()


def _spacy(config: SpacyPos) -> Tagger:
    from vqpipe.text.spacy_tagger import SpacyTagger

    return SpacyTagger(config.model, config.batch_size)


BACKENDS: dict[str, Callable[[Any], Tagger]] = {"wordnet": _wordnet, "nltk": _nltk, "spacy": _spacy}


@lru_cache(maxsize=4)
def tagger(config: PosParams) -> Tagger:
    """This process's tagger for these params; it is loaded on first use.

    Raises:
        SetupError: the backend needs a package, data or a model that is not installed; it says how to get it.
    """
    return BACKENDS[config.kind](config)


def tag(caption: str, config: PosParams) -> list[Word]:
    """The words of one caption with lemma and part of speech. Any string will do."""
    return tagger(config).tag(caption)
