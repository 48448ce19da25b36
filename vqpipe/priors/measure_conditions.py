"""Whether images are what was asked for: classes, captions and label maps, as judges trained on real images see them.

Every set of images is compared with the condition that it was made for. Reconstructions and real test images are
compared with their own, which is the ceiling of the judge; images of codes drawn by frequency are the floor, and
samples compared with the conditions of other ones of the set are chance.

Letters: n b images, H W pixels, c classes of pixels, m texts, e dimension of CLIP's space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from vqpipe.artifacts.metrics import Metrics
from vqpipe.evaluation.judges_captions import Stated, stated
from vqpipe.evaluation.judges_measure import confusion, facts_found, map_scores
from vqpipe.metrics.distances import FeatureRows
from vqpipe.metrics.floors import other_examples
from vqpipe.runtime.batches import large_array, slices
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.vision.clip import TEXT_BATCH, Clip

if TYPE_CHECKING:
    from vqpipe.evaluation.judges import Found, Judges

CANDIDATES, DRAWS = 100, 10
"""R of R-precision, and how often the other R - 1 captions are drawn."""
CHANCE = "another_condition"
"""The row of samples that are compared with the conditions of others."""
OTHERS = 0
"""Seed of which other one, the same for all priors."""
OF_TEST = ("reconstructions", "test_images")
"""Sets that are test images, and have these images' own conditions."""
CHUNK = 256


class Agreement(Metrics):
    """How well one set of images agrees with its conditions; only what belongs to the kind of condition is there."""

    class_accuracy: float | None = None
    """Part of the images that the judge assigns to their class, [0, 1]; higher is better."""
    clip_similarity: float | None = None
    """Mean cosine of image and caption in the run's CLIP, [-1, 1]; higher is better."""
    r_precision: float | None = None
    """Part of the images whose caption has the largest cosine among `num_candidates` captions of the test split (Xu et
    al., 2018, section 4), mean over draws of the others, [0, 1]; higher is better."""
    r_precision_std: float | None = None
    """Its standard deviation over the draws."""
    objects: float | None = None
    """Part of the objects that a caption states that the judge's detector finds, mean over captions that state any,
    [0, 1]; higher is better."""
    colours: float | None = None
    """The same for colours of objects."""
    adjectives: float | None = None
    """The same for all adjectives of objects, colours among them."""
    places: float | None = None
    """Part of the captions with a place whose image the judge assigns to it, [0, 1]; higher is better."""
    mean_iou: float | None = None
    """Intersection over union of the judge's map and the condition, over all pixels of all images, mean over the
    classes that the conditions have, [0, 1]; higher is better."""
    pixel_accuracy: float | None = None
    """Part of the pixels to which the judge assigns the class of the condition, [0, 1]; higher is better."""


class ConditionMetrics(Metrics):
    """Agreement with the conditions, of samples and of what to compare them with."""

    num_images: int
    """Images with a condition, in each set of samples."""
    num_candidates: int | None = None
    """Captions of which the right one must be first, itself included."""
    num_draws: int | None = None
    """How often the others were drawn."""
    samples: Agreement
    """Samples of the prior."""
    unquantised_samples: Agreement | None = None
    """Samples decoded without quantising, where these are measured."""
    unigram_samples: Agreement
    """The floor: codes drawn by frequency, which know of no condition."""
    reconstructions: Agreement
    """Reconstructed test images, with their own conditions."""
    test_images: Agreement
    """Test images with their own conditions: the ceiling."""
    another_condition: Agreement
    """Chance: samples compared with the conditions of others, see `vqpipe.metrics.floors.other_examples`."""
    not_measured: dict[str, str] | None = None
    """Why a measure is absent, by its name."""


class Watcher(ABC):
    """Sees all images of each set, batch by batch and in order, and compares them with their conditions."""

    @abstractmethod
    def add(
        self, name: str, rows: slice, images: UInt8[Tensor, "b 3 H W"], features: Float[Tensor, "b d"] | None
    ) -> None:
        """The images `rows` of the set `name`, on the CPU, and their features for distances."""

    @abstractmethod
    def agreement(self, name: str) -> Agreement:
        """Of a set that was added, or of `CHANCE`."""


class ClassWatcher(Watcher):
    """Classes, by the judge's classifier.

    Args:
        asked: the classes that the samples were asked for, -1 for none.
        own: the classes of the test images.
    """

    def __init__(self, judge: Judges, asked: Int64[Tensor, " n"], own: Int64[Tensor, " n"]) -> None:
        self._judge, self._asked, self._own = judge, asked, own
        self._found: dict[str, list[Tensor]] = defaultdict(list)

    def add(
        self, name: str, rows: slice, images: UInt8[Tensor, "b 3 H W"], features: Float[Tensor, "b d"] | None
    ) -> None:
        self._found[name].append(self._judge.class_of(images).argmax(1).cpu())

    def agreement(self, name: str) -> Agreement:
        found = torch.cat(self._found["samples" if name == CHANCE else name])
        asked = self._own if name in OF_TEST else self._asked
        asked = asked[other_examples(len(asked), OTHERS)] if name == CHANCE else asked
        known = asked >= 0
        if not known.any():
            return Agreement()
        return Agreement(class_accuracy=float((found == asked)[known].double().mean()))


class MapWatcher(Watcher):
    """Label maps, by the judge's segmenter.

    Args:
        maps: the maps of the images of these rows, -1 where no class is known.
        count: n.
        num_classes: c.
    """

    def __init__(
        self,
        judge: Judges,
        maps: Callable[[np.ndarray], Int64[Tensor, "b H W"]],
        count: int,
        num_classes: int,
    ) -> None:
        self._judge, self._maps, self._count, self._classes = judge, maps, count, num_classes
        self._counts: dict[str, Tensor] = {}

    def add(
        self, name: str, rows: slice, images: UInt8[Tensor, "b 3 H W"], features: Float[Tensor, "b d"] | None
    ) -> None:
        found, at = self._judge.segment(images).cpu(), np.arange(rows.start, rows.stop)
        self._count_pixels(name, self._maps(at), found)
        if name == "samples":
            self._count_pixels(CHANCE, self._maps(other_examples(self._count, OTHERS)[at]), found)

    def _count_pixels(self, name: str, truth: Int64[Tensor, "b H W"], found: Int64[Tensor, "b H W"]) -> None:
        own = confusion(found, truth, self._classes)
        self._counts[name] = self._counts[name] + own if name in self._counts else own

    def agreement(self, name: str) -> Agreement:
        found = map_scores(self._counts[name])
        return Agreement(**found.model_dump(include={"mean_iou", "pixel_accuracy"})) if found else Agreement()


class TextWatcher(Watcher):
    """Captions, by the run's CLIP.

    Args:
        captions: the caption of each image, "" for none.
        others: the captions of the test split, of which R-precision draws the others.
        reused: whether the features for distances are this CLIP's embeddings.
    """

    def __init__(
        self, clip: Clip, captions: Sequence[str], others: Sequence[str], seed: int, reused: bool
    ) -> None:
        texts = list(dict.fromkeys(text for text in [*captions, *others] if text.strip()))
        place = {text: at for at, text in enumerate(texts)}
        self._clip, self._reused, self._seed = clip, reused, seed
        self._texts = _unit_texts(clip, texts)
        self._own = torch.tensor([place.get(text, -1) for text in captions])
        self._found: dict[str, FeatureRows] = {}
        """Of each set, the embeddings of its images with a caption, not normalised."""
        self.num_candidates = min(CANDIDATES, len(texts))

    @torch.no_grad()
    def add(
        self, name: str, rows: slice, images: UInt8[Tensor, "b 3 H W"], features: Float[Tensor, "b d"] | None
    ) -> None:
        if features is None or not self._reused:
            pixels = images.to(self._clip.mean.device).float() / 127.5 - 1.0
            features = self._clip.encode_image(pixels).cpu()
        if name not in self._found:
            self._found[name] = FeatureRows(int((self._own >= 0).sum()), features.shape[1])
        self._found[name].add(features[self._own[rows] >= 0].float())

    def agreement(self, name: str) -> Agreement:
        images = self._found["samples" if name == CHANCE else name].rows
        own = self._own[self._own >= 0]
        if len(own) < (2 if name == CHANCE else 1):
            return Agreement()
        own = own[other_examples(len(own), OTHERS)] if name == CHANCE else own
        cosines = [(_unit(images[rows]) * self._texts[own[rows]]).sum(1) for rows in slices(len(own), CHUNK)]
        similar = float(torch.cat(cosines).mean())
        if self.num_candidates == 1:  # which would always be first
            return Agreement(clip_similarity=similar)
        ranked = r_precision(images, self._texts, own, self.num_candidates, DRAWS, self._seed)
        return Agreement(
            clip_similarity=similar,
            r_precision=float(ranked.mean()),
            r_precision_std=float(ranked.std()),
        )


class CaptionWatcher(Watcher):
    """What captions of the scenes state, by the judge's detector and classifier.

    Args:
        captions: the caption of each image, "" for none.
    """

    def __init__(self, judge: Judges, captions: Sequence[str]) -> None:
        self._judge, self._another = judge, other_examples(len(captions), OTHERS).tolist()
        self._truths = [
            stated(text, judge.things, judge.adjectives, judge.classes) if text.strip() else None
            for text in captions
        ]
        self._shares: dict[str, dict[str, list[float]]] = {}

    def add(
        self, name: str, rows: slice, images: UInt8[Tensor, "b 3 H W"], features: Float[Tensor, "b d"] | None
    ) -> None:
        judged = self._judge.judge(images)
        nothing = [None] * len(images)
        objects = judged.objects if judged.objects is not None else nothing
        places = judged.classes.argmax(1).tolist() if judged.classes is not None else nothing
        for at, found, place in zip(range(rows.start, rows.stop), objects, places, strict=True):
            self._compare(name, self._truths[at], found, place)
            if name == "samples":
                self._compare(CHANCE, self._truths[self._another[at]], found, place)

    def _compare(
        self, name: str, truth: Stated | None, found: Sequence[Found] | None, place: int | None
    ) -> None:
        shares = self._shares.setdefault(name, defaultdict(list))
        if truth is None:
            return
        if found is not None:
            facts = facts_found(found, truth, self._judge.config.adjective_threshold)
            for fact, (right, count) in facts.items():
                if count:
                    shares[fact].append(right / count)
        if place is not None and truth.place is not None:
            shares["places"].append(float(self._judge.classes[place] == truth.place))

    def agreement(self, name: str) -> Agreement:
        return Agreement.model_validate({fact: fmean(own) for fact, own in self._shares[name].items()})


def r_precision(
    images: Float[Tensor, "n e"],
    texts: Float64[Tensor, "m e"],
    own: Int64[Tensor, " n"],
    num_candidates: int,
    num_draws: int,
    seed: int,
) -> Float64[np.ndarray, " draws"]:
    """The part of images whose own text has a larger cosine than all of `num_candidates` - 1 others, for each draw.

    In a draw all texts are shuffled, and the others of an image are those that follow its own one; the first follows
    the last. Equal cosines count against the image.

    Args:
        images: of any length.
        texts: different ones, of unit length; no fewer than `num_candidates`.
        own: the text of each image.
    """
    first = np.zeros(num_draws)
    for draw in range(num_draws):
        order = torch.from_numpy(numpy_rng(seed, "r-precision", draw).permutation(len(texts)))
        place = order.argsort()
        after = torch.arange(1, num_candidates)
        for rows in slices(len(images), CHUNK):
            part = _unit(images[rows])
            others = texts[order[(place[own[rows], None] + after) % len(texts)]]
            cosines = torch.einsum("be,bce->bc", part, others)
            right = (part * texts[own[rows]]).sum(1)
            first[draw] += int((cosines < right[:, None]).all(1).sum())
    return first / max(len(images), 1)


def _unit(rows: Float[Tensor, "n e"]) -> Float64[Tensor, "n e"]:
    return F.normalize(rows.double(), dim=1)


def _unit_texts(clip: Clip, texts: Sequence[str]) -> Float64[Tensor, "m e"]:
    """Embeddings of unit length, mapped from a file if they are large."""
    whole = torch.empty(0, 0, dtype=torch.float64)
    for rows in slices(len(texts), TEXT_BATCH):
        part = _unit(clip.encode_text(texts[rows]).cpu())
        if not rows.start:
            shape = len(texts), part.shape[1]
            whole = torch.from_numpy(large_array(shape, np.float64, "the embeddings of the captions"))
        whole[rows] = part
    return whole


def condition_metrics(
    watchers: Sequence[Watcher], names: Sequence[str], num_images: int, not_measured: Mapping[str, str]
) -> ConditionMetrics:
    """What all watchers found of the sets `names`, and of chance."""
    rows = {}
    for name in [*names, CHANCE]:
        found: dict[str, float] = {}
        for watcher in watchers:
            found |= watcher.agreement(name).plain()
        rows[name] = Agreement.model_validate(found)
    text = next((watcher for watcher in watchers if isinstance(watcher, TextWatcher)), None)
    return ConditionMetrics(
        num_images=num_images,
        num_candidates=text.num_candidates if text is not None else None,
        num_draws=DRAWS if text is not None else None,
        not_measured=dict(not_measured) or None,
        **rows,
    )
