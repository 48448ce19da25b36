"""Masked words: which words of a caption can be predicted from its other words and the image's codes.

Paper: LG-VQ, arXiv 2405.14206, section 3.2.1, equation 6; its measure, the recall of masked words, is Table 3's.

Letters: b batch, n captions, t tokens, s words, v tokens of the vocabulary, p pieces of a word, m masked tokens.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner, AlignParams, EncodedCodes, TextBatch
from vqpipe.alignment.losses import MaskedParams
from vqpipe.alignment.text_sides import TextSide
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.task import MASKED_WORDS_PICTURES
from vqpipe.errors import DataError
from vqpipe.metrics.floors import other_examples
from vqpipe.metrics.measured import Interval
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tasks.caption_tasks import (
    MAX_WORDS,
    CaptionHeadMetrics,
    CaptionTask,
    CaptionTaskMetrics,
    CaptionTaskParams,
    TestCaptions,
    TrainCaptions,
    Word,
    caption_row,
    caption_words,
    facts_of,
    side_of,
    text_of,
    text_rows,
)
from vqpipe.tasks.inputs import FrozenInputs
from vqpipe.tasks.task import Album, Examples, HeadResult, Row
from vqpipe.tokenizers.captions import token_rows

BLANK = "____"
"""What is shown for a masked word."""


class MaskedWordsParams(CaptionTaskParams):
    """Masked text prediction over frozen codes."""

    kind: Literal["masked_words"]
    """The task."""
    masked: MaskedParams
    """The head's layers over the words, and how many words training masks. The weight scales the only loss."""
    masked_counts: tuple[Annotated[int, Field(ge=1)], ...]
    """Numbers of words that are masked in a test caption, each measured by itself: 1 and 3 in LG-VQ."""
    num_predictions: Annotated[int, Field(ge=1, le=10)]
    """Best predictions of a masked word that are kept in the pictures."""

    def align(self) -> AlignParams:
        """The head with its loss, as an aligner has them."""
        return self._align(masked=self.masked)

    @field_validator("masked_counts")
    @classmethod
    def _rising(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if list(counts) != sorted(set(counts)):
            raise ValueError(f"masked_counts {list(counts)} do not increase")
        return counts


class MaskedCountMetrics(Metrics):
    """Captions with one number of masked words; all shares are in [0, 1]."""

    num_captions: int
    """Test captions with as many words."""
    num_left_out: int
    """Those with fewer."""
    recall: Interval
    """Share of a caption's masked words whose first prediction is right, all pieces; higher is better."""
    other_image: Interval
    """The same with the codes of another image: what the caption alone gives away. Equal to `recall` without codes."""
    commonest: float
    """The same for the most frequent word of as many pieces in the training captions."""
    chance: float
    """The same for pieces drawn evenly from the vocabulary."""


class MaskedWordsMetrics(CaptionHeadMetrics):
    """A head's recall of masked words: `masked_K` for each K of `masked_counts`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, MaskedCountMetrics] = Field(init=False)  # type: ignore[assignment]

    @property
    def counts(self) -> dict[int, MaskedCountMetrics]:
        """The metrics by the number of masked words."""
        return {int(name.removeprefix("masked_")): part for name, part in self.__pydantic_extra__.items()}


@dataclass(frozen=True)
class MaskedExample:
    """A head's predictions of the masked words of one caption."""

    numbers: tuple[int, ...]
    """Which words are masked, rising."""
    words: list[Word]
    logits: list[Float[Tensor, "p v"]]
    """Of each word's pieces, on the CPU."""


class MaskedWords(CaptionTask):
    """The task. Captions with fewer words than are masked are left out and counted."""

    kind = "masked_words"
    question = "words that are masked in its caption"
    Params = MaskedWordsParams
    Metrics = CaptionTaskMetrics[MaskedWordsMetrics]
    protocol = 2
    picture_spec = MASKED_WORDS_PICTURES
    config: MaskedWordsParams

    def check(self, test: TestCaptions, text: TextBatch) -> None:
        need_words(text.words, self.config.masked_counts)

    def fits(self, aligner: Aligner) -> bool:
        return aligner.masked_text is not None

    def measure(self, head: nn.Module, inputs: FrozenInputs, test: Examples, train: Examples) -> HeadResult:
        config, (model, text) = self.config, text_of(head, test)
        assert isinstance(train, TrainCaptions)
        masks = {count: draw_masks(text.words, count, config.seed) for count in config.masked_counts}
        foreign = inputs.exchanged(other_examples(len(inputs), config.seed))
        counts = _train_counts(train, side_of(head, test), model.config.max_tokens)
        commonest = commonest_words(counts)
        evenly = float(len(model.vocabulary))
        shown, values = set(self.shown(test)), dict[str, list[np.ndarray]]()
        kept: dict[int, dict[int, MaskedExample]] = {}
        for rows, quantized in self.batches(inputs):
            batch = text_rows(model, text, rows)
            sources = {
                "recall": model.code_transformer(quantized.z_q),
                "other_image": model.code_transformer(foreign.batch(rows).z_q),
            }
            for count, mask in masks.items():
                masked = mask[rows][:, : batch.tokens.shape[1]].to(batch.tokens.device)
                found = {}
                for name, source in sources.items():
                    logits = masked_logits(model, batch, source, masked)
                    if name == "recall":
                        _keep(kept.setdefault(count, {}), rows, shown, batch, masked, logits)
                    right = torch.zeros_like(masked)
                    right[masked] = model.vocabulary.ids[logits.argmax(dim=1)] == batch.tokens[masked]
                    found[name] = word_recall(right, masked, batch.words)
                words = [masked_words(batch, masked, row) for row in range(len(rows))]
                found["commonest"] = _share(words, lambda word: float(commonest.get(len(word)) == word))
                found["chance"] = _share(words, lambda word: evenly ** -len(word))
                for name, part in found.items():
                    values.setdefault(f"masked_{count}.{name}", []).append(part)
        whole = {name: np.concatenate(parts) for name, parts in values.items()}
        numbers = {f"masked_{count}": self._numbers(count, whole) for count in config.masked_counts}
        metrics = MaskedWordsMetrics(**facts_of(head, test), **numbers)  # type: ignore[arg-type]
        return HeadResult(metrics, whole, kept)

    def _numbers(self, count: int, values: dict[str, Float64[np.ndarray, " n"]]) -> MaskedCountMetrics:
        own = {
            name: values[f"masked_{count}.{name}"]
            for name in ("recall", "other_image", "commonest", "chance")
        }
        has = np.isfinite(own["recall"])
        return MaskedCountMetrics(
            num_captions=int(has.sum()),
            num_left_out=int((~has).sum()),
            recall=self.config.interval(own["recall"]),
            other_image=self.config.interval(own["other_image"]),
            commonest=float(own["commonest"][has].mean()),
            chance=float(own["chance"][has].mean()),
        )

    def pictures(
        self, head: nn.Module, result: HeadResult, inputs: FrozenInputs, test: Examples, album: Album
    ) -> list[Row]:
        model, text = text_of(head, test)
        spelled = side_of(head, test).spelled
        ids, rows = model.vocabulary.ids.cpu(), []
        for count, examples in sorted(result.kept.items()):
            for row, masked in sorted(examples.items()):
                best = [best_words(logits, ids, self.config.num_predictions) for logits in masked.logits]
                shown = [
                    BLANK if at in masked.numbers else spelled(word)
                    for at, word in enumerate(caption_words(text, row))
                ]
                rows.append({
                    **caption_row(test, album, row), "count": count, "masked": " ".join(shown),
                    "words": [spelled(word) for word in masked.words],
                    "predictions": [[spelled(word) for word, _ in own] for own in best],
                    "chances": [[chance for _, chance in own] for own in best],
                    "right": [own[0][0] == word for own, word in zip(best, masked.words, strict=True)],
                })  # fmt: skip
        return rows


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
    """Refuse numbers of masked words that no caption has. `words` as in `TextBatch`.

    Raises:
        DataError: no caption with as many words.
    """
    most = int(words.max()) + 1 if words.numel() else 0
    for count in counts:
        if count > most:
            raise DataError(
                f"no test caption has {count} words that could be masked",
                found=f"{len(words)} captions of at most {most} words",
                expected="smaller masked_counts",
            )


def masked_logits(
    head: Aligner, text: TextBatch, codes: EncodedCodes, masked: Bool[Tensor, "b t"]
) -> Float[Tensor, "m v"]:
    """The logits at masked tokens, in the order of `text.tokens[masked]`; the head has the masked-text loss."""
    assert head.masked_text is not None
    vocabulary, real = head.vocabulary, text.real()
    rows = vocabulary.rows(text.tokens, real)
    return head.masked_text.logits(rows, real, masked, codes.tokens, vocabulary.embeddings)


def word_recall(
    right: Bool[Tensor, "b t"], masked: Bool[Tensor, "b t"], words: Int64[Tensor, "b t"]
) -> Float64[np.ndarray, " b"]:
    """The share of each caption's masked words whose every piece is right; NaN where none is masked."""
    numbers = torch.arange(int(words.max()) + 1, device=words.device)[:, None]
    member = (words[:, None, :] == numbers) & masked[:, None]
    asked = member.any(dim=2)
    missed = (member & ~right[:, None]).any(dim=2)
    share = (asked & ~missed).sum(dim=1).double() / asked.sum(dim=1)
    return np.asarray(share.cpu())


def masked_words(text: TextBatch, masked: Bool[Tensor, "b t"], row: int) -> list[Word]:
    """The masked words of one caption, in its order."""
    chosen = text.words[row][masked[row]]
    tokens = text.tokens[row][masked[row]]
    return [tuple(tokens[chosen == number].tolist()) for number in sorted(set(chosen.tolist()))]


def word_counts(
    tokens: Int64[np.ndarray, "n t"], words: Int64[np.ndarray, "n t"], uses: Int64[np.ndarray, " n"]
) -> Counter[Word]:
    """How often each word occurs in captions, row i of which occurs `uses[i]` times."""
    counts: Counter[Word] = Counter()
    for ids, numbers, times in zip(tokens.tolist(), words.tolist(), uses.tolist(), strict=True):
        real = [(number, token) for number, token in zip(numbers, ids, strict=True) if number >= 0]
        for _, own in itertools.groupby(real, key=lambda item: item[0]):
            counts[tuple(token for _, token in own)] += times
    return counts


def commonest_words(counts: Counter[Word]) -> dict[int, Word]:
    """For each number of pieces the word that occurs most often; the smallest ids of equally frequent ones."""
    best: dict[int, Word] = {}
    for word, uses in counts.items():
        other = best.get(len(word))
        if other is None or (-uses, word) < (-counts[other], other):
            best[len(word)] = word
    return best


def _train_counts(train: TrainCaptions, side: TextSide, max_tokens: int) -> Counter[Word]:
    """The words of the training captions, in tokens of a head's text encoder."""
    uses = Counter(text for own in train.split.captions for text in own)  # in the order of the texts' rows
    known = train.captions.text
    same = side.id == known.side.id and max_tokens == known.max_tokens
    rows = known.rows if same else token_rows(list(uses), side, max_tokens)
    assert len(uses) == len(rows.ids)
    return word_counts(rows.ids, rows.words, np.fromiter(uses.values(), np.int64, len(uses)))


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


def _share(words: Sequence[Sequence[Word]], value: Callable[[Word], float]) -> Float64[np.ndarray, " b"]:
    """The mean of a value over each caption's words; NaN for none."""
    return np.array([np.mean([value(word) for word in own]) if own else np.nan for own in words])


def _keep(
    kept: dict[int, MaskedExample],
    rows: Int64[np.ndarray, " b"],
    shown: set[int],
    batch: TextBatch,
    masked: Tensor,
    logits: Tensor,
) -> None:
    ends = np.cumsum(masked.sum(dim=1).cpu().numpy())
    for at, row in enumerate(rows.tolist()):
        words = masked_words(batch, masked, at)
        if row in shown and words:
            own = logits[ends[at] - int(masked[at].sum()) : ends[at]].cpu()
            numbers = tuple(sorted(set(batch.words[at][masked[at]].tolist())))
            kept[row] = MaskedExample(numbers, words, list(torch.split(own, [len(word) for word in words])))
