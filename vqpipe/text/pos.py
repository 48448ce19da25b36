"""Parts of speech: the table of the backends, and one function that makes the one that params choose."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vqpipe.params.base import Params, validate
from vqpipe.params.plugins import Table
from vqpipe.text.tagger import PosParams, Tagger

TAGGERS: Table[Tagger] = Table(
    "part-of-speech backend",
    {
        "wordnet": "vqpipe.text.wordnet_tagger:WordnetTagger",
        "nltk": "vqpipe.text.nltk_tagger:NltkTagger",
        "spacy": "vqpipe.text.spacy_tagger:SpacyTagger",
    },
)
"""The backends. The packages and data that one needs are loaded with its first caption, not with its params."""

if TYPE_CHECKING:
    AnyPos = PosParams
else:
    AnyPos = TAGGERS.params()


@lru_cache(maxsize=4)
def tagger(config: PosParams) -> Tagger:
    """This process's tagger for these params; it is loaded on first use.

    Raises:
        SetupError: the backend needs a package, data or a model that is not installed; it says how to get it.
    """
    made: Any = TAGGERS[config.kind]
    backend: Tagger = made(config)
    return backend


class _Section(Params):
    pos: AnyPos


def pos_params(value: Any, source: str) -> PosParams:
    """The params in an artifact's facts; `source` names the artifact in messages.

    Raises:
        ParamsError: they are of no known kind, or lack a field.
    """
    return validate({"pos": value}, "facts", _Section, source).pos
