"""What an aligner reads from the codes of test images: masked words, retrieval, and the words' relations.

Everything is deterministic: images, captions, masked words and drawn positions come from the params' seed, the same for
every tokenizer, so that values of one image can be compared between tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from vqpipe.alignment.aligner import Aligner
from vqpipe.alignment.text import TextBatch
from vqpipe.engine.batches import over_tensors
from vqpipe.params.reading import ReadingParams
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.reading.summary import Gathered, MaskedExample, Measured, summarised
from vqpipe.reading.text import other_images
from vqpipe.reading.words import (
    MAX_WORDS,
    Word,
    WordRelations,
    draw_masks,
    masked_logits,
    masked_words,
    need_words,
    relate,
    word_recall,
)
from vqpipe.runtime.progress import track
from vqpipe.runtime.seeds import numpy_rng


@torch.no_grad()
def measure_reading(
    aligner: Aligner,
    codes: FrozenCodes,
    text: TextBatch,
    config: ReadingParams,
    commonest: Mapping[int, Word],
    examples: Sequence[int] = (),
) -> Measured:
    """Measure an aligner on test images.

    Masked words: of each caption with as many words as are masked (others are left out and counted), `recall` is the
    part of them whose first prediction is right, all byte-pair pieces together. Beside it: `other_image`, the same
    words predicted with the codes of another image (`other_images`), which is what the caption alone says; `commonest`,
    the training captions' most frequent word of as many pieces; `chance`, pieces drawn evenly from the vocabulary.

    Retrieval: cosines of global tokens and frozen text features. From an image, the candidates are the different texts
    and its own is right; from a caption, the candidates are the images and all that drew an equal text are right. Texts
    are equal where their tokens are. Equal scores, such as those of images with the same codes, count in random order
    (`recalls`). Chance is a random order.

    Relations (Table 4): the squared differences of the cosines of words and those of their codes, a mean over a
    caption's pairs of different words and then over captions that have one. `chance` has positions drawn evenly for the
    words. What codes of one cosine all over would get at best is `constant`; `correlation` is that of the cosines over
    all pairs (left out where either does not vary), and `same_position` the part of the pairs that one position stands
    for.

    Args:
        aligner: in eval mode, on the device of the codes' tokenizer.
        codes: of the test images.
        text: their captions, on the CPU.
        config: seed, counts, batch size and bootstrap.
        commonest: the training captions' most frequent word by its number of pieces.
        examples: images of which more is kept.

    Returns:
        The metrics: for each masked count `masked_K`, then `image_to_text`, `text_to_image`, `similarity`; those that
        the aligner has no head for are left out. Means over images are `{mean, low, high}`.

    Raises:
        DataError: features that are not finite, or no caption with as many words as are to be masked.
    """
    if aligner.masked_text is not None:
        need_words(text.words, config.masked_counts)
    device = aligner.vocabulary.embeddings.device
    masks = {count: draw_masks(text.words, count, config.seed) for count in config.masked_counts}
    positions = int(np.prod(codes.indices.shape[2:]))
    drawn = torch.from_numpy(
        numpy_rng(config.seed, "positions").integers(0, positions, (len(codes), MAX_WORDS))
    )
    others = other_images(len(codes), config.seed)
    seen, kept = Gathered(), set(examples)
    for at in track(range(0, len(codes), config.batch_size), "read"):
        rows = np.arange(at, min(at + config.batch_size, len(codes)))
        quantized = codes.quantized(codes.rows(rows).to(device))
        chosen = over_tensors(text, _rows_on(rows, device))
        batch = aligner.checked(chosen)
        encoded = aligner.code_transformer(quantized.z_q)
        seen.features.append(encoded.feature.cpu())
        if aligner.masked_text is not None:
            exchanged = codes.quantized(codes.rows(others[rows]).to(device))
            foreign = aligner.code_transformer(exchanged.z_q)
            for count, mask in masks.items():
                masked = mask[rows][:, : batch.tokens.shape[1]].to(device)
                targets = batch.tokens[masked]
                for name, source in (("recall", encoded), ("other_image", foreign)):
                    logits = masked_logits(aligner, batch, source, masked)
                    right = torch.zeros_like(masked)
                    right[masked] = aligner.vocabulary.ids[logits.argmax(dim=1)] == targets
                    seen.add(f"masked_{count}.{name}", word_recall(right, masked, batch.words))
                    if name == "recall":
                        _keep_mask(seen, count, rows, kept, batch, masked, logits)
                words = [masked_words(batch, masked, row) for row in range(len(rows))]
                seen.add(
                    f"masked_{count}.commonest", _share(words, lambda w: float(commonest.get(len(w)) == w))
                )
                seen.add(f"masked_{count}.chance", _share(words, _drawn_evenly(len(aligner.vocabulary))))
        if quantized.vectors:
            found = relate(aligner, quantized, encoded, batch, drawn[rows].to(device))
            _add_relations(seen, found)
            own = [row for row in range(len(rows)) if int(rows[row]) in kept]
            if own:
                seen.relations.append(
                    (rows[own], over_tensors(found, _rows_on(np.array(own), torch.device("cpu"))))
                )
    return summarised(aligner, codes, text, config, seen)


def _rows_on(rows: Int64[np.ndarray, " b"], device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda part: part[torch.from_numpy(rows).to(part.device)].to(device)


def _drawn_evenly(num_tokens: int) -> Callable[[Word], float]:
    return lambda word: float(num_tokens) ** -len(word)


def _share(words: Sequence[Sequence[Word]], value: Callable[[Word], float]) -> Float64[np.ndarray, " b"]:
    """The mean of a value over each caption's words; NaN for none."""
    return np.array([np.mean([value(word) for word in own]) if own else np.nan for own in words])


def _keep_mask(
    seen: Gathered,
    count: int,
    rows: Int64[np.ndarray, " b"],
    kept: set[int],
    batch: TextBatch,
    masked: Tensor,
    logits: Tensor,
) -> None:
    ends = np.cumsum(masked.sum(dim=1).cpu().numpy())
    for row, image in enumerate(rows.tolist()):
        words = masked_words(batch, masked, row)
        if image in kept and words:
            own = logits[ends[row] - int(masked[row].sum()) : ends[row]].cpu()
            numbers = tuple(sorted(set(batch.words[row][masked[row]].tolist())))
            parts = list(torch.split(own, [len(word) for word in words]))
            seen.masks.setdefault(count, {})[image] = MaskedExample(numbers, words, parts)


def _add_relations(seen: Gathered, found: WordRelations) -> None:
    for name in found.codes:
        seen.add(f"similarity.{name}", found.errors(name))
        seen.cosines.setdefault(name, []).append(found.codes[name][found.pairs].double().cpu().numpy())
    seen.cosines.setdefault("words", []).append(found.words[found.pairs].double().cpu().numpy())
    weights = (1.0 / found.pairs.sum(dim=(1, 2)).double())[:, None, None].expand(found.pairs.shape)
    seen.cosines.setdefault("weights", []).append(weights[found.pairs].cpu().numpy())
    same = found.positions[:, :, None] == found.positions[:, None, :]
    seen.cosines.setdefault("same", []).append(same[found.pairs].double().cpu().numpy())
