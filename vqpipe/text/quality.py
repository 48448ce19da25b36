"""How good the parts of speech and the pairs are, against a treebank in CoNLL-U form.

python -m vqpipe.text.quality TREEBANK.conllu
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqpipe.errors import DataError
from vqpipe.text.phrases import pair_positions
from vqpipe.text.words import Tagger

NOUNS = ("NOUN", "PROPN")


@dataclass(frozen=True)
class Gold:
    """One sentence of a treebank: tokens, universal tags, and its `amod` arcs as (adjective, noun)."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    pairs: frozenset[tuple[int, int]]


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
    arcs = {
        (at, int(row[6]) - 1)
        for at, row in enumerate(rows)
        if row[7] == "amod" and row[3] == "ADJ" and tags[int(row[6]) - 1] in NOUNS
    }
    return Gold(tuple(row[1] for row in rows), tags, frozenset(arcs))


def score(tagger: Tagger, sentences: Iterable[Gold]) -> dict[str, float]:
    """Tag recall and precision on adjectives and nouns, and precision, recall and F1 of modifier pairs.

    Gold pairs are `amod` arcs from a noun or name to an adjective; a pair is right when both positions are.
    """
    names = {"adjective": ("ADJ",), "noun": NOUNS}
    right, said, gold = Counter[str](), Counter[str](), Counter[str]()
    for sentence in sentences:
        words = tagger.tag_tokens(sentence.tokens)
        for name, tags in names.items():
            for word, tag in zip(words, sentence.tags, strict=True):
                right[name] += word.pos == name and tag in tags
                said[name] += word.pos == name
                gold[name] += tag in tags
        found = set(pair_positions(words, tagger))
        right["pair"] += len(found & sentence.pairs)
        said["pair"] += len(found)
        gold["pair"] += len(sentence.pairs)
    scores: dict[str, float] = {}
    for name in [*names, "pair"]:
        precision, recall = right[name] / max(1, said[name]), right[name] / max(1, gold[name])
        scores |= {f"{name}_precision": precision, f"{name}_recall": recall}
        scores[f"{name}_f1"] = 2 * precision * recall / max(1e-9, precision + recall)
    return {name: round(value, 4) for name, value in scores.items()}


if __name__ == "__main__":
    from vqpipe.params.pos import WordnetPos
    from vqpipe.text.pos import tagger as load

    for key, value in score(load(WordnetPos(kind="wordnet")), read_conllu(Path(sys.argv[1]))).items():
        print(f"{key:22}{value:.3f}")
