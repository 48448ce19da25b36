"""The `wordnet` backend: tags from the compiled WordNet, resolved by context (Viterbi over tag pairs)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, log

from vqpipe.params.graph import PhraseParams
from vqpipe.text.closed_class import FIXED, POS, TAGS, follows
from vqpipe.text.lexicon import Candidates, lexicon
from vqpipe.text.phrases import pair_positions
from vqpipe.text.tokens import clean, tokenize
from vqpipe.text.words import Analysis, Word

_NOUN = TAGS.index("N")
_EDGE = TAGS.index("B")
_NAME_WEIGHT = 3.0
"""How many times as likely as its lower-case form a capitalised word within a sentence is a noun."""
_STARTS_SENTENCE = {".", "!", "?", ":", '"', "\u201c"}

_FIXED: dict[str, dict[str, Candidates]] = {
    first: {second: ((TAGS.index(tag), 0.0),) for second, tag in after.items()}
    for first, after in FIXED.items()
}


class WordnetTagger:
    """Tags captions with WordNet's classes. Holds no state but caches: equal captions give equal words."""

    def __init__(self) -> None:
        self._lexicon = lexicon()
        self._follows = follows()
        self._named: dict[str, Candidates] = {}

    @property
    def colors(self) -> frozenset[str]:
        return self._lexicon.colors

    @property
    def compounds(self) -> frozenset[str]:
        return self._lexicon.compounds

    def analyse(self, captions: Sequence[str], phrases: PhraseParams | None) -> Iterator[Analysis]:
        """Clean, split, tag and, where `phrases` is given, pair each caption, in order."""
        for caption in captions:
            words = self.tag(caption)
            yield Analysis(words, pair_positions(words, self, phrases) if phrases else [])

    def tag(self, caption: str) -> list[Word]:
        """Clean, split and tag one caption."""
        return self.tag_tokens(tokenize(clean(caption)[0]))

    def tag_tokens(self, tokens: Sequence[str]) -> list[Word]:
        """Tag one caption that is split already; one word for each token, in order."""
        lexicon_ = self._lexicon
        words = []
        for token, tag in zip(tokens, self._resolve(tokens), strict=True):
            lower = token.lower()
            lemma = lexicon_.noun_lemma(lower) if tag == _NOUN else lower
            words.append(Word(lower, lemma, POS[TAGS[tag]]))
        return words

    def _resolve(self, tokens: Sequence[str]) -> list[int]:
        """The best sequence of tags: the sum of each word's share and each pair's `follows` (Viterbi)."""
        table = self._follows
        scores: list[tuple[int, float]] = [(_EDGE, 0.0)]
        columns: list[list[tuple[int, float]]] = []
        links: list[list[int]] = []
        previous = "."
        for position, token in enumerate(tokens):
            options = self._candidates(token, previous)
            fixed = _FIXED.get(token.lower())
            if fixed and position + 1 < len(tokens):
                options = fixed.get(tokens[position + 1], options)
            fresh, link = [], []
            for tag, share in options:
                best, at = -1e30, 0
                for index, (before, score) in enumerate(scores):
                    value = score + table[before][tag]
                    if value > best:
                        best, at = value, index
                fresh.append((tag, best + share))
                link.append(at)
            columns.append(fresh)
            links.append(link)
            scores, previous = fresh, token
        ends = [score + table[tag][_EDGE] for tag, score in scores]
        index = ends.index(max(ends))
        tags = []
        for column, link in zip(reversed(columns), reversed(links), strict=True):
            tags.append(column[index][0])
            index = link[index]
        return tags[::-1]

    def _candidates(self, token: str, previous: str) -> Candidates:
        if token[:1].isupper() and previous not in _STARTS_SENTENCE:
            return self._as_name(token)
        return self._lexicon.candidates(token.lower().replace("\u2019", "'"))

    def _as_name(self, token: str) -> Candidates:
        """The candidates of a capitalised word within a sentence."""
        found = self._named.get(token)
        if found is None:
            lower = token.lower().replace("\u2019", "'")
            found = self._lexicon.candidates(lower)
            known_adjective = self._lexicon.weight(lower, "J") > 0  # "Italian" is as good as "italian"
            if not known_adjective and not self._lexicon.is_closed(lower):
                weights = {tag: exp(share) for tag, share in found}
                weights[_NOUN] = weights.get(_NOUN, 0.1) * _NAME_WEIGHT
                total = sum(weights.values())
                found = tuple((tag, log(weight / total)) for tag, weight in weights.items())
            if len(self._named) < 1_000_000:  # a bound on memory for texts without end
                self._named[token] = found
        return found
