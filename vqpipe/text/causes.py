"""Why pairs go wrong on a treebank: each false and each missed pair by its cause."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vqpipe.text.quality import NOUNS, Gold
from vqpipe.text.words import Analysis


class Mistake(NamedTuple):
    """One wrong pair: `kind` is "false" or "missed"; `cause` is short and comes from a small set."""

    kind: str
    cause: str
    pair: tuple[str, str]
    sentence: str


def mistakes(found: Iterable[Analysis], sentences: Iterable[Gold]) -> Iterator[Mistake]:
    """Every false and every missed pair, sentence by sentence, against the `amod` arcs.

    A pair with the wrong noun counts twice, as it does in precision and recall: as false and as missed.
    """
    for analysis, sentence in zip(found, sentences, strict=True):
        ours, text = set(analysis.pairs), " ".join(sentence.tokens)
        for kind, pairs in (("false", ours - sentence.pairs), ("missed", sentence.pairs - ours)):
            for pair in sorted(pairs):
                cause = _false(pair, sentence) if kind == "false" else _missed(pair, analysis)
                yield Mistake(kind, cause, (sentence.tokens[pair[0]], sentence.tokens[pair[1]]), text)


def _false(pair: tuple[int, int], sentence: Gold) -> str:
    adjective, noun = pair
    if pair in sentence.joined:
        return "coordinated adjective (the treebank hangs it on the first)"
    if sentence.tags[adjective] != "ADJ":
        return f"{sentence.tags[adjective]} taken for an adjective"
    if sentence.tags[noun] not in NOUNS:
        return f"{sentence.tags[noun]} taken for a noun"
    if any(adjective == own for own, _ in sentence.pairs):
        return "another noun of the phrase"
    return f"the adjective is {sentence.relations[adjective]}, not amod"


def _missed(pair: tuple[int, int], analysis: Analysis) -> str:
    adjective, noun = pair
    words = analysis.words
    if words[adjective].pos != "adjective":
        return f"adjective taken for {words[adjective].pos}"
    if words[noun].pos != "noun":
        return f"noun taken for {words[noun].pos}"
    if any(adjective == own for own, _ in analysis.pairs):
        return "another noun of the phrase"
    if noun < adjective:
        return "the adjective follows its noun"
    between = [word.pos for word in words[adjective + 1 : noun] if word.pos not in ("adjective", "noun")]
    return f"{between[0]} between them" if between else "not joined"
