"""Which adjective modifies which noun, from a parser's arcs: English labels of spaCy or universal ones.

An adjective modifies the noun that its `amod` arc comes from, and so do the adjectives that are coordinated with
it ("red and blue birds"). Three things are as in `vqpipe.text.phrases`:

- where the arc ends at the first noun of a compound that WordNet knows, the pair goes to its head: "yellow fire
  hydrant" gives (yellow, hydrant) even if the parser took the fire for yellow;
- a shade before a colour ("dark red bird"), whatever it hangs on, counts for the noun or for the colour;
- on request, "the bird is red" counts too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vqpipe.params.graph import PhraseParams
from vqpipe.text.closed_class import BE
from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import NEGATIONS, is_shade
from vqpipe.text.words import Word

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
        """Positions of the tokens that hang on one, in order."""
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
    """What an adjective is coordinated with, through adjectives alone: "blue" of "red and blue" gives "red"."""
    for _ in arcs.words:  # a parser's arcs have no circles; a bound all the same
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
            return _head(arcs, position, head)
        if arcs.words[head].pos != "adjective":
            return None
        position = head  # "light brown dog", where "light" hangs on "brown"
    return None


def _head(arcs: Arcs, adjective: int, noun: int) -> int:
    """The head of the compound that a noun begins, where WordNet knows that and not the adjective with it."""
    head = arcs.heads[noun]
    if arcs.labels[noun] in _WITHIN_COMPOUND and head > noun and arcs.words[head].pos == "noun":
        own = f"{arcs.words[adjective].text} {arcs.words[noun].lemma}"
        rest = f"{arcs.words[noun].text} {arcs.words[head].lemma}"
        if rest in lexicon().compounds and own not in lexicon().compounds:
            return head
    return noun


def _subject(arcs: Arcs, position: int) -> int | None:
    """The noun of which an adjective is said by a form of "be" that is not denied."""
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
