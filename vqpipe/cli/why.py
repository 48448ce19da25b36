"""Why a words codebook has an edge between an adjective and a noun, or why it has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from vqpipe.cli.captions import named_captions
from vqpipe.codebooks.words import Edge, WordsCodebook, read_words_codebook
from vqpipe.errors import ParamsError, SetupError, VqpipeError
from vqpipe.params.base import validate
from vqpipe.runtime.terminal import progress_bar
from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import pairs
from vqpipe.text.pos import pos_params, tagger
from vqpipe.text.tagger import PhraseParams, PosParams
from vqpipe.text.tokens import clean, tokenize

MAX_CAPTIONS = 2_000_000
"""Captions that are looked through, so that an answer takes seconds."""
STEP = 10_000
"""Captions for each step of the progress bar."""
NUM_SHOWN = 5
"""Neighbours or near words that are named."""
DEFAULT_PARAMS = Path("params.yaml")


class _Bounded:
    """The first `MAX_CAPTIONS` captions, with a progress bar where there is a terminal."""

    def __init__(self, captions: Iterator[tuple[str, str]]) -> None:
        self._captions = captions
        self.cut = False
        """Whether there are more."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with progress_bar("captions") as bar:
            for number, pair in enumerate(self._captions, 1):
                if number > MAX_CAPTIONS:
                    self.cut = True
                    return
                yield pair
                if number % STEP == 0:
                    bar.advance(STEP)


class _Known:
    """A words codebook by its words."""

    def __init__(self, codebook: WordsCodebook) -> None:
        self.facts = codebook.facts
        self.adjectives = dict(zip(codebook.adjectives, codebook.adjective_counts, strict=True))
        self.nouns = dict(zip(codebook.nouns, codebook.noun_counts, strict=True))
        self.edges = list(codebook.named_edges())

    @property
    def pos(self) -> PosParams:
        return pos_params(self.facts["pos"], "words codebook")

    @property
    def phrases(self) -> PhraseParams:
        return validate(self.facts["phrases"], "phrases", PhraseParams, "words codebook")

    def edge(self, adjective: str, noun: str) -> Edge | None:
        return next((e for e in self.edges if (e.adjective, e.noun) == (adjective, noun)), None)

    def nouns_of(self, adjective: str) -> list[Edge]:
        return _strongest(edge for edge in self.edges if edge.adjective == adjective)

    def adjectives_of(self, noun: str) -> list[Edge]:
        return _strongest(edge for edge in self.edges if edge.noun == noun)


def explain(folder: Path, adjective: str, noun: str, corpus: Path | None) -> str:
    """Whether a words codebook has an edge between an adjective and a noun, and why, as lines of text.

    Args:
        folder: a WORDS folder.
        adjective: any spelling; compared in lower case.
        noun: as `adjective`, in the singular or plural.
        corpus: captions, a dataset artifact, or a params file whose section `corpus` names the captions
            (`vqpipe.cli.captions`). None tries `params.yaml` in the current folder, and does without the captions'
            text where that does not work.

    Raises:
        ArtifactError: no words codebook there, or a damaged one.
        ParamsError: an empty word.
        DataError, ArtifactError, ParamsError: the corpus that is named cannot be read.
    """
    known = _Known(read_words_codebook(folder))
    words = _spelt(known, adjective, noun)
    lacking = _unknown_words(known, *words)
    if lacking:
        return "\n".join([f"{' '.join(words)}: no edge", *lacking])
    edge = known.edge(*words)
    lines = [f"{' '.join(words)}: {'an edge' if edge else 'no edge'}"]
    try:
        captions = _Bounded(named_captions(corpus or DEFAULT_PARAMS, "--corpus"))
        reasons = _why(known, edge, captions) if edge else _why_not(known, words, captions)
        if captions.cut:
            reasons.append(f"  (only the first {MAX_CAPTIONS:,} captions were looked at)")
    except VqpipeError as error:
        if corpus is not None:
            raise
        advice = "" if isinstance(error, SetupError) else "; name them with --corpus"
        hint = f"  (the captions cannot be searched: {str(error).splitlines()[0]}{advice})"
        reasons = [*(_why(known, edge, None) if edge else _why_not(known, words, None)), hint]
    return "\n".join([*lines, *reasons, *_degrees(known, *words)])


def _spelt(known: _Known, adjective: str, noun: str) -> tuple[str, str]:
    """The words as the vocabulary spells them: lower case, a plural as its singular where only that is known."""
    adjective, noun = (clean(word)[0].strip().lower() for word in (adjective, noun))
    if not adjective or not noun:
        raise ParamsError("a word is empty", expected="an adjective and a noun", run="vqpipe why red bird")
    if noun not in known.nouns and (lemma := lexicon().noun_lemma(noun)) in known.nouns:
        noun = lemma
    return adjective, noun


def _unknown_words(known: _Known, adjective: str, noun: str) -> list[str]:
    """A line for each word that the vocabulary lacks."""
    lines = []
    sides = (
        (adjective, "adjective", known.adjectives, known.nouns),
        (noun, "noun", known.nouns, known.adjectives),
    )
    for word, name, own, other in sides:
        if word in own:
            continue
        near = ""
        if word in other:
            near = f" (it is one of the {'nouns' if name == 'adjective' else 'adjectives'})"
        elif close := get_close_matches(word, list(own), n=NUM_SHOWN, cutoff=0.6):
            near = f"; nearest: {', '.join(close)}"
        lines.append(f"  {word} is not among the {len(own):,} {name}s{near}")
    if lines and adjective in known.nouns and noun in known.adjectives:
        return [*lines, f"  did you mean {noun} {adjective}?"]
    if lines:
        lines.append(
            "  (a word is left out that is too rare, or tagged as another part of speech: see vqpipe pairs)"
        )
    return lines


def _why(known: _Known, edge: Edge, captions: Iterable[tuple[str, str]] | None) -> list[str]:
    by_count = 1 + sum(other.count > edge.count for other in known.edges)
    by_pmi = 1 + sum(other.pmi > edge.pmi for other in known.edges)
    of = f"of {len(known.edges):,} edges"
    chance = (
        "as often as" if abs(edge.pmi) < 0.005 else "more often than" if edge.pmi > 0 else "less often than"
    )
    lines = [
        f"  occurs  {_times(edge.count)}, rank {by_count:,} {of}; an edge needs {known.facts['min_count']:,}",
        f"  weight  {edge.weight:g} ({known.facts['weight']})",
        f"  PMI     {edge.pmi:.2f} nats, rank {by_pmi:,} {of}: {chance} by chance",
    ]
    if captions is None:
        return [*lines, f"  first captions: {', '.join(edge.examples)}"]
    return [*lines, "  first captions", *_examples(known, edge, captions)]


def _why_not(known: _Known, words: tuple[str, str], captions: Iterable[tuple[str, str]] | None) -> list[str]:
    """The pair never occurs, or too rarely: found by counting, where there are captions."""
    least = int(known.facts["min_count"])
    if captions is None:
        return [
            "  the captions do not have this pair"
            if least == 1
            else f"  occurs fewer than {least:,} times in the captions (graph.min_count)"
        ]
    backend, phrases = tagger(known.pos), known.phrases
    found, first = 0, ""
    for caption_id, caption in captions:
        if _has_both(caption, words) and (times := pairs(caption, backend, phrases).count(words)):
            first = first or f"    {caption_id}  {caption}"
            found += times
    if not found:
        return ["  these captions do not have this pair"]
    counted = f"  occurs {_times(found)} in these captions"
    if found < least:
        return [f"{counted}; an edge needs {least:,} (graph.min_count)", first]
    return [f"{counted}, which is enough for an edge ({least:,}): the codebook was made of others", first]


def _has_both(caption: str, words: tuple[str, str]) -> bool:
    """Whether a caption has both words, the noun in any number. It is cheap, and most captions lack one."""
    text = clean(caption)[0].lower()
    lemma = lexicon().noun_lemma
    return words[0] in text and any(lemma(token) == words[1] for token in tokenize(text))


def _examples(known: _Known, edge: Edge, captions: Iterable[tuple[str, str]]) -> list[str]:
    """The captions behind an edge's first ids: of an image's several, those that have the pair.

    Where no caption has such an id, since the codebook was made of captions with other ids, the first that have it.
    """
    try:
        backend, note = tagger(known.pos), ""
    except SetupError as error:
        backend = None
        note = f"    (all captions of these images: {str(error).splitlines()[0]})"
    phrases, words = known.phrases, (edge.adjective, edge.noun)
    found: dict[str, list[str]] = {caption_id: [] for caption_id in edge.examples}
    others: list[tuple[str, str]] = []
    for caption_id, caption in captions:
        behind = caption_id in found
        if not behind and (backend is None or len(others) == NUM_SHOWN or not _has_both(caption, words)):
            continue
        if backend is None or words in pairs(caption, backend, phrases):
            if behind:
                found[caption_id].append(caption)
            else:
                others.append((caption_id, caption))
            if backend is not None and all(found.values()):
                break
    if others and not any(found.values()):
        note = "    (the codebook's own captions have other ids)"
        found = {}
        for caption_id, caption in others:
            found.setdefault(caption_id, []).append(caption)
    width = max(map(len, found), default=0)
    lines = [f"    {name:<{width}}  {text}" for name, texts in found.items() for text in texts[:NUM_SHOWN]]
    lines += [f"    {name:<{width}}  (not in these captions)" for name, texts in found.items() if not texts]
    return [*lines, note] if note else lines


def _degrees(known: _Known, adjective: str, noun: str) -> list[str]:
    nouns, adjectives = known.nouns_of(adjective), known.adjectives_of(noun)
    return [
        f"  {adjective}: occurs {_times(known.adjectives[adjective])}, "
        f"modifies {len(nouns):,} of {len(known.nouns):,} nouns{_first(edge.noun for edge in nouns)}",
        f"  {noun}: occurs {_times(known.nouns[noun])}, modified by {len(adjectives):,} of "
        f"{len(known.adjectives):,} adjectives{_first(edge.adjective for edge in adjectives)}",
    ]


def _strongest(edges: Iterator[Edge]) -> list[Edge]:
    return sorted(edges, key=lambda edge: (-edge.count, edge.adjective, edge.noun))


def _first(words: Iterator[str]) -> str:
    listed: Sequence[str] = list(words)
    dots = ", …" if len(listed) > NUM_SHOWN else ""
    return f": {', '.join(listed[:NUM_SHOWN])}{dots}" if listed else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
