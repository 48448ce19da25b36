"""Reading one tokenizer: fresh heads trained on its frozen codes, and its own where it has any, on the test split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text import TextBatch
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.reading import (
    READING,
    READING_MASKED,
    READING_PER_IMAGE,
    READING_RETRIEVAL,
    READING_SIMILARITY,
)
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.data.loader import ImageSplit
from vqpipe.metrics.measured import MEASURED, ImagesDigest, Measured, measured, text_digest
from vqpipe.params.align import AlignParams
from vqpipe.params.reading import ReadingParams
from vqpipe.reading.examples import (
    Album,
    draw_examples,
    masked_rows,
    per_image_rows,
    retrieval_rows,
    similarity_rows,
)
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.reading.measure import measure_reading
from vqpipe.reading.reader import Reader, own_aligner, reader_training, train_reader
from vqpipe.reading.text import DrawnText
from vqpipe.reading.words import Word, commonest_words, need_words, word_counts
from vqpipe.runtime.preflight import need_memory
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip

_SCORE_BYTES = 12
"""Of memory for each pair of an image and a caption: the cosines, twice while they are put in order, and a view."""

SPECS = {
    "per_image": READING_PER_IMAGE, "masked": READING_MASKED, "retrieval": READING_RETRIEVAL,
    "similarity": READING_SIMILARITY,
}  # fmt: skip

PROTOCOL = 1
"""Number of the protocol in the code: raise it when a change alters what a number means."""
SPEED = {"log_every", "checkpoint_every", "channels_last", "compile", "deterministic"}
"""Params of training that change no result but its rounding."""


@dataclass(frozen=True)
class Reading:
    """`metrics`: small nested JSON. `tables`: Arrow tables by file name, as in the reading's specs."""

    metrics: dict[str, Any]
    tables: dict[str, pa.Table]
    facts: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """Publish the reading artifact and return its folder."""
        with publish_folder(folder, READING, self.facts) as partial:
            for name, spec in SPECS.items():
                write_table(partial / f"{name}.parquet", spec, self.tables[name], self.facts)
        return folder


def read_tokenizer(
    tokenizer: Tokenizer,
    aligner: Path | None,
    dataset: Path,
    clip: Clip,
    config: ReadingParams,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> Reading:
    """Train a reader on a tokenizer's frozen codes and measure it on the test split; and the tokenizer's own heads.

    Args:
        tokenizer: in eval mode, on `device`; it does not change.
        aligner: the folder of the aligner that was trained with it, or of the sign that there is none.
        dataset: the dataset artifact.
        scratch, curves, title: as in `train_reader`.

    Returns:
        Metrics `fresh` and, for an aligned tokenizer, `own`, each as `measure_reading`; `training`, how the fresh heads
        were trained; `protocol`; `measured`, the digests of images, captions and protocol (`metrics.measured`).

    Raises:
        MismatchError: an aligner of another tokenizer or CLIP, or captions longer than the CLIP takes.
        DataError: images without a caption, or no test caption with as many words as are to be masked.
        SetupError: too many test images for the memory: retrieval ranks each against each.
        TrainingError: losses that do not stay finite.
    """
    own = own_aligner(aligner, tokenizer, clip)
    return read_heads(
        tokenizer, own, dataset, clip, config, scratch=scratch, curves=curves, device=device, title=title
    )


def read_heads(
    tokenizer: Tokenizer,
    own: Aligner | None,
    dataset: Path,
    clip: Clip,
    config: ReadingParams,
    *,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> Reading:
    """The same with the tokenizer's own aligner at hand, in eval mode, or None; see `read_tokenizer`."""
    test = ImageSplit.open(dataset, "test", tokenizer.resolution)
    drawn = DrawnText(test, config, f"{dataset}, split test")
    texts = _texts([config.align, *([own.config] if own is not None else [])], drawn, clip, config)
    reader = train_reader(
        tokenizer, dataset, clip, config, scratch=scratch, curves=curves, device=device, title=title
    )
    digest = ImagesDigest()
    codes = FrozenCodes.encode(tokenizer, test, drawn.positions, config.batch_size, device, digest)
    album, examples = Album(drawn), draw_examples(len(drawn), config)
    commonest = _commonest(reader)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SPECS}
    heads: dict[str, Aligner] = {"fresh": reader.aligner} | ({} if own is None else {"own": own.to(device)})
    metrics: dict[str, Any] = {}
    for name, head in heads.items():
        text = texts[head.config.max_tokens]
        found = measure_reading(head, codes, text, config, commonest, examples)
        metrics[name] = {**found.metrics, "heads": ", ".join(head.config.losses())}
        rows["per_image"] += per_image_rows(name, found, drawn.ids)
        rows["masked"] += masked_rows(name, found, head, text, album, config.examples.num_predictions)
        rows["retrieval"] += retrieval_rows(name, found, album, examples, config.examples.num_candidates)
        rows["similarity"] += similarity_rows(name, found, codes, text, album)
    metrics["training"] = reader.facts
    metrics["protocol"] = {
        "split": "test", "num_images": len(drawn), "seed": config.seed, "captions": "one of each image, drawn by seed",
        "num_tokens": len(reader.aligner.vocabulary), "num_positions": codes.indices[0, 0].numel(),
        "groups": tokenizer.groups,
    }  # fmt: skip
    metrics[MEASURED] = _measured(digest, drawn, tokenizer, clip, config)
    facts = {
        "split": "test", "num_images": len(drawn), "grid": list(tokenizer.grid), "readers": list(heads),
        "groups": tokenizer.groups,
    }  # fmt: skip
    tables = {name: to_table(spec, rows[name], facts) for name, spec in SPECS.items()}
    return Reading(metrics, tables, facts)


def _measured(
    digest: ImagesDigest, drawn: DrawnText, tokenizer: Tokenizer, clip: Clip, config: ReadingParams
) -> Measured:
    """The record of what was measured; the heads that are trained to read belong to the protocol."""
    protocol = config.model_dump(
        mode="json", exclude={"tokenizer", "num_images", "batch_size", "examples"}, exclude_none=True
    )
    training = reader_training(config, tokenizer).model_dump(mode="json", exclude=SPEED, exclude_none=True)
    protocol |= {"version": PROTOCOL, "crop": "centre", "clip": clip.id, "training": training}
    return measured({**digest.record("test"), "captions": text_digest(drawn.captions)}, protocol)


def _texts(
    heads: Sequence[AlignParams], drawn: DrawnText, clip: Clip, config: ReadingParams
) -> dict[int, TextBatch]:
    """The test captions by the longest that some heads take; what cannot be measured is refused before they train."""
    texts: dict[int, TextBatch] = {}
    for align in heads:
        if "global" in align.losses():
            need_memory(
                _SCORE_BYTES * len(drawn) ** 2, f"retrieval among {len(drawn):,} images and their captions"
            )
        text = texts.get(align.max_tokens) or drawn.encoded(clip, align.max_tokens)
        if "masked" in align.losses():
            need_words(text.words, config.masked_counts)
        texts[align.max_tokens] = text
    return texts


def _commonest(reader: Reader) -> dict[int, Word]:
    """The training captions' most frequent word by its number of pieces."""
    uses = Counter(text for own in reader.split.captions for text in own)  # in the order of the texts' rows
    rows = reader.captions.text.rows
    assert len(uses) == len(rows.ids)
    counts = word_counts(rows.ids, rows.words, np.fromiter(uses.values(), np.int64, len(uses)))
    return commonest_words(counts)
