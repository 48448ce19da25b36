"""The `nltk` backend: NLTK's averaged perceptron tagger over our tokens, and pairs by noun phrases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from vqpipe.errors import SetupError
from vqpipe.text.corrections import correct_before_nouns, correct_tags
from vqpipe.text.english import FIXED, POS, TAGS, part_of_speech, penn_tokens
from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import pair_positions
from vqpipe.text.tagger import Analysis, PhraseParams, PosParams, Tagger, Word
from vqpipe.text.tokens import STARTS_SENTENCE

if TYPE_CHECKING:
    from nltk.tag.perceptron import PerceptronTagger

DATA = "averaged_perceptron_tagger_eng"
"""The name of the tagger's data in NLTK's collection."""
SHORT_CAPITALS = 3
"""A word in capitals of up to this length may be an abbreviation, such as US."""


def _load() -> PerceptronTagger:
    import nltk.data
    from nltk.tag.perceptron import PerceptronTagger

    try:
        return PerceptronTagger()
    except (LookupError, OSError, ValueError) as error:
        raise SetupError(
            f"the backend nltk needs NLTK's data {DATA}",
            found=f"none that can be read in {', '.join(nltk.data.path)}",
            expected="the data there, or in a folder that the environment variable NLTK_DATA names",
            run=f"python -m nltk.downloader {DATA}",
        ) from error


def _abbreviation(token: str) -> bool:
    return 1 < len(token) <= SHORT_CAPITALS and token.isupper()


class NltkPos(PosParams):
    """Parts of speech from NLTK's averaged perceptron tagger, whose data the user installs."""

    kind: Literal["nltk"]
    """Names this kind."""


class NltkTagger(Tagger):
    """Tags captions with NLTK; it sees them as its training text was written (`vqpipe.text.english.penn_tokens`).

    Two weaknesses are corrected, since vocabularies are made of the result. A capital that only starts a sentence, or a
    word in capitals, is shown to it in lower case: it takes "Great teacher" for a name. And an adjective or a noun that
    WordNet has only in other classes gets the most frequent of those: "silk", "wine" and "birthday" are nouns before a
    noun too. Words that WordNet does not have keep NLTK's tags.

    Raises:
        SetupError: the tagger's data is not on this machine.
    """

    kind: ClassVar[str] = "nltk"
    Params: ClassVar[type[PosParams]] = NltkPos

    def __init__(self, config: NltkPos) -> None:
        self._tagger = _load()
        self._lexicon = lexicon()

    def analyse_tokens(
        self, captions: Iterable[Sequence[str]], phrases: PhraseParams | None
    ) -> Iterator[Analysis]:
        """Tag captions that are split already, a word for each token; find pairs where `phrases` is given."""
        for tokens in captions:
            words = self.tag_tokens(tokens)
            yield Analysis(words, pair_positions(words, phrases) if phrases else [])

    def tag_tokens(self, tokens: Sequence[str]) -> list[Word]:
        """Tag one caption that is split already; one word for each token, in order."""
        pieces, starts = penn_tokens(self._in_sentence_case(tokens), signs=True)
        tags = [tag for _, tag in self._tagger.tag(pieces)]
        texts = [token.lower() for token in tokens]
        names = [part_of_speech(tags[start], pieces[start].lower()) for start in starts]
        for at, (token, follower) in enumerate(zip(tokens, [*texts[1:], ""], strict=False)):
            if not (names[at] == "noun" and _abbreviation(pieces[starts[at]])):
                names[at] = self._checked(token.lower(), names[at], follower)
        correct_before_nouns(texts, names)
        correct_tags(texts, names)
        lemma = self._lexicon.noun_lemma
        return [
            Word(text, lemma(text) if name == "noun" else text, name)
            for text, name in zip(texts, names, strict=True)
        ]

    def _in_sentence_case(self, tokens: Sequence[str]) -> list[str]:
        """Known words in lower case where they start a sentence or are in capitals throughout."""
        found, starts = [], True
        all_shouted = " ".join(tokens).isupper()
        for token in tokens:
            shouted = token.isupper() and (all_shouted or not _abbreviation(token))
            if token[:1].isupper() and token != "I" and (starts or shouted):
                lower = token.lower()
                token = lower if self._lexicon.knows(lower) else token
            found.append(token)
            starts = token in STARTS_SENTENCE or (starts and not token[:1].isalpha())
        return found

    def _checked(self, word: str, pos: str, follower: str) -> str:
        """NLTK's part of speech of a lower-case word, or WordNet's where it has no such adjective or noun."""
        if not any(char.isalnum() for char in word):
            return "sign"
        if follower in FIXED.get(word, ()):
            return POS[FIXED[word][follower]]
        if pos not in ("adjective", "noun") or not self._lexicon.knows(word):
            return pos
        candidates = self._lexicon.candidates(word)
        if any(POS[TAGS[tag]] == pos for tag, _ in candidates):
            return pos
        best, _ = max(candidates, key=lambda candidate: candidate[1])
        return POS[TAGS[best]]
