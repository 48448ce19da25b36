"""The captions of a training with `align`: one drawn for each image and epoch, as token ids, words and global features.

`Captions` is what a training uses; it draws with `CaptionDraw` and takes the drawn captions from `CaptionText`. Every
caption is split once. Only token ids, the numbers of their words and the global feature are kept: features of single
tokens would carry the words around them, and so those that masked text prediction hides.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int32, Int64
from torch import Tensor

from vqpipe.alignment.aligner import TextBatch
from vqpipe.alignment.text_sides import TextSide
from vqpipe.artifacts.checkpoints import is_intact
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.spec import TensorSpec
from vqpipe.artifacts.tensors import check_tensors, read_tensor_header, write_tensors
from vqpipe.data.loader import ImageSplit
from vqpipe.data.read import open_split
from vqpipe.errors import DataError, MismatchError
from vqpipe.runtime.distributed import barrier, rank, world_size
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.runtime.terminal import track
from vqpipe.text.tokens import clean, token_spans
from vqpipe.vision.byte_pairs import Piece

SIDES = re.compile(r"(?<![^\W_])(left|right)(most|wards?|hand)?(?![^\W_])", re.IGNORECASE)
"""Words that say on which side something is; a mirrored image makes them wrong. `leftovers` and `bright` are none."""
CHUNK = 8192
"""Texts whose features are computed and kept together: what a killed run loses at most."""
FEATURES = TensorSpec(
    "caption-features",
    1,
    {"features": "F32"},
    stage="tokenizer",
    about="text features of captions in scratch",
)


@dataclass(frozen=True)
class CaptionedImages:
    """A batch of images and the caption that was drawn for each."""

    images: Float[Tensor, "b 3 h w"]
    """In [-1, 1]."""
    text: TextBatch


def images_of(batch: Float[Tensor, "b 3 h w"] | CaptionedImages) -> Float[Tensor, "b 3 h w"]:
    """The images of a batch with or without captions."""
    return batch.images if isinstance(batch, CaptionedImages) else batch


class CaptionMetrics(Metrics):
    """Counts of the captions of a split."""

    num_captions: int
    """Captions of all images."""
    num_texts: int
    """Different captions."""
    num_cut: int
    """Captions longer than `align.max_tokens`, which were cut."""
    num_without_words: int
    """Captions without a word, only with markup."""
    num_of_left_or_right: int
    """Captions that say left or right, with which an image is not mirrored."""
    longest: int
    """Tokens of the longest caption after the cut, start and end included."""
    num_tokens: int
    """Different tokens, start and end included."""
    num_tokens_of_all_splits: int | None = None
    """The same over the captions of all splits: the size of the aligner's vocabulary."""


class Captions:
    """The captions of a training split, one of which is drawn for each image and epoch; see `CaptionDraw`.

    Args:
        split: the training split.
        dataset: the dataset artifact.
        side: the text encoder.
        max_tokens: longest caption in tokens; longer ones are cut (`CaptionText`).
        seed: of the draws.
        folder: where text features are kept between a killed run and the next; None keeps them in memory.

    Raises:
        DataError: images without a caption.
        MismatchError: captions longer than the text encoder takes.
    """

    def __init__(
        self,
        split: ImageSplit,
        dataset: Path,
        side: TextSide,
        *,
        max_tokens: int,
        seed: int,
        folder: Path | None,
    ) -> None:
        self.draw = split_draw(split, seed, f"{dataset}, split train")
        others = tokens_of_other_splits(dataset, side, max_tokens)
        self.text = CaptionText(split.captions, side, max_tokens, folder)
        self.vocabulary: Int64[Tensor, " v"] = torch.from_numpy(
            np.union1d(self.text.vocabulary.numpy(), others)
        )
        """The token ids of all splits' captions, rising: those of the other splits are wrong answers in training, and
        can occur in a later measurement. Nothing else of the other splits is used."""

    def drawn(
        self, images: Int64[np.ndarray, " b"], step: int, share: slice
    ) -> tuple[TextBatch, Bool[np.ndarray, " b"]]:
        """The captions of a step's images, on the CPU; and which of the images have one that says left or right, so
        that they must not be mirrored.

        Args:
            images: positions in the split, of the batch of all ranks.
            step: number of the step, from 0.
            share: this rank's part of the batch, whose captions are returned.
        """
        numbers = self.draw.numbers(images, epoch_of(step, len(self.draw.counts), len(images)))
        return self.text.take(numbers, share), self.text.names_side(numbers)

    def metrics(self) -> CaptionMetrics:
        """Counts of the training split's captions, and the size of the vocabulary."""
        return self.text.metrics.model_copy(update={"num_tokens_of_all_splits": len(self.vocabulary)})


def tokens_of_other_splits(dataset: Path, side: TextSide, max_tokens: int) -> Int64[np.ndarray, " v"]:
    """The distinct token ids of the captions of all splits but the training split, cut as those are."""
    texts: dict[str, None] = {}
    train = open_split(dataset, "train")
    for name in sorted(set(train.facts["splits"]) - {"train"}):
        for batch in open_split(dataset, name).batches(["captions"]):
            texts |= dict.fromkeys(text for own in batch.column("captions").to_pylist() for text in own or ())
    rows = token_rows(list(texts), side, max_tokens)
    real = np.arange(rows.ids.shape[1]) < rows.lengths[:, None]
    return np.unique(rows.ids[real]).astype(np.int64)


class CaptionDraw:
    """Draws one caption for each image and epoch (LG-VQ, arXiv 2405.14206, draws one at random per image).

    Captions are numbered through the split: image by image, in the order of each. All captions of an image are
    equally likely, and epochs are independent. A draw is a pure function of seed, epoch and image: it depends neither
    on batches nor ranks, and a resumed run needs no state of it.

    Args:
        counts: captions of each image, every one at least 1.
        seed: of the draws; their stream is their own, so that they change no other.

    Raises:
        DataError: images without a caption; the message counts them.
    """

    def __init__(self, counts: Int64[np.ndarray, " n"], seed: int) -> None:
        bare = int((counts == 0).sum())
        if bare:
            raise DataError(
                "some images have no caption to draw", found=f"{bare:,} of {len(counts):,} images without one",
                expected="a caption for every image",
            )  # fmt: skip
        self.counts, self.seed = counts, seed
        self.starts: Int64[np.ndarray, " n"] = np.cumsum(counts) - counts
        """The number of each image's first caption."""

    def numbers(self, images: Int64[np.ndarray, " b"], epoch: int) -> Int64[np.ndarray, " b"]:
        """The caption of each image in an epoch; images are positions in the split."""
        chances = _chances(len(self.counts), self.seed, epoch)[images]
        counts = self.counts[images]
        # A chance just below 1 times a count may round up to the count.
        offsets = np.minimum((chances * counts).astype(np.int64), counts - 1)
        return self.starts[images] + offsets


@lru_cache(maxsize=4)
def _chances(num_images: int, seed: int, epoch: int) -> Float64[np.ndarray, " n"]:
    chances = numpy_rng(seed, "captions", epoch).random(num_images)
    chances.setflags(write=False)
    return chances


def epoch_of(step: int, num_items: int, batch_size: int) -> int:
    """The epoch that a step is part of, as `epoch_order` counts them: the last partial batch of each is dropped."""
    return step // (num_items // batch_size)


def check_captioned(
    captions: Sequence[Sequence[str]], ids: Sequence[str], where: str
) -> Int64[np.ndarray, " n"]:
    """The number of captions of each image.

    An image without one is an error and not skipped: variants that are compared must see the same images.

    Args:
        captions: of each image.
        ids: of each image, for the message.
        where: names the images in the message, such as `artifacts/dataset, split train`.

    Raises:
        DataError: no image has a caption, or some have none; the message counts them.
    """
    counts = np.array([len(own) for own in captions], dtype=np.int64)
    bare = np.flatnonzero(counts == 0)
    if len(bare) == 0:
        return counts
    if len(bare) == len(counts):
        raise DataError(
            f"{where} has no captions, and align and the tasks on captions need them",
            found=f"{len(counts):,} images, none with a caption",
            expected="a data set whose images have captions, or align: null",
        )
    first = ", ".join(ids[at] for at in bare[:3])
    raise DataError(
        f"{where}: images without a caption, and one is drawn for every image",
        found=f"{len(bare):,} of {len(counts):,} images without one ({first}{', …' if len(bare) > 3 else ''})",
        expected="a caption for every image: caption them, leave them out of the source, or set align: null",
        run="dvc repro dataset",
    )


def split_draw(split: ImageSplit, seed: int, where: str) -> CaptionDraw:
    """The draw over a split's captions; `where` and errors as in `check_captioned`."""
    return CaptionDraw(check_captioned(split.captions, split.ids, where), seed)


@dataclass(frozen=True)
class TokenRows:
    """Texts as rows of token ids.

    A word is one of `vqpipe.text.tokens`: a hyphen or an inner apostrophe joins. Where the encoder's tokenizer takes
    several of them as one (CLIP's `...`), they are one word here, so that no token is part of two.
    """

    ids: Int32[np.ndarray, "n t"]
    """Start, text, end, zeros; t is the longest of these texts."""
    lengths: Int16[np.ndarray, " n"]
    """Real tokens, start and end included, at most `max_tokens`."""
    words: Int16[np.ndarray, "n t"]
    """The number of each token's word, from 0; -1 for start, end and padding."""
    cut: Bool[np.ndarray, " n"]
    """Which texts are longer than `max_tokens` and were cut to their first tokens and the end token."""


def token_rows(texts: Sequence[str], side: TextSide, max_tokens: int) -> TokenRows:
    """Split texts; the ids are those of the encoder's tokenizer for the cleaned text.

    Args:
        texts: any strings; markup and control characters are cleaned away first, as for the vocabulary.
        side: the text encoder.
        max_tokens: longest row, start and end included, at least 3.
    """
    split, kept = [_split(text, side) for text in texts], max_tokens - 2
    rows = [(ids[:kept], words[:kept]) for ids, words in split]
    longest = max((len(ids) for ids, _ in rows), default=0) + 2
    out = TokenRows(
        np.zeros((len(rows), longest), dtype=np.int32),
        np.array([len(ids) + 2 for ids, _ in rows], dtype=np.int16),
        np.full((len(rows), longest), -1, dtype=np.int16),
        np.array([len(ids) > kept for ids, _ in split], dtype=bool),
    )
    for at, (ids, words) in enumerate(rows):
        out.ids[at, : len(ids) + 2] = [side.start, *ids, side.end]
        out.words[at, 1 : len(ids) + 1] = words
    return out


def _split(text: str, side: TextSide) -> tuple[list[int], list[int]]:
    """The token ids of a text, and the number of the word that each is part of; -1 for signs."""
    text, pieces = side.pieces(clean(text)[0])
    words = iter(token_spans(text))
    word_stop = 0
    groups: list[list[Piece]] = []
    for piece in pieces:
        if piece.start >= word_stop:  # the piece begins a word
            groups.append([])
        while word_stop < piece.stop:  # and may take in several
            _, word_stop = next(words, (0, piece.stop))
        groups[-1].append(piece)
    ids: list[int] = []
    numbers: list[int] = []
    number = -1
    for group in groups:
        is_word = any(sign.isalnum() for sign in text[group[0].start : group[-1].stop])
        number += is_word
        for piece in group:
            ids += piece.ids
            numbers += [number if is_word else -1] * len(piece.ids)
    return ids, numbers


def check_max_tokens(max_tokens: int, side: TextSide) -> None:
    """Raise `MismatchError` where captions may be longer than the text encoder takes."""
    if max_tokens > side.context_length:
        raise MismatchError(
            "align.max_tokens is more than the text encoder takes",
            found=f"{max_tokens} tokens, and {side.id} takes {side.context_length}",
            expected=f"max_tokens of 3 to {side.context_length}",
        )


class CaptionText:
    """The captions of a split, by number: image by image, in the order of each.

    Equal captions are split and encoded once.

    Args:
        captions: of each image.
        side: the frozen text encoder.
        max_tokens: longest caption in tokens, start and end included; longer ones are cut and counted.
        folder: where features are kept, so that a resumed run does not compute them again and ranks share the work;
            None keeps them in memory. Damaged ones are computed again.

    Raises:
        MismatchError: `max_tokens` is more than the text encoder takes.
    """

    def __init__(
        self,
        captions: Sequence[Sequence[str]],
        side: TextSide,
        max_tokens: int,
        folder: Path | None = None,
    ) -> None:
        check_max_tokens(max_tokens, side)
        self.side, self.max_tokens = side, max_tokens
        numbers: dict[str, int] = {}
        rows = [numbers.setdefault(text, len(numbers)) for own in captions for text in own]
        self._row_of: Int32[np.ndarray, " n"] = np.array(rows, dtype=np.int32)
        self.rows = token_rows(list(numbers), side, max_tokens)
        real = np.arange(self.rows.ids.shape[1]) < self.rows.lengths[:, None]
        self.vocabulary: Int64[Tensor, " v"] = torch.from_numpy(np.unique(self.rows.ids[real])).long()
        """The distinct token ids of these captions, start and end included, rising."""
        uses = np.bincount(self._row_of, minlength=len(numbers))
        self._with_side = np.array([SIDES.search(clean(text)[0]) is not None for text in numbers], dtype=bool)
        self.metrics = CaptionMetrics(
            num_captions=len(rows),
            num_texts=len(numbers),
            num_cut=int(uses[self.rows.cut].sum()),
            num_without_words=int(uses[(self.rows.words < 0).all(axis=1)].sum()),
            num_of_left_or_right=int(uses[self._with_side].sum()),
            longest=int(self.rows.lengths.max(initial=0)),
            num_tokens=len(self.vocabulary),
        )
        self._features = _features(self.rows, side, folder)

    def __len__(self) -> int:
        return len(self._row_of)

    def names_side(self, numbers: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Which captions say left or right (`SIDES`), also after a cut; `right` in any sense."""
        return np.asarray(self._with_side[self._row_of[numbers]])

    def take(self, numbers: Int64[np.ndarray, " b"], share: slice = slice(None)) -> TextBatch:
        """Captions on the CPU, padded to the longest of them.

        Args:
            numbers: of captions.
            share: which of them to return, by default all; the padding is that of all, the same on every rank.
        """
        rows = self._row_of[numbers]
        longest = int(self.rows.lengths[rows].max(initial=1))
        rows = rows[share]
        lengths, words = self.rows.lengths[rows], self.rows.words[rows, :longest]
        return TextBatch(
            torch.from_numpy(self.rows.ids[rows, :longest]).long(),
            torch.from_numpy(lengths).long(),
            torch.from_numpy(words).long(),
            torch.from_numpy(np.stack([self._features[row // CHUNK][row % CHUNK] for row in rows.tolist()])),
            longest=int(lengths.max(initial=1)),
            num_words=int(words.max(initial=-1)) + 1,
        )


def _features(rows: TokenRows, side: TextSide, folder: Path | None) -> list[Float32[np.ndarray, "c e"]]:
    """Global text features in chunks of `CHUNK` rows; those in `folder` are memory-mapped and shared by ranks."""
    starts = range(0, len(rows.ids), CHUNK)
    if folder is None:
        return [_encode(rows, at, side) for at in starts]
    about = f"{side.id} {rows.ids.shape} {CHUNK}".encode()
    key = hashlib.sha256(about + rows.ids.tobytes()).hexdigest()[:16]
    files = [folder / f"captions-{key}-{number:05d}.safetensors" for number in range(len(starts))]

    def make(numbers: range) -> None:
        lacking = [number for number in numbers if not _is_kept(files[number])]
        for number in track(lacking, "encode captions") if lacking else ():
            made = torch.from_numpy(_encode(rows, starts[number], side))
            write_tensors(files[number], FEATURES, {"features": made}, sealed=True)

    make(range(rank(), len(files), world_size()))
    barrier()
    make(range(len(files)))  # no work where the ranks share one folder
    return [_mapped(file) for file in files]


def _is_kept(file: Path) -> bool:
    return file.is_file() and is_intact(
        lambda: check_tensors(file, FEATURES), "its captions are encoded again"
    )


def _mapped(file: Path) -> Float32[np.ndarray, "c e"]:
    """The features of a checked file, memory-mapped: its one tensor ends where the file does."""
    rows, dim = read_tensor_header(file)[1]["features"]["shape"]
    offset = file.stat().st_size - rows * dim * np.dtype(np.float32).itemsize
    return np.memmap(file, dtype="<f4", mode="r", offset=offset, shape=(rows, dim))


def _encode(rows: TokenRows, start: int, side: TextSide) -> Float32[np.ndarray, "n e"]:
    chunk = slice(start, start + CHUNK)
    lengths = torch.from_numpy(rows.lengths[chunk]).long()
    return np.asarray(side.encode(torch.from_numpy(rows.ids[chunk]), lengths).numpy())
