"""Which adjective modifies which noun: by a pass over the noun phrases of a tagged caption, or by a parser's arcs.

Noun phrases (`pair_positions`). All adjectives of a noun phrase modify its head, the last noun of its last run of
nouns: "a small red bird", "black and white cat", "red and blue birds", "yellow fire hydrant" (hydrant, not fire). Four
things differ:

- a compound that WordNet knows keeps its adjective: "high school student" gives (high, school);
- joined parts of one body share their adjectives: "a red head and neck", "a yellow belly, breast and crown";
- on request, a shade before a colour belongs to the colour: "dark red bird" gives only (red, bird);
- on request, "the bird is red" counts too.

Arcs (`arc_pairs`), with English labels of spaCy or universal ones. An adjective modifies the noun that its `amod` arc
comes from, and so do the adjectives that are coordinated with it ("red and blue birds"). Three things are as above:

- where the arc ends at the first noun of a compound that WordNet knows, the pair goes to its head: "yellow fire
  hydrant" gives (yellow, hydrant) even if the parser took the fire for yellow;
- a shade before a colour ("dark red bird"), wherever its own arc leads, counts for the noun or for the colour;
- on request, "the bird is red" counts too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vqpipe.text.english import BE, BODY_PARTS, MARKS
from vqpipe.text.lexicon import lexicon
from vqpipe.text.tagger import PhraseParams, Tagger, Word

SHADES = frozenset({"dark", "light", "pale", "deep"})
_WITHIN = frozenset({"adjective", "adverb", "number", "verb"})
"""What may stand between the adjectives of a noun phrase and its noun: "a very small flying bird"."""
_HAVE = frozenset({"has", "have", "had"})
NEGATIONS = frozenset({"not", "n't", "never"})
_QUOTES = frozenset({'"', "'", "\u201c", "\u201d", "\u2018", "\u2019"})
_BODILY = BODY_PARTS | MARKS
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
            if waiting:
                if words[last].lemma in _BODILY:
                    parts = _joined_parts(words, position, last)
                    found += [(adjective, part) for part in parts[:-1] for adjective in waiting]
                    last = parts[-1]
                found += [(adjective, _head_noun(words, adjective, last)) for adjective in waiting]
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


def _head_noun(words: Sequence[Word], adjective: int, last: int) -> int:
    """The noun that an adjective modifies: the last of the run, unless WordNet knows it with the first.

    WordNet knows "red fire" too, but also the fire hydrant of "red fire hydrant", and then that counts.
    """
    first = adjective + 1
    if first < last and words[first].pos == "noun":
        own = f"{words[adjective].text} {words[first].lemma}"
        rest = f"{words[first].text} {words[first + 1].lemma}"
        if own in lexicon().compounds and rest not in lexicon().compounds:
            return (
                last if words[first].lemma in BODY_PARTS else first
            )  # the ring of "black eye ring" is black
    return last


def _joined_parts(words: Sequence[Word], first: int, last: int) -> list[int]:
    """The heads of a run of nouns from `first` to `last` and of those joined to it, where all are parts of a body.

    Nouns with a determiner or an adjective of their own are not joined. A list may lack commas, but not its
    "and": "belly breast and crown".
    """
    if not _is_part(words, first, last):
        return [last]
    heads, end = [last], len(words)
    while True:
        start = heads[-1] + 1
        if start < end and words[start].text == ",":
            start += 1
        if start < end and words[start].text in ("and", "&", "or"):
            start += 1
        if start == heads[-1] + 1 or start == end or words[start].pos != "noun":
            break
        stop = start
        while stop + 1 < end and words[stop + 1].pos == "noun":
            stop += 1
        if not _is_part(words, start, stop):
            break
        heads.append(stop)
    if len(heads) > 1 and all(words[at].lemma in BODY_PARTS for at in range(first, last)):
        heads[:1] = range(first, last + 1) if words[last].lemma in BODY_PARTS else [last]
    return heads


def _is_part(words: Sequence[Word], first: int, last: int) -> bool:
    """Whether a run of nouns names a part of a body: "belly", "wing bars"."""
    if words[last].lemma in BODY_PARTS:
        return True
    return words[last].lemma in MARKS and any(words[at].lemma in BODY_PARTS for at in range(first, last))


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

    There are none where it is not a form of "be", where they are denied, or where a noun follows them.
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
        elif word.pos != "adverb" and word.text not in _JOINTS and word.text != "all":
            break
    return last, found


_WITHIN_COMPOUND = frozenset({"compound", "nmod", "nn"})
_SUBJECTS = frozenset({"nsubj", "nsubjpass", "nsubj:pass"})
_COMPLEMENTS = frozenset({"acomp", "attr", "oprd"})
_RELATIVE = frozenset({"relcl", "acl:relcl"})


class Arcs(NamedTuple):
    """One parsed caption: for each token its word, the position of its head (its own at the root), its label."""

    words: Sequence[Word]
    heads: Sequence[int]
    labels: Sequence[str]

    def children(self, position: int) -> Iterator[int]:
        """Positions of the tokens whose head is this one, in order."""
        return (at for at, head in enumerate(self.heads) if head == position and at != position)


def arc_pairs(arcs: Arcs, config: PhraseParams) -> list[tuple[int, int]]:
    """Positions (adjective, noun) of each modification, by noun, then by adjective, without repeats."""
    found = set()
    for position, word in enumerate(arcs.words):
        if word.pos != "adjective":
            continue
        if config.shades == "color" and is_shade(arcs.words, position):
            continue
        noun = _modified(arcs, position)
        if noun is None and config.predicative:
            noun = _subject(arcs, position)
        if noun is not None:
            found.add((position, noun))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _first_conjunct(arcs: Arcs, position: int) -> int:
    """What an adjective is coordinated with, through other adjectives only: "blue" of "red and blue" gives "red"."""
    for _ in arcs.words:  # a parser's arcs have no cycles; this bounds the loop nevertheless
        head = arcs.heads[position]
        if arcs.labels[position] != "conj" or arcs.words[head].pos != "adjective":
            break
        position = head
    return position


def _modified(arcs: Arcs, position: int) -> int | None:
    """The noun that an attributive adjective modifies."""
    for _ in arcs.words:
        position = _first_conjunct(arcs, position)
        head, label = arcs.heads[position], arcs.labels[position]
        shade = is_shade(arcs.words, position) and head == position + 1
        if not shade and (label != "amod" or head == position):
            return None
        if arcs.words[head].pos == "noun":
            return _compound_head(arcs, position, head)
        if arcs.words[head].pos != "adjective":
            return None
        position = head  # "light brown dog", where the head of "light" is "brown"
    return None


def _compound_head(arcs: Arcs, adjective: int, noun: int) -> int:
    """The head of the compound that a noun begins, where WordNet knows that and not the adjective with it."""
    head = arcs.heads[noun]
    if arcs.labels[noun] in _WITHIN_COMPOUND and head > noun and arcs.words[head].pos == "noun":
        own = f"{arcs.words[adjective].text} {arcs.words[noun].lemma}"
        rest = f"{arcs.words[noun].text} {arcs.words[head].lemma}"
        if rest in lexicon().compounds and own not in lexicon().compounds:
            return head
    return noun


def _subject(arcs: Arcs, position: int) -> int | None:
    """The noun that a form of "be", not negated, joins with an adjective."""
    position = _first_conjunct(arcs, position)
    head = arcs.heads[position]
    children = list(arcs.children(position))
    if any(arcs.labels[at] == "cop" for at in children):  # universal labels: the adjective is the predicate
        centre = position
    elif arcs.labels[position] in _COMPLEMENTS and arcs.words[head].text in BE:
        centre, children = head, [*children, *arcs.children(head)]
    else:
        return None
    texts = {arcs.words[at].text for at in (centre, *children)}
    if texts & NEGATIONS or any(text.endswith("n't") for text in texts):
        return None
    for at in children:
        if arcs.labels[at] in _SUBJECTS:
            if arcs.words[at].pos != "noun" and arcs.labels[centre] in _RELATIVE:
                at = arcs.heads[centre]  # "a bird that is red"
            return at if arcs.words[at].pos == "noun" else None
    return None


def pairs(caption: str, backend: Tagger, config: PhraseParams = PLAIN) -> list[tuple[str, str]]:
    """(adjective, singular noun) of each modification in a caption, which may be any string.

    >>> from vqpipe.text.pos import tagger
    >>> from vqpipe.text.wordnet_tagger import WordnetPos
    >>> pairs("a small bird with a long yellow beak", tagger(WordnetPos(kind="wordnet")))
    [('small', 'bird'), ('long', 'beak'), ('yellow', 'beak')]
    """
    return next(backend.analyse((caption,), config)).pair_words()
