"""Tags that two neighbours correct: what a tagger that looks at pairs of tags cannot see.

The rules hold for English at large, and only move words between classes that WordNet has them in:

- "a living room", "the dining area": the -ing word of a compound that WordNet knows is a noun;
- "in the wild", "a girl in blue": after a determiner (colours: a preposition) and before no noun stands a noun;
- "a red and white plane": coordination joins likes, so red is an adjective where white is
  (and grey of "the sea is calm and grey");
- "a black bear lies": a singular noun is not the subject of a base form, so black is an adjective, bear a noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

from vqpipe.text.closed_class import TAGS
from vqpipe.text.lexicon import lexicon

_ADJECTIVE, _NOUN = TAGS.index("J"), TAGS.index("N")
_JOINTS = frozenset({"and", "or", "/", "&", ","})
_ADJECTIVE_SHARE = 0.5
"""A word may become an adjective where WordNet has it so at least this often beside each time as a noun."""
_WITHIN_PHRASE = frozenset({"determiner", "adjective", "possessive", "number"})
_AFTER_NOUN_PHRASE = frozenset({"sign", "preposition"})


def mend(words: Sequence[str], names: list[str]) -> None:
    """Correct the parts of speech `names` of lower-case `words` in place."""
    for at, name in enumerate(names):
        if name == "noun":
            if _is_adjective(words, names, at):
                names[at] = "adjective"
        elif name == "adjective":
            if _compound(words, names, at) or _stands_alone(words, names, at):
                names[at] = "noun"
        elif name == "verb" and at and names[at - 1] in _WITHIN_PHRASE and _compound(words, names, at):
            names[at] = "noun"


def _compound(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether an -ing word and the noun after it are a compound of WordNet's: "living room"."""
    if not words[at].endswith("ing") or at + 1 == len(words) or names[at + 1] != "noun":
        return False
    known = lexicon()
    return f"{words[at]} {known.noun_lemma(words[at + 1])}" in known.compounds


def _stands_alone(words: Sequence[str], names: Sequence[str], at: int) -> bool:
    """Whether an adjective is a noun: after a determiner or, of colours, a preposition, and before no noun.

    Superlatives are none ("the best"), nor are words of the closed classes.
    """
    if at == 0 or names[at - 1] not in ("determiner", "preposition"):
        return False
    if at + 1 < len(words) and (names[at + 1] not in _AFTER_NOUN_PHRASE or words[at + 1] in _JOINTS):
        return False
    word, known = words[at], lexicon()
    if not known.weight(word, "N") or known.is_closed(word):
        return False
    if names[at - 1] == "preposition":
        return word in known.colors
    return not word.endswith("est") and word != "worst"


def _is_adjective(words: Sequence[str], names: list[str], at: int) -> bool:
    """Whether a word that is tagged as a noun is an adjective after all; corrects a verb after it too."""
    before = names[at - 1] if at else "sign"
    after = names[at + 1] if at + 1 < len(names) else "sign"
    if after == "verb" and before in ("determiner", "adjective", "possessive"):
        if _base_and_noun(words[at + 1]) and _mostly_adjective(words[at]):
            names[at + 1] = "noun"
            return True
    elif at + 3 < len(names) and words[at + 1] in _JOINTS and names[at + 2] == "adjective":
        in_phrase = names[at + 3] in ("adjective", "noun", "conjunction")
        return in_phrase and before != "noun" and _mostly_adjective(words[at])
    elif at >= 3 and words[at - 1] in ("and", "or") and names[at - 2] == "adjective":
        said = names[at - 3] in ("auxiliary", "adverb")
        return said and after in _AFTER_NOUN_PHRASE and _mostly_adjective(words[at])
    return False


def _shares(word: str) -> tuple[float, float]:
    """How often a word is an adjective and how often a noun, as logarithms of shares of its uses."""
    shares = dict(lexicon().candidates(word))
    return shares.get(_ADJECTIVE, -inf), shares.get(_NOUN, -inf)


def _mostly_adjective(word: str) -> bool:
    adjective, noun = _shares(word)
    return adjective > -inf and adjective >= noun + log(_ADJECTIVE_SHARE)


def _base_and_noun(word: str) -> bool:
    known = lexicon()
    return known.weight(word, "V") > 0 and known.weight(word, "N") > 0


def mend_before_nouns(words: Sequence[str], names: list[str]) -> None:
    """Make adjectives, in place, of nouns before an adjective or noun that WordNet has oftener as adjectives.

    For taggers that take "blue" of "a large blue train" for the first half of a compound.
    """
    known = lexicon()
    for at in range(len(names) - 2, -1, -1):
        if names[at] == "noun" and names[at + 1] in ("noun", "adjective") and known.knows(words[at]):
            adjective, noun = _shares(words[at])
            if adjective > noun and not _compound(words, names, at):
                names[at] = "adjective"
