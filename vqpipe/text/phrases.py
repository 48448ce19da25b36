"""Which adjective modifies which noun: a pass over noun phrases.

All adjectives of a noun phrase modify its head, the last noun of its last run of nouns: "a small red bird",
"black and white cat", "red and blue birds", "yellow fire hydrant" (hydrant, not fire). Three things differ:

- a compound that WordNet knows keeps its adjective: "high school student" gives (high, school);
- on request, a shade before a colour belongs to the colour: "dark red bird" gives (red, bird) alone;
- on request, "the bird is red" counts too.
"""

from __future__ import annotations

from collections.abc import Sequence

from vqpipe.params.graph import PhraseParams
from vqpipe.text.closed_class import BE
from vqpipe.text.lexicon import lexicon
from vqpipe.text.words import Tagger, Word

SHADES = frozenset({"dark", "light", "pale", "deep"})
_WITHIN = frozenset({"adjective", "adverb", "number", "verb"})
"""What may stand between the adjectives of a noun phrase and its noun: "a very small flying bird"."""
_HAVE = frozenset({"has", "have", "had"})
NEGATIONS = frozenset({"not", "n't", "never"})
_QUOTES = frozenset({'"', "'", "\u201c", "\u201d", "\u2018", "\u2019"})
_JOINTS = frozenset({",", "/", "-", "&", "and", "or", "but", "\u2013"})


PLAIN = PhraseParams(predicative=False, shades="noun")
"""All adjectives before the noun, and nothing else."""


def pair_positions(words: Sequence[Word], config: PhraseParams = PLAIN) -> list[tuple[int, int]]:
    """Positions (adjective, noun) of each modification in a tagged caption, in the order of the nouns."""
    shades_apart = config.shades == "color"
    found: list[tuple[int, int]] = []
    waiting: list[int] = []
    subject = -1
    position, end = 0, len(words)
    while position < end:
        word = words[position]
        if word.pos == "adjective":
            if not (shades_apart and is_shade(words, position)):
                waiting.append(position)
        elif word.pos == "noun":
            last = position
            while last + 1 < end and words[last + 1].pos == "noun":
                last += 1
            for adjective in waiting:
                found.append((adjective, _head(words, adjective, last)))
            waiting, subject, position = [], last, last
        elif config.predicative and subject >= 0 and _is_auxiliary(words, position):
            position, adjectives = _complement(words, position)
            found += [(adjective, subject) for adjective in adjectives]
            waiting, subject = [], -1
        elif not _continues(words, position, waiting):
            waiting = []
            if word.pos not in ("adverb", "subordinator"):
                subject = -1
        position += 1
    return found


def is_shade(words: Sequence[Word], position: int) -> bool:
    """Whether a word is the shade of the colour adjective that follows it: "dark" of "dark red"."""
    follower = words[position + 1] if position + 1 < len(words) else None
    return (
        words[position].text in SHADES
        and follower is not None
        and follower.text in lexicon().colors
        and follower.pos == "adjective"
    )


def _head(words: Sequence[Word], adjective: int, last: int) -> int:
    """The noun that an adjective modifies: the last of the run, unless WordNet knows it with the first.

    WordNet knows "red fire" too, but also the fire hydrant of "red fire hydrant", and then that counts.
    """
    first = adjective + 1
    if first < last and words[first].pos == "noun":
        own = f"{words[adjective].text} {words[first].lemma}"
        rest = f"{words[first].text} {words[first + 1].lemma}"
        if own in lexicon().compounds and rest not in lexicon().compounds:
            return first
    return last


def _continues(words: Sequence[Word], position: int, waiting: list[int]) -> bool:
    """Whether the word at `position`, no adjective or noun, may stand between adjectives and their noun."""
    if not waiting or position + 1 >= len(words):
        return False
    word, follower = words[position], words[position + 1]
    if word.text in _QUOTES:
        return follower.pos in ("adjective", "noun")
    if word.text in _JOINTS:
        hyphen = word.text in ("-", "\u2013")
        return follower.pos in ("adjective", "adverb") or (hyphen and follower.pos != "determiner")
    if word.pos == "verb":
        participle = word.text.endswith(("ing", "ed"))
        return participle and words[position - 1].pos == "adjective" and follower.pos == "noun"
    return word.pos in ("adverb", "number") and follower.pos in _WITHIN | {"noun"}


def _is_auxiliary(words: Sequence[Word], position: int) -> bool:
    """Whether a word is an auxiliary; "has" before "been" always is."""
    word = words[position]
    follower = words[position + 1].text if position + 1 < len(words) else ""
    return word.pos == "auxiliary" or (word.text in _HAVE and follower == "been")


def _complement(words: Sequence[Word], position: int) -> tuple[int, list[int]]:
    """The last of a run of auxiliaries ("may have been"), and the adjectives after it.

    There are none where it is no form of "be", where they are denied, or where a noun follows them.
    """
    denied, last = False, position
    for at in range(position, len(words)):
        if _is_auxiliary(words, at):
            last = at
            denied |= words[at].text.endswith("n't")
        elif words[at].text not in NEGATIONS:
            break
        denied |= words[at].text in NEGATIONS
    found: list[int] = []
    if denied or words[last].text not in BE:
        return last, []
    for at in range(last + 1, len(words)):
        word = words[at]
        if word.pos == "adjective":
            found.append(at)
        elif word.pos == "noun" or word.text in NEGATIONS:
            return last, []
        elif word.pos != "adverb" and word.text not in _JOINTS:
            break
    return last, found


def pairs(caption: str, backend: Tagger, config: PhraseParams = PLAIN) -> list[tuple[str, str]]:
    """(adjective, singular noun) of each modification in a caption; any string will do.

    >>> from vqpipe.params.pos import WordnetPos
    >>> from vqpipe.text.pos import tagger
    >>> pairs("a small bird with a long yellow beak", tagger(WordnetPos(kind="wordnet")))
    [('small', 'bird'), ('long', 'beak'), ('yellow', 'beak')]
    """
    return next(backend.analyse((caption,), config)).pair_words()
