"""Why an adjective and a noun are joined in a words prior, or why they are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.spec import TableSpec
from vqpipe.artifacts.specs.words import ADJECTIVES, EDGES, NOUNS, WORDS
from vqpipe.artifacts.tables import read_table
from vqpipe.cli.captions import named_captions
from vqpipe.errors import ParamsError, SetupError, VqpipeError
from vqpipe.params.base import validate
from vqpipe.params.graph import PhraseParams
from vqpipe.params.pos import PosParams, pos_params
from vqpipe.runtime.progress import progress_bar
from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import pairs
from vqpipe.text.pos import tagger
from vqpipe.text.tokens import clean, tokenize

MAX_CAPTIONS = 2_000_000
"""Captions that are looked through, so that an answer takes seconds."""
STEP = 10_000
"""Captions for each step of the progress bar."""
NUM_SHOWN = 5
"""Neighbours or near words that are named."""
DEFAULT_PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class _Edge:
    adjective: str
    noun: str
    count: int
    weight: float
    pmi: float
    examples: list[str]


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


@dataclass(frozen=True)
class _Prior:
    facts: dict[str, Any]
    adjectives: dict[str, int]
    nouns: dict[str, int]
    edges: list[_Edge]

    def edge(self, adjective: str, noun: str) -> _Edge | None:
        return next((e for e in self.edges if (e.adjective, e.noun) == (adjective, noun)), None)

    def nouns_of(self, adjective: str) -> list[_Edge]:
        return _strongest(edge for edge in self.edges if edge.adjective == adjective)

    def adjectives_of(self, noun: str) -> list[_Edge]:
        return _strongest(edge for edge in self.edges if edge.noun == noun)


def explain(prior: Path, adjective: str, noun: str, corpus: Path | None) -> str:
    """Whether a words prior joins an adjective and a noun, and why, as lines of text.

    Args:
        prior: a WORDS folder.
        adjective: any spelling; compared in lower case.
        noun: as `adjective`, in the singular or plural.
        corpus: captions, a dataset artifact, or a params file whose section `corpus` says where the captions lie
            (`vqpipe.cli.captions`). None tries `params.yaml` in the current folder, and does without the captions'
            text where that does not work.

    Raises:
        ArtifactError: no words prior there, or a damaged one.
        ParamsError: an empty word.
        DataError, ArtifactError, ParamsError: the corpus that is named cannot be read.
    """
    known = _read(prior)
    words = _spelt(known, adjective, noun)
    lacking = _unknown_words(known, *words)
    if lacking:
        return "\n".join([f"{' '.join(words)}: no edge", *lacking])
    edge = known.edge(*words)
    lines = [f"{' '.join(words)}: {'an edge' if edge else 'no edge'}"]
    try:
        captions = _Bounded(named_captions(corpus or DEFAULT_PARAMS, "--corpus"))
        told = _why(known, edge, captions) if edge else _why_not(known, words, captions)
        if captions.cut:
            told.append(f"  (only the first {MAX_CAPTIONS:,} captions were looked at)")
    except VqpipeError as error:
        if corpus is not None:
            raise
        hint = f"  (the captions cannot be read: {str(error).splitlines()[0]}; name them with --corpus)"
        told = [*(_why(known, edge, None) if edge else _why_not(known, words, None)), hint]
    return "\n".join([*lines, *told, *_degrees(known, *words)])


def _read(folder: Path) -> _Prior:
    facts = read_manifest(folder, WORDS).facts
    adjectives, nouns = _counts(folder, ADJECTIVES), _counts(folder, NOUNS)
    names = list(adjectives), list(nouns)
    edges = [
        _Edge(
            names[0][row["adjective"]], names[1][row["noun"]],
            row["count"], row["weight"], row["pmi"], row["examples"],
        )
        for row in read_table(folder / "edges.parquet", EDGES).to_pylist()
    ]  # fmt: skip
    return _Prior(facts, adjectives, nouns, edges)


def _counts(folder: Path, spec: TableSpec) -> dict[str, int]:
    table = read_table(folder / f"{spec.name}.parquet", spec).to_pydict()
    return dict(zip(table["word"], table["count"], strict=True))


def _spelt(known: _Prior, adjective: str, noun: str) -> tuple[str, str]:
    """The words as the vocabulary spells them: lower case, a plural as its singular where only that is known."""
    adjective, noun = (clean(word)[0].strip().lower() for word in (adjective, noun))
    if not adjective or not noun:
        raise ParamsError("a word is empty", expected="an adjective and a noun", run="vqpipe why red bird")
    if noun not in known.nouns and (lemma := lexicon().noun_lemma(noun)) in known.nouns:
        noun = lemma
    return adjective, noun


def _unknown_words(known: _Prior, adjective: str, noun: str) -> list[str]:
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
        lines.append("  (a word is left out that is said too rarely, or tagged otherwise: see vqpipe pairs)")
    return lines


def _why(known: _Prior, edge: _Edge, captions: Iterable[tuple[str, str]] | None) -> list[str]:
    by_count = 1 + sum(other.count > edge.count for other in known.edges)
    by_pmi = 1 + sum(other.pmi > edge.pmi for other in known.edges)
    of = f"of {len(known.edges):,} edges"
    chance = (
        "as often as" if abs(edge.pmi) < 0.005 else "more often than" if edge.pmi > 0 else "less often than"
    )
    lines = [
        f"  said    {_times(edge.count)}, rank {by_count:,} {of}; an edge needs {known.facts['min_count']:,}",
        f"  weight  {edge.weight:g} ({known.facts['weight']})",
        f"  PMI     {edge.pmi:.2f} nats, rank {by_pmi:,} {of}: {chance} by chance",
    ]
    if captions is None:
        return [*lines, f"  first captions: {', '.join(edge.examples)}"]
    return [*lines, "  first captions", *_examples(known, edge, captions)]


def _why_not(known: _Prior, words: tuple[str, str], captions: Iterable[tuple[str, str]] | None) -> list[str]:
    """Said never, or too rarely: told by counting, where there are captions."""
    least = int(known.facts["min_count"])
    if captions is None:
        return [
            "  never said together in the captions"
            if least == 1
            else f"  said fewer than {least:,} times in the captions (graph.min_count)"
        ]
    backend, phrases = tagger(_pos(known)), _phrases(known)
    said, first = 0, ""
    for caption_id, caption in captions:
        if _has_both(caption, words) and (times := pairs(caption, backend, phrases).count(words)):
            first = first or f"    {caption_id}  {caption}"
            said += times
    if not said:
        return ["  never said together in these captions"]
    told = f"  said {_times(said)} in these captions"
    if said < least:
        return [f"{told}; an edge needs {least:,} (graph.min_count)", first]
    return [f"{told}, which is enough for an edge ({least:,}): the prior was made of others", first]


def _has_both(caption: str, words: tuple[str, str]) -> bool:
    """Whether a caption has both words, the noun in any number: cheap, since most captions lack one."""
    text = clean(caption)[0].lower()
    lemma = lexicon().noun_lemma
    return words[0] in text and any(lemma(token) == words[1] for token in tokenize(text))


def _examples(known: _Prior, edge: _Edge, captions: Iterable[tuple[str, str]]) -> list[str]:
    """The captions behind an edge's first ids: of an image's several, those that say the pair.

    Where no caption has such an id, since the prior was made of captions with other ids, the first that say it.
    """
    try:
        backend, note = tagger(_pos(known)), ""
    except SetupError as error:
        backend = None
        note = f"    (all captions of these images: {str(error).splitlines()[0]})"
    phrases, words = _phrases(known), (edge.adjective, edge.noun)
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
        note = "    (the prior's own captions have other ids)"
        found = {}
        for caption_id, caption in others:
            found.setdefault(caption_id, []).append(caption)
    width = max(map(len, found), default=0)
    lines = [f"    {name:<{width}}  {text}" for name, texts in found.items() for text in texts[:NUM_SHOWN]]
    lines += [f"    {name:<{width}}  (not in these captions)" for name, texts in found.items() if not texts]
    return [*lines, note] if note else lines


def _degrees(known: _Prior, adjective: str, noun: str) -> list[str]:
    nouns, adjectives = known.nouns_of(adjective), known.adjectives_of(noun)
    return [
        f"  {adjective}: said {_times(known.adjectives[adjective])}, "
        f"modifies {len(nouns):,} of {len(known.nouns):,} nouns{_first(edge.noun for edge in nouns)}",
        f"  {noun}: said {_times(known.nouns[noun])}, modified by {len(adjectives):,} of "
        f"{len(known.adjectives):,} adjectives{_first(edge.adjective for edge in adjectives)}",
    ]


def _pos(known: _Prior) -> PosParams:
    return pos_params(known.facts["pos"], "words prior")


def _phrases(known: _Prior) -> PhraseParams:
    return validate(known.facts["phrases"], "phrases", PhraseParams, "words prior")


def _strongest(edges: Iterator[_Edge]) -> list[_Edge]:
    return sorted(edges, key=lambda edge: (-edge.count, edge.adjective, edge.noun))


def _first(words: Iterator[str]) -> str:
    listed: Sequence[str] = list(words)
    dots = ", …" if len(listed) > NUM_SHOWN else ""
    return f": {', '.join(listed[:NUM_SHOWN])}{dots}" if listed else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
