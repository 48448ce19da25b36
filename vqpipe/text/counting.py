"""What one chunk of captions says: the work of a worker, whose result is a small table of partial counts."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from vqpipe.params.graph import PhraseParams
from vqpipe.params.pos import PosParams
from vqpipe.text.chunks import Chunk
from vqpipe.text.merging import NUM_EXAMPLES, PAIRS, WORDS
from vqpipe.text.pos import tagger
from vqpipe.text.tokens import clean, tokenize
from vqpipe.text.words import Analysis

MARKS = ("empty", "control", "markup", "cut", "other_script")
"""What can be odd about a caption. Each is counted, none stops the run.

The first four are those of `vqpipe.text.tokens.clean`; `other_script`: it has letters, but none is Latin.
"""

_ASCII_LETTER = re.compile("[A-Za-z]")


class WordCounts(NamedTuple):
    """The words of a chunk.

    `words` has the columns of `vqpipe.text.merging.WORDS`; `text` counts captions, tokens and marks; `hashes`
    are of ids with captions, one for each caption, as uint64.
    """

    words: pa.Table
    text: Counter[str]
    hashes: pa.Array


def count_words(chunk: Chunk, pos: PosParams) -> WordCounts:
    """Count the adjectives and the nouns, in the singular, of a chunk."""
    text = Counter[str](captions=len(chunk))
    adjectives: list[str] = []
    nouns: list[str] = []
    for analysis in _analysed(chunk, pos, None, text):
        text["tokens"] += len(analysis.words)
        for word, lemma, kind in analysis.words:
            if kind == "noun":
                nouns.append(lemma)
            elif kind == "adjective":
                adjectives.append(word)
    counts = [(is_noun, Counter(said)) for is_noun, said in ((False, adjectives), (True, nouns))]
    columns = [
        pa.array([is_noun for is_noun, count in counts for _ in count], pa.bool_()),
        pa.array([word for _, count in counts for word in count], pa.string()),
        pa.array([times for _, count in counts for times in count.values()], pa.int64()),
    ]
    return WordCounts(pa.table(columns, schema=WORDS), text, _hashes(chunk))


def count_pairs(chunk: Chunk, pos: PosParams, phrases: PhraseParams) -> pa.Table:
    """Count the modifier pairs of a chunk: columns as `vqpipe.text.merging.PAIRS`, by first appearance."""
    counts: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], list[str]] = {}
    for (caption_id, _), analysis in zip(chunk, _analysed(chunk, pos, phrases, Counter()), strict=True):
        for pair in analysis.pair_words():
            counts[pair] = counts.get(pair, 0) + 1
            ids = examples.setdefault(pair, [])
            if len(ids) < NUM_EXAMPLES and caption_id not in ids:
                ids.append(caption_id)
    rows = [
        (*pair, 0 if at else counts[pair], caption_id)
        for pair, ids in examples.items()
        for at, caption_id in enumerate(ids)
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(PAIRS)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, PAIRS, strict=True)], PAIRS
    )


def _analysed(
    chunk: Chunk, pos: PosParams, phrases: PhraseParams | None, text: Counter[str]
) -> Iterator[Analysis]:
    """Clean, split, tag and pair the captions, one analysis for each; marks are counted in `text`."""

    def tokens() -> Iterator[list[str]]:
        for _, caption in chunk:
            line, marks = clean(caption)
            if marks:
                text.update(marks)
            if _is_other_script(line):
                text["other_script"] += 1
            yield tokenize(line)

    return tagger(pos).analyse_tokens(tokens(), phrases)


def _is_other_script(line: str) -> bool:
    if _ASCII_LETTER.search(line):
        return False
    letters = [char for char in line if char.isalpha()]
    return bool(letters) and not any("LATIN" in unicodedata.name(char, "") for char in letters)


def _hashes(chunk: Chunk) -> pa.Array:
    """64 bits of each (id, caption)."""
    digests = b"".join(
        hashlib.blake2b(f"{name}\0{caption}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for name, caption in chunk
    )
    return pa.Array.from_buffers(pa.uint64(), len(chunk), [None, pa.py_buffer(digests)])
