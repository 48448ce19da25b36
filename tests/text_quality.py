"""How good the parts of speech and the pairs are against a treebank and captions labelled by hand, and the mistakes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vqpipe.errors import DataError
from vqpipe.text.tagger import Analysis

NOUNS = ("NOUN", "PROPN")
CLASSES = {"adjective": ("ADJ",), "noun": NOUNS}
"""Our names, and the universal tags that they stand for."""


class Scores(NamedTuple):
    """Precision, recall and F1, each in [0, 1]; 0 where nothing was said or asked for."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, right: int, said: int, gold: int) -> Scores:
        """From counts: how many were right, said by the backend, and asked for."""
        precision, recall = right / max(1, said), right / max(1, gold)
        return cls(precision, recall, 2 * precision * recall / max(1e-9, precision + recall))


@dataclass(frozen=True)
class Gold:
    """One sentence of a treebank.

    `heads` are positions from 0, -1 for the root. `pairs` are the `amod` arcs from a noun or name to an
    adjective, as (adjective, noun); `joined` has besides them the adjectives coordinated with one of these:
    (blue, birds) of "red and blue birds", which a treebank hangs on "red".
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    pairs: frozenset[tuple[int, int]]
    joined: frozenset[tuple[int, int]]


def read_conllu(path: Path) -> Iterator[Gold]:
    """The sentences of a CoNLL-U file; empty nodes and multi-word lines are left out.

    Raises:
        DataError: the file is missing, or a line has not ten columns.
    """
    if not path.is_file():
        raise DataError(f"treebank {path} does not exist")
    rows: list[list[str]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate([*lines, "\n"], start=1):
            line = line.rstrip("\n")
            if line and not line.startswith("#"):
                columns = line.split("\t")
                if len(columns) != 10:
                    found = f"{len(columns)} columns"
                    raise DataError(f"{path}:{number}: not CoNLL-U", found=found, expected=10)
                if columns[0].isdigit():
                    rows.append(columns)
            elif not line and rows:
                yield _sentence(rows)
                rows = []


def _sentence(rows: Sequence[Sequence[str]]) -> Gold:
    tags = tuple(row[3] for row in rows)
    heads = tuple(int(row[6]) - 1 for row in rows)
    relations = tuple(row[7] for row in rows)
    pairs = {
        at: heads[at]
        for at, relation in enumerate(relations)
        if relation == "amod" and tags[at] == "ADJ" and tags[heads[at]] in NOUNS
    }
    joined = {
        at: pairs[heads[at]]
        for at, relation in enumerate(relations)
        if relation == "conj" and tags[at] == "ADJ" and heads[at] in pairs
    }
    tokens = tuple(row[1] for row in rows)
    amod = frozenset(pairs.items())
    return Gold(tokens, tags, heads, relations, amod, amod | frozenset(joined.items()))


def score(found: Iterable[Analysis], sentences: Iterable[Gold]) -> dict[str, Scores]:
    """Scores of `adjective` and `noun` tags, and of modifier pairs: `pair` and `joined` (see `Gold`).

    A pair is right when both positions are. `words` is three-way: adjective, noun or neither, over all
    tokens, so that its precision, recall and F1 all are the accuracy.
    """
    right, said, gold = Counter[str](), Counter[str](), Counter[str]()
    for (words, pairs), sentence in zip(found, sentences, strict=True):
        for word, tag in zip(words, sentence.tags, strict=True):
            names = {name for name, tags in CLASSES.items() if tag in tags}
            ours = {word.pos} & CLASSES.keys()
            right.update(names & ours)
            said.update(ours)
            gold.update(names)
            right["words"] += names == ours
        said["words"] += len(words)
        gold["words"] += len(words)
        for name, true in (("pair", sentence.pairs), ("joined", sentence.joined)):
            right[name] += len(set(pairs) & true)
            said[name] += len(set(pairs))
            gold[name] += len(true)
    return {
        name: Scores.of(right[name], said[name], gold[name]) for name in (*CLASSES, "words", "pair", "joined")
    }


@dataclass(frozen=True)
class LabelledCaption:
    """A caption labelled by hand: its adjectives, nouns (singular) and (adjective, noun) pairs, with repeats.

    `pairs` are attributive ("a red bird"), `predicative` those of "the bird is red".
    """

    id: str
    caption: str
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    predicative: tuple[tuple[str, str], ...]


def read_labelled(path: Path) -> list[LabelledCaption]:
    """The labelled captions of a JSON Lines file with the fields of `LabelledCaption`.

    Raises:
        DataError: the file is missing, a line is not JSON, or it lacks a field.
    """
    if not path.is_file():
        raise DataError(f"labelled captions {path} do not exist")
    captions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row: dict[str, Any] = json.loads(line)
            pairs, predicative = ([(a, n) for a, n in row[name]] for name in ("pairs", "predicative"))
            captions.append(
                LabelledCaption(
                    str(row["id"]), row["caption"], tuple(row["adjectives"]), tuple(row["nouns"]),
                    tuple(pairs), tuple(predicative),
                )
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a labelled caption ({error!r})") from error
    return captions


def score_captions(
    found: Iterable[Analysis], captions: Iterable[LabelledCaption], predicative: bool
) -> dict[str, Scores]:
    """Scores of adjectives, nouns (in the singular) and word pairs, as multisets caption by caption.

    With `predicative` the pairs asked for are those of both kinds, else the attributive ones alone.
    """
    right, said, gold = Counter[str](), Counter[str](), Counter[str]()
    for analysis, caption in zip(found, captions, strict=True):
        wanted = (*caption.pairs, *caption.predicative) if predicative else caption.pairs
        compared: dict[str, tuple[Iterable[Any], Iterable[Any]]] = {
            "adjective": ([w.text for w in analysis.words if w.pos == "adjective"], caption.adjectives),
            "noun": ([w.lemma for w in analysis.words if w.pos == "noun"], caption.nouns),
            "pair": (analysis.pair_words(), wanted),
        }
        for name, (ours, theirs) in compared.items():
            one, other = Counter(ours), Counter(theirs)
            right[name] += (one & other).total()
            said[name] += one.total()
            gold[name] += other.total()
    return {name: Scores.of(right[name], said[name], gold[name]) for name in (*CLASSES, "pair")}


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
