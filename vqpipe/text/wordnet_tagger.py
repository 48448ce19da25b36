"""The `wordnet` backend: tags from the compiled WordNet, resolved by context (Viterbi over tag pairs)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp, log
from typing import ClassVar, Literal

from vqpipe.text.corrections import correct_tags
from vqpipe.text.english import FIXED, POS, TAGS, follows
from vqpipe.text.lexicon import Candidates, lexicon
from vqpipe.text.phrases import pair_positions
from vqpipe.text.tagger import Analysis, PhraseParams, PosParams, Tagger, Word
from vqpipe.text.tokens import STARTS_SENTENCE

_NAMES = tuple(POS.get(tag, "sign") for tag in TAGS)
_NOUN = TAGS.index("N")
_EDGE = TAGS.index("B")
_NO_CHOICE = [0] * len(TAGS)
_NAME_WEIGHT = 3.0
"""How many times as likely as its lower-case form a capitalised word within a sentence is a noun."""

_FIXED: dict[str, dict[str, Candidates]] = {
    first: {second: ((TAGS.index(tag), 0.0),) for second, tag in after.items()}
    for first, after in FIXED.items()
}


class WordnetPos(PosParams):
    """Parts of speech from the bundled WordNet, resolved by context. Needs nothing else."""

    kind: Literal["wordnet"]
    """Names this kind."""


class WordnetTagger(Tagger):
    """Tags captions with WordNet's classes. It has no state but caches: equal captions give equal words."""

    kind: ClassVar[str] = "wordnet"
    Params: ClassVar[type[PosParams]] = WordnetPos
    max_chunks_alone: ClassVar[int] = 25

    def __init__(self, config: WordnetPos) -> None:
        self._lexicon = lexicon()
        self._after: list[list[float]] = [list(column) for column in zip(*follows(), strict=True)]
        self._named: dict[str, Candidates] = {}

    def analyse_tokens(
        self, captions: Iterable[Sequence[str]], phrases: PhraseParams | None
    ) -> Iterator[Analysis]:
        """Tag captions that are split already, a word for each token; find pairs where `phrases` is given."""
        for tokens in captions:
            words = self.tag_tokens(tokens)
            yield Analysis(words, pair_positions(words, phrases) if phrases else [])

    def tag_tokens(self, tokens: Sequence[str]) -> list[Word]:
        """Tag one caption that is split already; one word for each token, in order."""
        lemma = self._lexicon.noun_lemma
        texts = [token.lower() for token in tokens]
        names = [_NAMES[tag] for tag in self._resolve(tokens, texts)]
        correct_tags(texts, names)
        lemmas = [lemma(text) if name == "noun" else text for text, name in zip(texts, names)]  # noqa: B905
        return list(map(Word, texts, lemmas, names))

    def _resolve(self, tokens: Sequence[str], texts: Sequence[str]) -> list[int]:
        """The best sequence of tags: the sum of each word's share and each pair's `follows` (Viterbi).

        Args:
            tokens: the words of a caption.
            texts: the same in lower case.
        """
        into, candidates, last = self._after, self._lexicon.candidates, len(tokens) - 1
        seen, joint = self._lexicon.seen, _FIXED
        columns: list[Candidates] = []
        links: list[list[int]] = []
        before: Candidates = ((_EDGE, 0.0),)
        scores = [0.0]
        for position, text in enumerate(texts):
            if tokens[position] == text or not self._is_name(tokens, position):
                options = seen.get(text) or candidates(text)
            else:
                options = self._as_name(tokens[position], text)
            if text in joint and position < last:
                options = joint[text].get(texts[position + 1], options)
            if len(scores) == 1:  # most words have one tag, and there is nothing to choose after them
                [(tag_before, _)], [score] = before, scores
                scores = [score + into[tag][tag_before] + share for tag, share in options]
                links.append(_NO_CHOICE)
            else:
                fresh, link = [], []
                for tag, share in options:
                    after = into[tag]
                    best, at = -1e30, 0
                    for index, (tag_before, _) in enumerate(before):
                        value = scores[index] + after[tag_before]
                        if value > best:
                            best, at = value, index
                    fresh.append(best + share)
                    link.append(at)
                scores = fresh
                links.append(link)
            columns.append(options)
            before = options
        ends = [score + into[_EDGE][tag] for score, (tag, _) in zip(scores, before, strict=True)]
        index = ends.index(max(ends))
        tags = []
        for column, link in zip(reversed(columns), reversed(links), strict=True):
            tags.append(column[index][0])
            index = link[index]
        return tags[::-1]

    @staticmethod
    def _is_name(tokens: Sequence[str], position: int) -> bool:
        """Whether a word is capitalised, and not because a sentence starts."""
        return (
            bool(position) and tokens[position][0].isupper() and tokens[position - 1] not in STARTS_SENTENCE
        )

    def _as_name(self, token: str, lower: str) -> Candidates:
        """The candidates of a capitalised word within a sentence."""
        found = self._named.get(token)
        if found is None:
            found = self._lexicon.candidates(lower)
            known_adjective = self._lexicon.weight(lower, "J") > 0  # "Italian" is not a name
            if not known_adjective and not self._lexicon.is_closed(lower):
                weights = {tag: exp(share) for tag, share in found}
                weights[_NOUN] = weights.get(_NOUN, 0.1) * _NAME_WEIGHT
                total = sum(weights.values())
                found = tuple((tag, log(weight / total)) for tag, weight in weights.items())
            if len(self._named) < 1_000_000:  # a bound on memory for texts without end
                self._named[token] = found
        return found
