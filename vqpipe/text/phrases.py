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
from vqpipe.text.words import Tagger, Word

SHADES = frozenset({"dark", "light", "pale", "deep"})
_WITHIN = frozenset({"adjective", "adverb", "number", "verb"})
"""What may stand between the adjectives of a noun phrase and its noun: "a very small flying bird"."""
_NEGATIONS = frozenset({"not", "n't", "never"})
_JOINTS = frozenset({",", "/", "-", "&", "and", "or", "but", "\u2013"})


PLAIN = PhraseParams(predicative=False, shades="noun")
"""All adjectives before the noun, and nothing else."""


def pair_positions(
    words: Sequence[Word], tagger: Tagger, config: PhraseParams = PLAIN
) -> list[tuple[int, int]]:
    """Positions (adjective, noun) of each modification in a tagged caption, in the order of the nouns."""
    shades_apart = config.shades == "color"
    found: list[tuple[int, int]] = []
    waiting: list[int] = []
    subject = -1
    position, end = 0, len(words)
    while position < end:
        word = words[position]
        if word.pos == "adjective":
            if not (shades_apart and _is_shade(words, position, tagger)):
                waiting.append(position)
        elif word.pos == "noun":
            last = position
            while last + 1 < end and words[last + 1].pos == "noun":
                last += 1
            for adjective in waiting:
                found.append((adjective, _head(words, adjective, last, tagger)))
            waiting, subject, position = [], last, last
        elif config.predicative and word.pos == "auxiliary" and subject >= 0:
            if not word.text.endswith("n't"):
                found += [(adjective, subject) for adjective in _complement(words, position + 1)]
            waiting, subject = [], -1
        elif not _continues(words, position, waiting):
            waiting = []
            if word.pos not in ("adverb", "subordinator"):
                subject = -1
        position += 1
    return found


def _is_shade(words: Sequence[Word], position: int, tagger: Tagger) -> bool:
    follower = words[position + 1] if position + 1 < len(words) else None
    return (
        words[position].text in SHADES
        and follower is not None
        and follower.text in tagger.colors
        and follower.pos == "adjective"
    )


def _head(words: Sequence[Word], adjective: int, last: int, tagger: Tagger) -> int:
    """The noun that an adjective modifies: the last of the run, unless WordNet knows it with the first.

    WordNet knows "red fire" too, but also the fire hydrant of "red fire hydrant", and then that counts.
    """
    first = adjective + 1
    if first < last and words[first].pos == "noun":
        own = f"{words[adjective].text} {words[first].lemma}"
        rest = f"{words[first].text} {words[first + 1].lemma}"
        if own in tagger.compounds and rest not in tagger.compounds:
            return first
    return last


def _continues(words: Sequence[Word], position: int, waiting: list[int]) -> bool:
    """Whether the word at `position`, no adjective or noun, may stand between adjectives and their noun."""
    if not waiting or position + 1 >= len(words):
        return False
    word, follower = words[position], words[position + 1]
    if word.text in _JOINTS:
        hyphen = word.text in ("-", "\u2013")
        return follower.pos in ("adjective", "adverb") or (hyphen and follower.pos != "determiner")
    if word.pos == "verb":
        participle = word.text.endswith(("ing", "ed"))
        return participle and words[position - 1].pos == "adjective" and follower.pos == "noun"
    return word.pos in ("adverb", "number") and follower.pos in _WITHIN | {"noun"}


def _complement(words: Sequence[Word], position: int) -> list[int]:
    """The adjectives right after a form of "be", unless a noun follows them or they are denied."""
    found = []
    for at in range(position, len(words)):
        word = words[at]
        if word.pos == "adjective":
            found.append(at)
        elif word.pos == "noun":
            return []
        elif word.pos != "adverb" and word.text not in _JOINTS:
            break
        elif word.text in _NEGATIONS:
            return []
    return found


def pairs_of(words: Sequence[Word], tagger: Tagger, config: PhraseParams = PLAIN) -> list[tuple[str, str]]:
    """(adjective, singular noun) of each modification in a tagged caption."""
    return [(words[a].text, words[n].lemma) for a, n in pair_positions(words, tagger, config)]


def pairs(caption: str, backend: Tagger, config: PhraseParams = PLAIN) -> list[tuple[str, str]]:
    """(adjective, singular noun) of each modification in a caption; any string will do.

    >>> from vqpipe.params.pos import WordnetPos
    >>> from vqpipe.text.pos import tagger
    >>> pairs("a small bird with a long yellow beak", tagger(WordnetPos(kind="wordnet")))
    [('small', 'bird'), ('long', 'beak'), ('yellow', 'beak')]
    """
    return pairs_of(backend.tag(caption), backend, config)
