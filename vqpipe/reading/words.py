"""Masked words and the words' relations, image by image: what the reading measures in one batch.

Letters: b batch, t tokens, s words, n positions, v tokens of the vocabulary, k words that are masked.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.code_transformer import EncodedCodes
from vqpipe.alignment.relationship import assign, code_vectors, word_vectors
from vqpipe.alignment.text import TextBatch
from vqpipe.errors import DataError
from vqpipe.quantizers.contract import Quantized
from vqpipe.quantizers.learned import unit
from vqpipe.runtime.seeds import numpy_rng

MAX_WORDS = 256
"""Width of the draws over words, whatever the captions; so a caption's draw does not depend on the others."""

Word = tuple[int, ...]
"""A word's byte-pair ids."""


def draw_masks(words: Int64[Tensor, "n t"], count: int, seed: int) -> Bool[Tensor, "n t"]:
    """The tokens of `count` words of each caption, drawn with equal chances; none where it has fewer words.

    `words` as in `TextBatch`, of all captions that are measured: row i's draw depends on seed, count and i alone.
    """
    draws = torch.from_numpy(numpy_rng(seed, "masked words", count).random((len(words), MAX_WORDS)))
    numbers = torch.arange(MAX_WORDS)
    total = words.amax(dim=1, keepdim=True) + 1
    order = draws.masked_fill(numbers >= total, 2.0).argsort(dim=1).argsort(dim=1)
    chosen = order.gather(1, words.clamp_min(0)) < count
    return (words >= 0) & chosen & (total >= count)


def need_words(words: Int64[Tensor, "n t"], counts: Sequence[int]) -> None:
    """Refuse numbers of masked words that no caption has; for the start of a reading. `words` as in `TextBatch`.

    Raises:
        DataError: no caption with as many words.
    """
    most = int(words.max()) + 1 if words.numel() else 0
    for count in counts:
        if count > most:
            raise DataError(
                f"no test caption has {count} words that could be masked",
                found=f"{len(words)} captions of at most {most} words",
                expected="smaller read.common.masked_counts",
            )


def masked_logits(
    aligner: Aligner, text: TextBatch, encoded: EncodedCodes, masked: Bool[Tensor, "b t"]
) -> Float[Tensor, "m v"]:
    """The aligner's logits at masked tokens, in the order of `text.tokens[masked]`; it has a masked-text head."""
    assert aligner.masked_text is not None
    vocabulary, real = aligner.vocabulary, text.real()
    rows = vocabulary.rows(text.tokens, real)
    return aligner.masked_text.logits(rows, real, masked, encoded.tokens, vocabulary.embeddings)


def word_recall(
    right: Bool[Tensor, "b t"], masked: Bool[Tensor, "b t"], words: Int64[Tensor, "b t"]
) -> Float64[np.ndarray, " b"]:
    """The part of each caption's masked words whose every piece is right; NaN where none is masked."""
    member = (words[:, None, :] == torch.arange(int(words.max()) + 1, device=words.device)[:, None]) & masked[
        :, None
    ]
    asked = member.any(dim=2)
    missed = (member & ~right[:, None]).any(dim=2)
    share = (asked & ~missed).sum(dim=1).double() / asked.sum(dim=1)
    return np.asarray(share.cpu())


def masked_words(text: TextBatch, masked: Bool[Tensor, "b t"], row: int) -> list[Word]:
    """The masked words of one caption, in its order."""
    chosen = text.words[row][masked[row]]
    tokens = text.tokens[row][masked[row]]
    return [tuple(tokens[chosen == number].tolist()) for number in sorted(set(chosen.tolist()))]


def commonest_words(whole: Counter[Word]) -> dict[int, Word]:
    """For each number of pieces the word that occurs most often; the smallest ids of equally frequent ones."""
    best: dict[int, Word] = {}
    for word, uses in whole.items():
        other = best.get(len(word))
        if other is None or (-uses, word) < (-whole[other], other):
            best[len(word)] = word
    return best


def best_words(
    logits: Float[Tensor, "p v"], ids: Int64[Tensor, " v"], count: int
) -> list[tuple[Word, float]]:
    """The `count` likeliest words of p pieces with their probabilities; the pieces are independent given the rest."""
    found = logits.double().softmax(dim=1).topk(min(count, logits.shape[1]), dim=1)
    pieces = [
        list(zip(ids[rows].tolist(), chances.tolist(), strict=True))
        for rows, chances in zip(found.indices, found.values, strict=True)
    ]
    words: list[tuple[Word, float]] = [((), 1.0)]
    for own in pieces:  # the best of all are among the best of each beginning
        grown = [((*word, piece), p * q) for (word, p), (piece, q) in itertools.product(words, own)]
        words = sorted(grown, key=lambda item: -item[1])[:count]
    return words


@dataclass(frozen=True)
class WordRelations:
    """The words of a batch's captions beside the codes that stand for them."""

    words: Float[Tensor, "b s s"]
    """Cosines of the words' frozen embeddings."""
    codes: dict[str, Float[Tensor, "b s s"]]
    """Cosines of codes by name: `raw`, and `projected` where the head has a projection; `random_raw` and
    `random_projected` are those at positions that were drawn."""
    pairs: Bool[Tensor, "b s s"]
    """Pairs of a caption's words, each once."""
    positions: Int64[Tensor, "b s"]
    """The position that stands for each word, in raster order."""

    def errors(self, name: str) -> Float64[np.ndarray, " b"]:
        """Each caption's mean of the squared differences over its pairs of words; NaN where it has none."""
        squared = (self.codes[name] - self.words).double().square().masked_fill(~self.pairs, 0.0)
        return np.asarray((squared.sum(dim=(1, 2)) / self.pairs.sum(dim=(1, 2))).cpu())


def relate(
    aligner: Aligner,
    quantized: Quantized,
    encoded: EncodedCodes,
    text: TextBatch,
    drawn: Int64[Tensor, "b m"],
) -> WordRelations:
    """The relations of LG-VQ's equation 8, on the raw code vectors and through the head's projection.

    A pair of one and the same word, as "a .. a", is none here, though the loss counts it: both stand for the same
    position, so that their cosines are 1 whatever the codes are.

    Args:
        quantized: has code vectors.
        drawn: positions that stand for words by chance, at least as many as a caption has words.
    """
    vocabulary = aligner.vocabulary
    rows = vocabulary.rows(text.tokens, text.real())
    found, present = word_vectors(text.words, rows, vocabulary.embeddings)
    positions = assign(found, encoded.tokens)
    projection = aligner.relationship.projection if aligner.relationship is not None else nn.Identity()
    codes: dict[str, Tensor] = {}
    for prefix, chosen in (("", positions), ("random_", drawn[:, : found.shape[1]])):
        vectors = code_vectors(quantized, chosen)
        codes[f"{prefix}raw"] = _cosines(vectors)
        if not isinstance(projection, nn.Identity):
            codes[f"{prefix}projected"] = _cosines(projection(vectors))
    pairs = (present[:, :, None] & present[:, None, :]).triu(1) & ~_repeated(text, found.shape[1])
    return WordRelations(_cosines(found), codes, pairs, positions)


def word_counts(
    tokens: Int64[np.ndarray, "n t"], words: Int64[np.ndarray, "n t"], uses: Int64[np.ndarray, " n"]
) -> Counter[Word]:
    """How often each word occurs in captions, row i of which occurs `uses[i]` times."""
    counts: Counter[Word] = Counter()
    for ids, numbers, times in zip(tokens.tolist(), words.tolist(), uses.tolist(), strict=True):
        for word in _spelled(ids, numbers):
            counts[word] += times
    return counts


def _spelled(ids: Sequence[int], numbers: Sequence[int]) -> list[Word]:
    """The words of one caption, in its order: word i has the number i."""
    real = [(number, token) for number, token in zip(numbers, ids, strict=True) if number >= 0]
    return [tuple(token for _, token in own) for _, own in itertools.groupby(real, key=lambda item: item[0])]


def _repeated(text: TextBatch, longest: int) -> Bool[Tensor, "b s s"]:
    """Which of the `longest` words of each caption are the same, piece by piece."""
    known: dict[Word, int] = {}
    labels = torch.full((len(text.words), longest), -1)
    for row, (ids, numbers) in enumerate(zip(text.tokens.tolist(), text.words.tolist(), strict=True)):
        own = [known.setdefault(word, len(known)) for word in _spelled(ids, numbers)]
        labels[row, : len(own)] = torch.tensor(own, dtype=labels.dtype)
    labels = labels.to(text.words.device)
    return labels[:, :, None] == labels[:, None, :]


def _cosines(rows: Float[Tensor, "b s w"]) -> Float[Tensor, "b s s"]:
    rows = unit(rows.float())
    return rows @ rows.mT
