"""What a caption of the scenes states: objects with their adjectives, and the place.

Exact on the captions that the scenes' grammar writes (`vqpipe.data.scenes.language`), for their nouns and adjectives:
an adjective belongs to the noun that it stands before without another word between (`a small red bird`), or that it is
the predicate of (`the bird is small and red`, `a bird that is red`). Other captions are not parsed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from vqpipe.data.scenes.grammar import COLOURS

COLOUR_WORDS: Final = frozenset(COLOURS)
"""The adjectives that are colours."""


@dataclass(frozen=True)
class Mention:
    """A noun phrase of a caption: the adjectives before the noun, and those that are its predicate."""

    noun: str
    adjectives: tuple[str, ...] = ()
    predicate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stated:
    """What a caption states."""

    mentions: tuple[Mention, ...]
    """The objects, one entry for each phrase: two birds are two."""
    place: str | None
    """The class of the image; None where the caption names none."""

    @property
    def objects(self) -> tuple[str, ...]:
        """The nouns, in order."""
        return tuple(mention.noun for mention in self.mentions)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (adjective, noun) pairs that are stated attributively, in order; see `Caption.pairs` of the scenes."""
        return tuple((word, mention.noun) for mention in self.mentions for word in mention.adjectives)


def stated(
    caption: str, things: Collection[str], adjectives: Collection[str], places: Collection[str]
) -> Stated:
    """Read a caption.

    Args:
        caption: a caption of the scenes.
        things: the nouns of objects; other nouns are passed over.
        adjectives: all adjectives of these nouns.
        places: the names of the classes.
    """
    words = caption.replace(",", " ").split()
    mentions, place = [], None
    for at, word in enumerate(words):
        if word in places:
            place = word
        if word not in things:
            continue
        first = at
        while first and words[first - 1] in adjectives:
            first -= 1
        mentions.append(Mention(word, tuple(words[first:at]), _predicate(words[at + 1 :], adjectives)))
    return Stated(tuple(mentions), place)


def _predicate(rest: list[str], adjectives: Collection[str]) -> tuple[str, ...]:
    """The adjectives of `is A and B` or `that is A` where a clause begins so."""
    rest = rest[1:] if rest[:1] == ["that"] else rest
    if rest[:1] != ["is"]:
        return ()
    found: list[str] = []
    for at in range(1, len(rest), 2):
        if rest[at] not in adjectives or (found and rest[at - 1] != "and"):
            break
        found.append(rest[at])
    return tuple(found)
