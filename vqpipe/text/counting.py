"""What one chunk of captions says: the work of a worker, whose result is a small table of partial counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from vqpipe.params.graph import PhraseParams
from vqpipe.params.pos import PosParams
from vqpipe.text.chunks import Chunk
from vqpipe.text.language import is_other_language, is_other_script
from vqpipe.text.merging import NUM_EXAMPLES, PAIRS, WORDS
from vqpipe.text.pos import tagger
from vqpipe.text.tokens import clean, tokenize
from vqpipe.text.usable import UNUSABLE_MARKS
from vqpipe.text.words import Analysis

MARKS = ("empty", "control", "markup", "cut", "other_script", "other_language")
"""What can be odd about a caption. Each is counted, none stops the run by itself.

The first four are those of `vqpipe.text.tokens.clean`, the others of `vqpipe.text.language`.
"""


class WordCounts(NamedTuple):
    """The words of a chunk.

    `words` has the columns of `vqpipe.text.merging.WORDS`; `text` counts captions, tokens and marks; `hashes`
    are of ids with captions, one for each caption, as uint64; `examples` has the first caption of each mark that
    makes it unusable.
    """

    words: pa.Table
    text: Counter[str]
    hashes: pa.Array
    examples: dict[str, str]


class PairCounts(NamedTuple):
    """The modifier pairs of a chunk: columns as `vqpipe.text.merging.PAIRS`, by first appearance.

    `text` counts captions and marks; `examples` as in `WordCounts`.
    """

    pairs: pa.Table
    text: Counter[str]
    examples: dict[str, str]


def count_words(chunk: Chunk, pos: PosParams) -> WordCounts:
    """Count the adjectives and the nouns, in the singular, of a chunk."""
    text, marked = Counter[str](captions=len(chunk)), dict[str, str]()
    adjectives: list[str] = []
    nouns: list[str] = []
    for analysis in _analysed(chunk, pos, None, text, marked):
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
    return WordCounts(pa.table(columns, schema=WORDS), text, _hashes(chunk), marked)


def count_pairs(chunk: Chunk, pos: PosParams, phrases: PhraseParams) -> PairCounts:
    """Count the modifier pairs of a chunk."""
    text, marked = Counter[str](captions=len(chunk)), dict[str, str]()
    counts: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], list[str]] = {}
    analyses = _analysed(chunk, pos, phrases, text, marked)
    for (caption_id, _), analysis in zip(chunk, analyses, strict=True):
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
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, PAIRS, strict=True)], PAIRS
    )
    return PairCounts(table, text, marked)


def _analysed(
    chunk: Chunk, pos: PosParams, phrases: PhraseParams | None, text: Counter[str], examples: dict[str, str]
) -> Iterator[Analysis]:
    """Clean, split, tag and pair the captions, one analysis for each; marks go to `text` and `examples`."""

    def tokens() -> Iterator[list[str]]:
        for caption_id, caption in chunk:
            line, marks = clean(caption)
            split = tokenize(line)
            if is_other_script(line):
                marks = (*marks, "other_script")
            elif is_other_language(split):
                marks = (*marks, "other_language")
            if marks:
                text.update(marks)
                for mark in UNUSABLE_MARKS:
                    if mark in marks and mark not in examples:
                        examples[mark] = f"{caption_id}: {caption[:60]!r}"
            yield split

    return tagger(pos).analyse_tokens(tokens(), phrases)


def _hashes(chunk: Chunk) -> pa.Array:
    """64 bits of each (id, caption)."""
    digests = b"".join(
        hashlib.blake2b(f"{name}\0{caption}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for name, caption in chunk
    )
    return pa.Array.from_buffers(pa.uint64(), len(chunk), [None, pa.py_buffer(digests)])
