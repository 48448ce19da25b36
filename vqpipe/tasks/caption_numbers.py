"""The numbers of one caption for each image, with intervals over images.

Letters: n images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vqpipe.artifacts.metrics import Metrics
from vqpipe.metrics.caption_scores import caption_scores
from vqpipe.metrics.measured import Interval
from vqpipe.tasks.words import words_of

PerImage = Float64[np.ndarray, " n"]


class CaptionNumbers(Metrics):
    """Scores of one caption for each image; higher is better, in [0, 1] except CIDEr-D, in [0, 10]."""

    bleu_1: float
    """Of the whole set: words."""
    bleu_2: float
    """Up to pairs of words."""
    bleu_3: float
    """Up to triples."""
    bleu_4: float
    """Up to four words in a row."""
    rouge_l: Interval
    """The longest common subsequence; mean over images."""
    cider_d: Interval
    """Agreement in rare n-grams; mean over images. Document frequencies are those of the references."""
    meteor: float | None = None
    """METEOR 1.5; only with Java."""
    spice: float | None = None
    """SPICE; only with Java, where its files are there."""
    objects: Interval | None = None
    """Of the kinds of objects that a caption names, the share that is in the image; mean over the images whose caption
    names one. None where no caption does, or no image has annotated objects."""


@dataclass(frozen=True)
class Scored:
    """A set of captions with its numbers."""

    numbers: CaptionNumbers
    """Of the set."""
    values: dict[str, PerImage]
    """By image: `rouge_l`, `cider_d`, `sentence_bleu_4` (BLEU-4 of one image; its mean is not that of the set),
    `objects` where there are some (NaN for a caption that names none)."""
    tokenizer: str
    """As in `CaptionScores`."""
    absent: dict[str, str]
    """As in `CaptionScores`."""


def scored(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    objects: Sequence[set[str]],
    java: bool | None,
    interval: Callable[[PerImage], Interval],
) -> Scored:
    """Score a caption of each image.

    Args:
        captions: of n images.
        references: at least one of each image.
        objects: the names of the objects in each image.
        java: as in `caption_scores`, and its errors.
        interval: of the finite ones among values of images.
    """
    found = caption_scores(captions, references, java=java)
    values = {name: found.per_example[name] for name in ("rouge_l", "cider_d")}
    intervals = {name: interval(own) for name, own in values.items()}
    values["sentence_bleu_4"] = found.per_example["bleu_4"]
    named = named_objects(captions, objects)
    if np.isfinite(named).any():
        values["objects"], intervals["objects"] = named, interval(named)
    numbers = CaptionNumbers.model_validate({**found.corpus, **intervals})
    return Scored(numbers, values, found.tokenizer, found.absent)


def named_objects(captions: Sequence[str], objects: Sequence[set[str]]) -> PerImage:
    """Of the kinds of objects that each caption names, the share that is in its image; NaN for none.

    A kind is a name that some image has; of a name of several words all must follow each other, and names in it do not
    count: a hot dog is no dog. Plurals do not count.
    """
    own_kinds = [{" ".join(name.lower().split()) for name in own} for own in objects]
    kinds = sorted(set().union(*own_kinds), key=lambda kind: (-len(kind.split()), kind))
    patterns = {kind: re.compile(rf"(?<!\S){re.escape(kind)}(?!\S)") for kind in kinds}
    shares = []
    for text, own in zip(captions, own_kinds, strict=True):
        rest, named = " ".join(words_of(text)), []
        for kind, pattern in patterns.items():
            rest, count = pattern.subn("\0", rest)
            named += [kind in own] if count else []
        shares.append(float(np.mean(named)) if named else np.nan)
    return np.array(shares)
