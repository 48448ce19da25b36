"""The `prior` stage: a prior is trained, then measured: bits, distances, conditions, completion, copies, cost.

Letters: n images, g groups, h w the token grid, c channels of the latent, H W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vqpipe.data.loader import ImageSplit
from vqpipe.errors import MismatchError
from vqpipe.evaluation.judges import Judges
from vqpipe.metrics.distances import Features, load_features
from vqpipe.metrics.floors import other_examples
from vqpipe.metrics.measured import DIGITS, ImagesDigest, Measured, measured_with, text_digest
from vqpipe.priors.artifact import MadeWith, PriorPictures, prior_digest, save_prior, weights_facts
from vqpipe.priors.contract import Condition, ImageSpace, Prior, PriorParams
from vqpipe.priors.examples import Examples, some
from vqpipe.priors.measure import (
    IMAGE_BATCH,
    NUM_COMPARED,
    SAMPLE_BATCH,
    TRAIN_CHUNK,
    ImageBatches,
    MeasuredSets,
    PriorMetrics,
    code_frequencies,
    crops,
    decoded,
    measure_sets,
    memorisation,
    sample_batches,
    split_bits,
    unigram_samples,
)
from vqpipe.priors.measure_completion import (
    NUM_COMPLETIONS,
    NUM_PICTURES,
    CompletedPictures,
    CompletionMetrics,
    HoleName,
    draw_completions,
    holes,
    measure_completion,
    metric_networks,
)
from vqpipe.priors.measure_conditions import (
    OTHERS,
    CaptionWatcher,
    ClassWatcher,
    ConditionMetrics,
    MapWatcher,
    TextWatcher,
    Watcher,
    condition_metrics,
)
from vqpipe.priors.measure_cost import known_batch, sampling_cost, training_cost
from vqpipe.priors.measure_distances import Moments
from vqpipe.priors.train import examples_of, space_of, to_codes, to_latents, train_prior
from vqpipe.runtime.batches import large_array, slices
from vqpipe.runtime.distributed import is_main
from vqpipe.runtime.seeds import numpy_rng, torch_rng
from vqpipe.runtime.terminal import track
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSet
from vqpipe.training.objective import TrainingResult
from vqpipe.vision.clip import Clip, weights_digest

PROTOCOL = 4
"""Number of the measuring protocol in the code: raise it when a change alters what a number means."""
NUM_SHOWN, NUM_NEAREST = 64, 16
"""Samples in the grid, and those of them that are shown with their nearest training image."""
SPENT = "training_seconds.json"
"""In the scratch folder, for a run that is stopped while it is measured."""
ABSENT = "no judges were given"


@dataclass(frozen=True)
class MeasuredPrior:
    """A trained prior and what was measured; `cost` differs from run to run, such as seconds per image."""

    prior: Prior
    averaged: bool
    metrics: PriorMetrics
    cost: dict[str, float]
    pictures: PriorPictures
    made_with: MadeWith

    def save(self, folder: Path) -> None:
        """Publish the prior artifact."""
        save_prior(folder, self.prior, self.averaged, self.pictures, self.made_with)


def check_judges(judges: Judges | None, config: PriorParams, space: ImageSpace) -> None:
    """Refuse judges that know other classes than the prior's images have, or know them in another order.

    Raises:
        MismatchError: the message has the number of classes on both sides.
    """
    if judges is None:
        return
    for condition, known, own in (
        ("class", judges.classes, space.classes), ("label_map", judges.categories, space.map_classes),
    ):  # fmt: skip
        if config.condition == condition and known and known != own:
            raise MismatchError(
                f"the judges were not trained on this dataset: other classes for condition: {condition}",
                found=f"{len(known)} classes, {', '.join(known[:3])}, …",
                expected=f"{len(own)} classes, {', '.join(own[:3])}, …",
                run="dvc repro judges",
            )


def train_and_measure(
    config: PriorParams,
    tokens: TokenSet,
    tokenizer: Tokenizer,
    dataset: Path,
    clip: Clip,
    *,
    judges: Judges | None = None,
    scratch: Path,
    curves: Path | None,
    device: torch.device,
    title: str,
) -> MeasuredPrior | None:
    """The `prior` stage: train a prior on the images of a tokenizer and measure it; None on all ranks but the first.

    Args:
        config: the pair's params.
        tokens: the tokens artifact that `tokenizer` wrote.
        tokenizer: encodes latents and decodes samples, on `device` and in eval mode.
        dataset: the dataset artifact that the tokens are of.
        clip: the CLIP of the run, for `distances.features: clip`, and for the similarity of samples and captions.
        judges: trained on the images of `dataset`; without them their measures are absent, with the reason.
        scratch: folder of the checkpoint, from which a killed run resumes.
        curves: where the training curves are published.
        title: names the run on the progress bar.

    Raises:
        MismatchError: tokens of another tokenizer or dataset, labels that the condition cannot use, or judges of other
            classes.
        SetupError: the distances' package or weights are not there.
        TrainingError: the loss does not stay finite.
    """
    examples = examples_of(config, tokens, tokenizer, dataset, clip)
    space = space_of(examples["train"], tokens.classes)
    check_judges(judges, config, space)
    features = load_features(config.distances, clip, device) if is_main() else None
    prior, result = train_prior(
        config,
        space,
        examples["train"].with_kept_texts(),
        scratch=scratch,
        curves=curves,
        device=device,
        title=title,
    )
    if features is None:
        return None
    cost = training_cost(result, scratch / SPENT)
    return measure_prior(prior, result, examples, clip, features, judges, cost)


@dataclass(frozen=True)
class _Measuring:
    """A trained prior, and what it is measured with."""

    prior: Prior
    examples: Mapping[str, Examples]
    clip: Clip
    features: Features
    judges: Judges | None

    @property
    def config(self) -> PriorParams:
        return self.prior.config

    @property
    def tokenizer(self) -> Tokenizer:
        return self.examples["test"].tokenizer

    @property
    def test(self) -> ImageSplit:
        return self.examples["test"].images

    @cached_property
    def n(self) -> int:
        """Samples, and test images that they are compared with."""
        return min(self.config.num_samples, len(self.examples["test"]))

    @cached_property
    def rows(self) -> Int64[np.ndarray, " n"]:
        """The test images that samples are compared with: the same for all priors of a seed, split and n."""
        return self.examples["test"].drawn(self.n, "test images")

    def part(self, of: int, count: int, what: str) -> Int64[np.ndarray, " m"]:
        """Places of `count` of `of` images that were drawn, drawn again: their first ones could be of a few classes."""
        return some(of, count, self.config.seed, what)

    @cached_property
    def asked_of(self) -> Examples:
        """The split of the samples' conditions: texts and maps are the test split's, which the training did not see;
        classes have the training split's frequencies."""
        return self.examples["train" if self.config.condition == "class" else "test"]

    @cached_property
    def asked(self) -> Int64[np.ndarray, " n"]:
        """The images of that split whose conditions the samples have: the test images that they are compared with, or,
        for classes, training images at random."""
        if self.config.condition == "class":
            return numpy_rng(self.config.seed, "prior", "labels").integers(len(self.asked_of), size=self.n)
        return self.rows

    def conditions(self, rows: slice) -> Condition:
        """The conditions of some samples."""
        return self.asked_of.conditions(self.asked[rows]).condition

    def pixels(self, rows: Int64[np.ndarray, " b"]) -> UInt8[Tensor, "b 3 H W"]:
        """Centre crops of some test images."""
        return self.test.gather(rows, None, "centre", False)

    def decode(self, codes: Int64[Tensor, "b g h w"]) -> UInt8[Tensor, "b 3 H W"]:
        return torch.cat(list(decoded(self.tokenizer.decode, codes, self.tokenizer.device)))


def measure_prior(
    prior: Prior,
    training: TrainingResult,
    examples: Mapping[str, Examples],
    clip: Clip,
    features: Features,
    judges: Judges | None,
    cost: Mapping[str, float],
) -> MeasuredPrior:
    """Sample from a prior in eval mode, and measure it and its samples.

    Args:
        training: what `prior` comes from.
        examples: the images of `train`, `validation` and `test`.
        clip: the run's, for captions and for the perceptual distance inside holes.
        features: of the distances.
        judges: as `check_judges` accepts them.
        cost: what was measured of the training.
    """
    run = _Measuring(prior, examples, clip, features, judges)
    config, n, tokenizer = run.config, run.n, run.tokenizer
    begun = time.perf_counter()
    samples, latents, seconds = _draw(run)
    floor = code_frequencies(examples["train"].tokens, tokenizer.num_codes)
    codes = {
        "samples": samples,
        "unigram_samples": unigram_samples(
            floor, n, tokenizer.grid, torch_rng(config.seed, "prior", "unigram")
        ),
        "reconstructions": examples["test"].codes(run.rows),
    }
    compared = run.part(n, NUM_COMPARED, "compared")
    watchers, not_measured = _watchers(run)
    sets = _measure_sets(run, codes, latents, watchers, compared)
    kept = {name: own[torch.from_numpy(compared)] for name, own in codes.items()}
    near = memorisation(sets, kept, examples["train"].tokens, examples["train"].images)
    completion, completed = _completion(run, codes)
    found = sets.distances
    others = {name: examples[name].drawn(n // 2, "likely") for name in ("train", "validation")}
    likely = {name: examples[name].batches(rows) for name, rows in {"test": run.rows, **others}.items()}
    watched = [name for name in sets.kept if name != "train_images"]
    made_with = MadeWith.of(tokenizer, examples["train"].text)
    metrics = PriorMetrics(
        **split_bits(prior, likely, codes["reconstructions"], floor),
        samples=found["samples"],
        unigram_samples=found["unigram_samples"],
        reconstructions=found["reconstructions"],
        unquantised_samples=found.get("unquantised_samples"),
        train_images=found.get("train_images"),
        test_images=found.get("test_images"),
        num_samples=n,
        nearest_train=near.metrics(),
        num_parameters=sum(p.numel() for p in prior.parameters()),
        num_steps=training.num_steps,
        num_rollbacks=training.num_rollbacks,
        weights="ema" if training.averaged else "last",
        condition=config.condition,
        num_without_condition=int(examples["train"].without_condition.sum()),
        num_captions_cut=examples["train"].num_cut(),
        agreement=_agreement(run, watchers, watched, not_measured),
        completion=completion,
        sha256=prior_digest(prior, weights_facts(prior, training.averaged, made_with)),
        measured=_measured(run),
    )
    known = known_batch(config.sampling, min(n, SAMPLE_BATCH), seconds)
    cost = {
        **cost,
        "sampled_tokens_per_second": round(samples.numel() / (n * seconds), 1),
        **sampling_cost(prior, run.conditions, n, known),
        "measuring_seconds": round(time.perf_counter() - begun, 3),
    }
    at = _shown(len(compared), config.seed)
    shown = run.asked_of.conditions(run.asked[compared[at]])
    nearest = near.nearest["samples"].rows[at[:NUM_NEAREST]].numpy()
    pictures = PriorPictures(
        samples=sets.kept["samples"][at],
        indices=kept["samples"][at],
        labels=shown.labels,
        captions=shown.captions,
        label_maps=shown.condition.label_map,
        unigram=sets.kept["unigram_samples"][at],
        nearest=examples["train"].images.gather(nearest, None, "centre", False),
        nearest_ids=[examples["train"].images.ids[row] for row in nearest],
        rmse=near.nearest["samples"].rmse[at[:NUM_NEAREST]],
        same_codes=near.shared["samples"][at[:NUM_NEAREST]],
        completions=completed,
    )
    return MeasuredPrior(prior, training.averaged, metrics, dict(cost), pictures, made_with)


def _shown(count: int, seed: int) -> Int64[np.ndarray, " m"]:
    """Which of `count` kept images are shown: all in order, or `NUM_SHOWN` in a drawn order, of which the first ones
    are of all classes too."""
    if count <= NUM_SHOWN:
        return np.arange(count)
    return numpy_rng(seed, "prior", "shown").permutation(count)[:NUM_SHOWN]


def _draw(run: _Measuring) -> tuple[Int64[Tensor, "n g h w"], Float[Tensor, "n c h w"] | None, float]:
    """The codes of all samples; of a prior over latents what is quantised to them (`Quantizer.continuous`), where the
    quantizer has it; and seconds per sample."""
    codes, latents, seconds = [], None, 0.0
    for at, (drawn, taken) in enumerate(sample_batches(run.prior, run.conditions, run.n)):
        seconds += taken
        codes.append(to_codes(run.prior, drawn, run.tokenizer))
        if run.prior.models == "latents":
            own = run.tokenizer.quantizer.continuous(to_latents(run.prior, drawn, run.tokenizer))
            if own is None:
                continue
            if latents is None:
                shape = (run.n, *drawn.shape[1:])
                latents = torch.from_numpy(large_array(shape, np.float32, "the latents of the samples"))
            first = at * SAMPLE_BATCH
            latents[first : first + len(drawn)] = own.cpu()
    return torch.cat(codes), latents, seconds / run.n


def _measure_sets(
    run: _Measuring,
    codes: Mapping[str, Int64[Tensor, "n g h w"]],
    latents: Float[Tensor, "n c h w"] | None,
    watchers: list[Watcher],
    compared: Int64[np.ndarray, " m"],
) -> MeasuredSets:
    """Decode each set, take its distances, and show it to the watchers; real images are measured as a set too."""
    device, decode = run.tokenizer.device, run.tokenizer.decode
    sets: dict[str, ImageBatches] = {
        name: partial(decoded, decode, own, device) for name, own in codes.items()
    }
    if latents is not None:
        sets["unquantised_samples"] = partial(decoded, run.tokenizer.decode_latent, latents, device)
    watched = dict.fromkeys([*sets, "test_images"], watchers)
    train = run.examples["train"].images
    if len(train) >= run.n:
        sets["train_images"] = partial(crops, train, run.examples["train"].drawn(run.n, "train images"))
    whole = None
    if run.config.distances.features == "inception":
        batches = crops(train, np.arange(len(train)))
        whole = Moments.of(map(run.features.extract, batches), run.features.dim)
    test, distances = partial(crops, run.test, run.rows), run.config.distances
    return measure_sets(sets, test, run.n, compared, run.features, distances, watched, whole)


def _watchers(run: _Measuring) -> tuple[list[Watcher], dict[str, str]]:
    """What compares images with their conditions, and why a measure has nothing that does."""
    test, judges, rows = run.examples["test"], run.judges, run.rows
    match run.config.condition:
        case "class":
            if judges is None or not judges.classes:
                return [], {"class_accuracy": ABSENT if judges is None else "the judges have no classifier"}
            asked, own = run.asked_of.tokens.labels[run.asked], test.tokens.labels[rows]
            return [ClassWatcher(judges, asked, own)], {}
        case "label_map":
            if judges is None or not judges.categories or test.maps is None:
                reason = ABSENT if judges is None else "the judges have no segmenter"
                return [], {"mean_iou": reason, "pixel_accuracy": reason}
            maps = test.maps
            return [MapWatcher(judges, lambda at: maps.get(rows[at].tolist()), run.n, len(maps.classes))], {}
        case "text":
            captions, others = test.first_captions(rows), test.first_captions(np.arange(len(test)))
            same = run.features.clip is run.clip
            by_clip = TextWatcher(run.clip, captions, others, run.config.seed, same)
            single = {} if by_clip.num_candidates > 1 else {"r_precision": "all captions are one"}
            if judges is None or not judges.reads_captions:
                reason = ABSENT if judges is None else "the dataset's captions are not those of the scenes"
                return [by_clip], single | dict.fromkeys(
                    ("objects", "colours", "adjectives", "places"), reason
                )
            return [by_clip, CaptionWatcher(judges, captions)], single
    return [], {}


def _agreement(
    run: _Measuring, watchers: list[Watcher], names: list[str], not_measured: Mapping[str, str]
) -> ConditionMetrics | None:
    if run.config.condition == "none":
        return None
    missing = run.asked_of.without_condition[run.asked]
    return condition_metrics(watchers, names, int((~missing).sum()), not_measured)


def _completion(
    run: _Measuring, codes: Mapping[str, Int64[Tensor, "n g h w"]]
) -> tuple[dict[HoleName, CompletionMetrics] | None, list[CompletedPictures]]:
    """Completions of some of the test images that samples are compared with; of a few, as pictures."""
    prior, grid, test = run.prior, run.tokenizer.grid, run.examples["test"]
    shapes = holes(grid, prior.known_tokens)
    if not shapes:
        return None, []
    some_of = run.part(run.n, min(run.n // 2, run.config.max_completed or run.n), "completed")
    images, count = run.rows[some_of], len(some_of)
    own, floor = codes["reconstructions"][some_of], codes["unigram_samples"][some_of]
    few = run.part(count, NUM_PICTURES, "completions shown")
    asked, true = test.conditions(images[few]), run.pixels(images[few])
    again = run.decode(own[few])
    fillings, pictures = {}, []
    for name, hole in shapes.items():
        mask = hole.mask(grid)
        parts = []
        for rows in track(slices(count, SAMPLE_BATCH), f"completions, {name}"):
            condition = test.conditions(images[rows]).condition
            generator = torch_rng(run.config.seed, "prior", "completion", name, rows.start)
            parts.append(draw_completions(prior, own[rows], mask, condition, generator))
        fillings[name] = {
            "samples": torch.cat(parts),
            "unigram_samples": torch.where(mask, floor, own),
            "another_image": torch.where(mask, own[torch.from_numpy(other_examples(count, OTHERS))], own),
        }
        generator = torch_rng(run.config.seed, "prior", "completion pictures", name)
        drawn = draw_completions(prior, own[few], mask, asked.condition, generator, NUM_COMPLETIONS)
        made = run.decode(drawn).view(len(few), NUM_COMPLETIONS, *true.shape[1:])
        cell = true.shape[2] // grid[0], true.shape[3] // grid[1]
        pixels = mask.repeat_interleave(cell[0], 0).repeat_interleave(cell[1], 1).to(torch.uint8) * 255
        pictures += [
            CompletedPictures(
                run.test.ids[row], name, true[at], again[at], pixels, made[at],
                int(asked.labels[at]), asked.captions[at],
            )
            for at, row in enumerate(images[few])
        ]  # fmt: skip
    networks = metric_networks(run.features, run.clip, run.tokenizer.device)
    found = measure_completion(
        fillings, own, shapes, lambda rows: run.pixels(images[rows]), run.decode, networks,
        run.config.distances, IMAGE_BATCH,
    )  # fmt: skip
    return found, pictures


def _measured(run: _Measuring) -> Measured:
    """The record of what was measured: digests of all test images and, where they count, captions; which of them were
    drawn is in the protocol, since the captions of R-precision are those of all."""
    digest, config = ImagesDigest(), run.config
    for start in range(0, len(run.test), TRAIN_CHUNK):
        digest.add(run.test.images(start, start + TRAIN_CHUNK))
    protocol = {
        "version": PROTOCOL, "crop": "centre", "num_samples": run.n,
        "test_images": "all" if run.n == len(run.test) else f"drawn with seed {config.seed}",
        "features": run.features.source,
        "distances": config.distances.model_dump(mode="json"), "clip": run.clip.id,
        "judges": "none" if run.judges is None else weights_digest(run.judges.state_dict())[:DIGITS],
    }  # fmt: skip
    captions = chain.from_iterable(run.test.captions)
    further = {"captions": text_digest(captions)} if config.condition == "text" else {}
    return measured_with(digest.images("test", further), protocol)
