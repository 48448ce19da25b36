"""What judges say of images, as measures: classes, label maps, boxes and captions compared with what was asked for.

Letters: n images, H W their height and width, k classes of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.records import Thing
from vqpipe.errors import MismatchError
from vqpipe.evaluation.judges import Found, Judged, Judges
from vqpipe.evaluation.judges_captions import COLOUR_WORDS, Mention, Stated
from vqpipe.metrics.measured import Interval, interval

NUM_BOOTSTRAP, SEED = 1000, 0
"""Resamples of the intervals, and their seed."""
MATCH_IOU = 0.5
"""Overlap from which on a found box is that of a true object."""


class ClassAgreement(Metrics):
    """Images compared with the classes that were asked for."""

    top1: Interval
    """Share of images whose likeliest class is the asked one, in [0, 1]."""
    top5: Interval
    """Share of images whose asked class is among the five likeliest; 1 with five classes or fewer."""
    num_images: int
    """Images with a class."""


class MapAgreement(Metrics):
    """Images compared with the label maps that were asked for. Pixels without a class are left out."""

    mean_iou: float
    """Intersection over union of each class over all images' pixels, a mean over the classes of the maps; [0, 1]."""
    pixel_accuracy: float
    """Share of the pixels with the asked class, in [0, 1]."""
    num_classes: int
    """Classes that occur in the maps."""


class CaptionAgreement(Metrics):
    """Images compared with the captions that were asked for.

    Each number is the share of what a caption states that is found in its image, a mean over the captions that state
    any; None where none does. All but `places` are what the detector finds.
    """

    objects: Interval | None = None
    """Objects: as many of a name as the caption has."""
    colours: Interval | None = None
    """Colours of objects: the object is found, and seen to have the colour."""
    adjectives: Interval | None = None
    """The same for all adjectives of objects, colours among them."""
    places: Interval | None = None
    """The place: the classifier's likeliest class."""
    num_captions: int
    """Captions that were compared."""


class DetectionAgreement(Metrics):
    """Found objects compared with the true ones: a match has the name and overlaps by an IoU of 0.5 or more."""

    precision: float
    """Share of the found objects that are true, in [0, 1]."""
    recall: float
    """Share of the true objects that are found, in [0, 1]."""
    num_true: int
    """True objects."""
    num_found: int
    """Found objects."""
    adjective_precision: float | None = None
    """Share of the adjectives seen on matched objects that are true; None where there are none."""
    adjective_recall: float | None = None
    """Share of the true adjectives of matched objects that are seen; None where there are none."""


def class_agreement(chances: Float[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> ClassAgreement | None:
    """How often the likeliest class is the asked one; None where no image has a class.

    Args:
        chances: the classifier's probabilities.
        labels: the class that each image was asked to be, -1 for none.

    Raises:
        MismatchError: a label that is not a class.
    """
    labels = labels.cpu()
    has = labels >= 0
    if not has.any():
        return None
    if int(labels.max()) >= chances.shape[1]:
        raise MismatchError(
            "a label that is none of the judges' classes", found=int(labels.max()),
            expected=f"0 to {chances.shape[1] - 1}",
        )  # fmt: skip
    best = chances[has].topk(min(5, chances.shape[1])).indices == labels[has, None]
    return ClassAgreement(
        top1=_interval(best[:, 0].numpy()), top5=_interval(best.any(1).numpy()), num_images=len(best)
    )


def confusion(found: Int64[Tensor, "n H W"], true: Int64[Tensor, "n H W"], k: int) -> Int64[Tensor, "k k"]:
    """Pixels by true class (rows) and found class; those whose true class is -1 are left out."""
    known = true >= 0
    return torch.bincount(true[known] * k + found[known], minlength=k * k).view(k, k)


def map_agreement(
    found: Int64[Tensor, "n H W"], label_map: Int64[Tensor, "n H W"], k: int
) -> MapAgreement | None:
    """Intersection over union of the found and the asked classes; None where no pixel has a class.

    Args:
        found: the segmenter's classes.
        label_map: the asked ones, -1 for none.
        k: number of classes.

    Raises:
        MismatchError: maps of another shape, or a class that the segmenter does not know.
    """
    label_map = label_map.cpu()
    if label_map.shape != found.shape:
        raise MismatchError(
            "label maps that are not of the images' shape", found=tuple(label_map.shape),
            expected=tuple(found.shape),
        )  # fmt: skip
    if label_map.numel() and int(label_map.max()) >= k:
        raise MismatchError(
            "a class of pixels that the judges do not know", found=int(label_map.max()),
            expected=f"0 to {k - 1}",
        )  # fmt: skip
    return map_scores(confusion(found, label_map, k))


def map_scores(counts: Int64[Tensor, "k k"]) -> MapAgreement | None:
    """Intersection over union of the found and the asked classes; None where no pixel has a class.

    Args:
        counts: as `confusion` gives them.
    """
    both, asked = counts.diagonal().double(), counts.sum(1)
    occurs = asked > 0
    if not occurs.any():
        return None
    iou = both / (asked + counts.sum(0) - both)
    return MapAgreement(
        mean_iou=float(iou[occurs].mean()), pixel_accuracy=float(both.sum() / asked.sum()),
        num_classes=int(occurs.sum()),
    )  # fmt: skip


def facts_agreement(judges: Judges, judged: Judged, truths: Sequence[Stated]) -> CaptionAgreement:
    """How much of what captions state is found in their images.

    Args:
        judges: with a detector, or a classifier, or both; what has no judge is None.
        judged: what they say of the images.
        truths: what the caption of each image states, from `stated`.
    """
    shares: dict[str, list[float]] = {"objects": [], "colours": [], "adjectives": [], "places": []}
    if judged.objects is not None:
        for found, truth in zip(judged.objects, truths, strict=True):
            for name, (right, count) in facts_found(found, truth, judges.config.adjective_threshold).items():
                if count:
                    shares[name].append(right / count)
    if judged.classes is not None:
        shares["places"] = [
            float(judges.classes[at] == truth.place)
            for at, truth in zip(judged.classes.argmax(1).tolist(), truths, strict=True)
            if truth.place is not None
        ]
    return CaptionAgreement(
        num_captions=len(truths),
        **{name: _interval(np.array(own)) if own else None for name, own in shares.items()},
    )


def facts_found(
    found: Sequence[Found], truth: Stated, adjective_threshold: float
) -> dict[str, tuple[int, int]]:
    """How many of the objects, colours and adjectives of a caption are found, and how many it states.

    The mentions of a noun are assigned to found objects of that name, each to one of its own, so that most is found.
    """
    right = dict.fromkeys(("objects", "colours", "adjectives"), 0)
    count = dict(right)
    for noun in dict.fromkeys(truth.objects):
        mentions = [mention for mention in truth.mentions if mention.noun == noun]
        objects = [one for one in found if one.name == noun]
        seen = [[_seen(mention, one, adjective_threshold) for one in objects] for mention in mentions]
        worth = np.array([[1 + len(words) for words in row] for row in seen]).reshape(len(mentions), -1)
        chosen = [seen[i][j] for i, j in zip(*linear_sum_assignment(worth, maximize=True), strict=True)]
        right["objects"] += len(chosen)
        count["objects"] += len(mentions)
        for words, into in [(chosen, right), ([_words(mention) for mention in mentions], count)]:
            into["adjectives"] += sum(map(len, words))
            into["colours"] += sum(len(own & COLOUR_WORDS) for own in words)
    return {name: (right[name], count[name]) for name in right}


def _words(mention: Mention) -> frozenset[str]:
    return frozenset((*mention.adjectives, *mention.predicate))


def _seen(mention: Mention, one: Found, threshold: float) -> frozenset[str]:
    """The adjectives of a mention that an object has."""
    return frozenset(word for word in _words(mention) if one.adjectives.get(word, 0.0) >= threshold)


def detection(
    found: Sequence[Sequence[Found]], true: Sequence[Sequence[Thing]], adjective_threshold: float
) -> DetectionAgreement | None:
    """Found objects compared with the true ones, the surest first; None without true objects."""
    num_true, num_found = sum(map(len, true)), sum(map(len, found))
    if num_true == 0:
        return None
    matched = right = seen = stated = 0
    for own, things in zip(found, true, strict=True):
        free = list(range(len(things)))
        overlaps = box_iou(_boxes([one.box for one in own]), _boxes([thing.box for thing in things]))
        for one, row in zip(own, overlaps, strict=True):
            same = [at for at in free if things[at].name == one.name and row[at] >= MATCH_IOU]
            if not same:
                continue
            best = max(same, key=lambda at: float(row[at]))
            free.remove(best)
            matched += 1
            words = {word for word, chance in one.adjectives.items() if chance >= adjective_threshold}
            truth = set(things[best].adjectives)
            right, seen, stated = right + len(words & truth), seen + len(words), stated + len(truth)
    return DetectionAgreement(
        precision=matched / num_found if num_found else 0.0, recall=matched / num_true,
        num_true=num_true, num_found=num_found,
        adjective_precision=right / seen if seen else None, adjective_recall=right / stated if stated else None,
    )  # fmt: skip


def _boxes(rows: Sequence[tuple[float, float, float, float]]) -> Tensor:
    return box_convert(torch.tensor(rows, dtype=torch.float64).view(-1, 4), "xywh", "xyxy")


def _interval(values: Float64[np.ndarray, " n"]) -> Interval:
    return interval(values.astype(np.float64), NUM_BOOTSTRAP, SEED)
