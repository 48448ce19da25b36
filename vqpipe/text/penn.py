"""The Penn Treebank's tags in our names, and the way it splits contractions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vqpipe.text.closed_class import BE

_NAMES = {
    "JJ": "adjective", "NN": "noun", "VB": "verb", "RB": "adverb", "DT": "determiner", "PDT": "determiner",
    "CD": "number", "IN": "preposition", "CC": "conjunction", "MD": "auxiliary", "POS": "possessive",
    "TO": "particle", "RP": "adverb", "PRP": "pronoun", "PRP$": "determiner", "EX": "pronoun",
    "WP": "pronoun", "WP$": "determiner", "WDT": "pronoun", "WRB": "subordinator",
}  # fmt: skip
_SUBORDINATORS = frozenset(
    ("that", "because", "although", "though", "while", "whilst", "whereas", "if", "unless", "whether")
)
_SIGNS = {
    "(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-", "\u2026": "...",
    "\u201c": "``", "\u201d": "''",
}  # fmt: skip
_CONTRACTION = re.compile(r"(.+?)(n't|'re|'ve|'ll|'d|'m)|(can)(not)", re.IGNORECASE)


def part_of_speech(tag: str, word: str) -> str:
    """One of the names in `vqpipe.text.closed_class.POS` for a Penn tag of a lower-case word.

    Forms of "be" are auxiliaries; foreign words, interjections and symbols are signs.
    """
    name = _NAMES.get(tag) or _NAMES.get(tag[:2], "sign")
    if name == "verb" and word in BE:
        return "auxiliary"
    if name in ("preposition", "pronoun") and word in _SUBORDINATORS:
        return "subordinator"
    return name


def penn_tokens(tokens: Sequence[str], signs: bool) -> tuple[list[str], list[int]]:
    """The tokens split as the Penn Treebank does, and where each of ours starts among them.

    "isn't" is "is" and "n't". With `signs`, a quotation mark is `` where it opens and '' where it closes,
    and a bracket is -LRB-, as in the treebank's own files.
    """
    pieces: list[str] = []
    starts = []
    opened = False
    for token in tokens:
        starts.append(len(pieces))
        found = _CONTRACTION.fullmatch(token) if "'" in token or len(token) == len("cannot") else None
        if found:
            pieces += [part for part in found.groups() if part]
        elif signs and token == '"':
            pieces.append("''" if opened else "``")
            opened = not opened
        else:
            pieces.append(_SIGNS.get(token, token) if signs else token)
    return pieces, starts
