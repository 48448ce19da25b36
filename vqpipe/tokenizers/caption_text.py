"""Captions as the alignment losses read them: token ids, words, and one frozen CLIP feature each.

Every caption is split once. Only token ids, the numbers of their words and the global feature are kept: features of
single tokens would carry the words around them, and so those that masked text prediction hides.
"""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16, Int32, Int64
from torch import Tensor

from vqpipe.alignment.text import TextBatch
from vqpipe.artifacts.publish import publish_file
from vqpipe.errors import ArtifactError, MismatchError, of_system, printable
from vqpipe.runtime.distributed import barrier, rank, world_size
from vqpipe.runtime.progress import track
from vqpipe.text.tokens import clean, token_spans
from vqpipe.vision.byte_pairs import END, START, Piece, normalised, pieces
from vqpipe.vision.clip import Clip

SIDES = tuple(side + end for side in ("left", "right") for end in ("", "most", "ward", "wards", "hand"))
"""Words that say on which side something is; a mirrored image makes them wrong."""
CRC_BYTES = 4
"""Bytes of the CRC-32 that follows the features in a file."""
CHUNK = 8192
"""Texts whose features are computed and kept together: what a killed run loses at most."""


@dataclass(frozen=True)
class TokenRows:
    """Texts as rows of byte-pair ids.

    A word is one of `vqpipe.text.tokens`: a hyphen or an inner apostrophe joins. Where CLIP's tokenizer takes several
    of them as one (`...`), they are one word here, so that no token is part of two.
    """

    ids: Int32[np.ndarray, "n t"]
    """Start, text, end, zeros; t is the longest of these texts."""
    lengths: Int16[np.ndarray, " n"]
    """Real tokens, start and end included, at most `max_tokens`."""
    words: Int16[np.ndarray, "n t"]
    """The number of each token's word, from 0; -1 for start, end and padding."""
    cut: Bool[np.ndarray, " n"]
    """Which texts are longer than `max_tokens`: their first tokens were kept, and the end token."""


def token_rows(texts: Sequence[str], max_tokens: int) -> TokenRows:
    """Split texts; the ids are those of CLIP's tokenizer for the cleaned text.

    Args:
        texts: any strings; markup and control characters are cleaned away first, as for the vocabulary.
        max_tokens: longest row, start and end included, at least 3.
    """
    split, kept = [_split(text) for text in texts], max_tokens - 2
    rows = [(ids[:kept], words[:kept]) for ids, words in split]
    longest = max((len(ids) for ids, _ in rows), default=0) + 2
    out = TokenRows(
        np.zeros((len(rows), longest), dtype=np.int32),
        np.array([len(ids) + 2 for ids, _ in rows], dtype=np.int16),
        np.full((len(rows), longest), -1, dtype=np.int16),
        np.array([len(ids) > kept for ids, _ in split], dtype=bool),
    )
    for at, (ids, words) in enumerate(rows):
        out.ids[at, : len(ids) + 2] = [START, *ids, END]
        out.words[at, 1 : len(ids) + 1] = words
    return out


def _split(text: str) -> tuple[list[int], list[int]]:
    """The byte-pair ids of a text, and the number of the word that each is part of; -1 for signs."""
    text = normalised(clean(text)[0])
    words = iter(token_spans(text))
    word_stop = 0
    groups: list[list[Piece]] = []
    for piece in pieces(text):
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


def check_max_tokens(max_tokens: int, clip: Clip) -> None:
    """Raise `MismatchError` where captions may be longer than the CLIP's text tower takes."""
    if max_tokens > clip.context_length:
        raise MismatchError(
            "align.max_tokens is more than the CLIP's text encoder takes",
            found=f"{max_tokens} tokens, and CLIP {clip.id} takes {clip.context_length}",
            expected=f"max_tokens of 3 to {clip.context_length}",
        )


class CaptionText:
    """The captions of a split, by number: image by image, in the order of each.

    Equal captions are split and encoded once.

    Args:
        captions: of each image.
        clip: the frozen CLIP that gives the features.
        max_tokens: longest caption in tokens, start and end included; longer ones are cut, and counted.
        folder: where features are kept, so that a killed run need not compute them again and ranks share the work;
            null keeps them in memory.

    Raises:
        MismatchError: `max_tokens` is more than the CLIP's text tower takes.
    """

    def __init__(
        self, captions: Sequence[Sequence[str]], clip: Clip, max_tokens: int, folder: Path | None = None
    ) -> None:
        check_max_tokens(max_tokens, clip)
        numbers: dict[str, int] = {}
        rows = [numbers.setdefault(text, len(numbers)) for own in captions for text in own]
        self._row_of: Int32[np.ndarray, " n"] = np.array(rows, dtype=np.int32)
        self.rows = token_rows(list(numbers), max_tokens)
        real = np.arange(self.rows.ids.shape[1]) < self.rows.lengths[:, None]
        self.vocabulary: Int64[Tensor, " v"] = torch.from_numpy(np.unique(self.rows.ids[real])).long()
        """The distinct token ids of these captions, rising; start and end, the largest ids, are the last two."""
        self._features = _features(self.rows.ids, clip, folder)
        uses = np.bincount(self._row_of, minlength=len(numbers))
        self._sided = _sided(self.rows.ids)
        self._facts = {
            "num_captions": len(rows),
            "num_texts": len(numbers),
            "num_cut": int(uses[self.rows.cut].sum()),
            "num_without_words": int(uses[(self.rows.words < 0).all(axis=1)].sum()),
            "num_of_left_or_right": int(uses[self._sided].sum()),
            "longest": int(self.rows.lengths.max(initial=0)),
            "num_tokens": len(self.vocabulary),
        }

    def __len__(self) -> int:
        return len(self._row_of)

    def metrics(self) -> dict[str, Any]:
        """Counts for the tokenizer's metrics.

        Returns:
            `num_captions`; `num_texts`, the different ones; captions that were cut (`num_cut`), that hold nothing but
            markup (`num_without_words`) and that say left or right, with which an image is not mirrored
            (`num_of_left_or_right`); tokens of the `longest`; `num_tokens`, those of the vocabulary.
        """
        return dict(self._facts)

    def names_side(self, numbers: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Which of the named captions say left or right (`SIDES`) in the tokens that are kept of them. `right` counts
        in any sense."""
        return np.asarray(self._sided[self._row_of[numbers]])

    def batch(self, numbers: Int64[np.ndarray, " b"], share: slice = slice(None)) -> TextBatch:
        """The named captions on the CPU, padded to the longest of them.

        Args:
            numbers: of captions.
            share: which of them to give, all unless told; the padding stays that of all, the same on every rank.
        """
        rows = self._row_of[numbers]
        longest = int(self.rows.lengths[rows].max(initial=1))
        rows = rows[share]
        return TextBatch(
            torch.from_numpy(self.rows.ids[rows, :longest]).long(),
            torch.from_numpy(self.rows.lengths[rows]).long(),
            torch.from_numpy(self.rows.words[rows, :longest]).long(),
            torch.from_numpy(np.stack([self._features[row // CHUNK][row % CHUNK] for row in rows.tolist()])),
        )


def _sided(ids: Int32[np.ndarray, "n t"]) -> Bool[np.ndarray, " n"]:
    """The rows in which one of `SIDES` stands, its pieces one after the other."""
    found = np.zeros(len(ids), dtype=bool)
    for word in SIDES:
        own, _ = _split(word)
        places = np.ones((len(ids), max(ids.shape[1] - len(own) + 1, 0)), dtype=bool)
        for at, piece in enumerate(own):
            places &= ids[:, at : at + places.shape[1]] == piece
        found |= places.any(axis=1)
    return found


def _features(
    ids: Int32[np.ndarray, "n t"], clip: Clip, folder: Path | None
) -> list[Float32[np.ndarray, "c e"]]:
    """Global text features in chunks of `CHUNK` rows; those in `folder` are memory-mapped, and shared by ranks."""
    starts = range(0, len(ids), CHUNK)
    if folder is None:
        return [_encode(ids[at : at + CHUNK], clip) for at in starts]
    key = hashlib.sha256(f"{clip.id} {ids.shape} {CHUNK} crc".encode() + ids.tobytes()).hexdigest()[:16]
    files = [folder / f"captions-{key}-{number:05d}.npy" for number in range(len(starts))]

    found: list[Float32[np.ndarray, "c e"] | None] = [None] * len(files)

    def make(numbers: range) -> None:
        for number in numbers:
            found[number] = _kept(files[number]) if found[number] is None else found[number]
        lacking = [number for number in numbers if found[number] is None]
        for number in track(lacking, "encode captions") if lacking else ():
            values = np.ascontiguousarray(_encode(ids[starts[number] :][:CHUNK], clip))
            with publish_file(files[number]) as partial, partial.open("wb") as stream:
                np.save(stream, values, allow_pickle=False)
                stream.write(zlib.crc32(values.data).to_bytes(CRC_BYTES, "little"))
            found[number] = _kept(files[number])

    make(range(rank(), len(files), world_size()))
    barrier()
    make(range(len(files)))  # nothing is left to do where the ranks see one folder
    whole = [values for values in found if values is not None]
    if len(whole) < len(files):
        raise ArtifactError(
            f"{folder}: captions' features are not as they were just written",
            found=f"{len(whole)} whole files of {len(files)}", run="dmesg | tail",
        )  # fmt: skip
    return whole


def _kept(file: Path) -> Float32[np.ndarray, "c e"] | None:
    """The features in a file, memory-mapped; None where there are none, or damaged ones."""
    if not file.is_file():
        return None
    try:
        values: Float32[np.ndarray, "c e"] = np.load(file, mmap_mode="r", allow_pickle=False)
        with file.open("rb") as stream:
            stream.seek(-CRC_BYTES, os.SEEK_END)
            if zlib.crc32(values.data) == int.from_bytes(stream.read(), "little"):
                return values
    except (OSError, ValueError, EOFError) as error:
        if of_system(error) is not None:
            raise
    print(f"{printable(str(file))} is damaged and is made again", file=sys.stderr)
    return None


def _encode(ids: Int32[np.ndarray, "n t"], clip: Clip) -> Float32[np.ndarray, "n e"]:
    return np.asarray(clip.encode_tokens(torch.from_numpy(ids).long()).float().cpu().numpy())
