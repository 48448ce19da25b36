"""Params of the parts of speech: which backend finds them."""

from __future__ import annotations

from typing import Literal

from vqpipe.params.base import Params


class WordnetPos(Params):
    """Parts of speech from the bundled WordNet, resolved by context."""

    kind: Literal["wordnet"]
    """Names this kind."""


PosParams = WordnetPos
"""The part-of-speech backends; a union discriminated on `kind` as soon as there is a second one."""
