"""The `prior` stage: a prior is trained, then measured: bits, distances, conditions, completion, copies, cost.

Letters: n images, g groups, h w the token grid, c channels of the latent, H W pixels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vqpipe.data.loader import ImageSplit
from vqpipe.errors import MismatchError
from vqpipe.evaluation.judges import Judges
from vqpipe.metrics.distances import Features, load_features
from vqpipe.metrics.measured import DIGITS, ImagesDigest, Measured, measured_with
from vqpipe.priors.artifact import MadeWith, PriorPictures, save_prior
from vqpipe.priors.contract import Condition, ImageSpace, Prior, PriorParams
from vqpipe.priors.examples import Examples
from vqpipe.priors.measure import (
    IMAGE_BATCH,
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
    CaptionWatcher,
    ClassWatcher,
    ConditionMetrics,
    MapWatcher,
    TextWatcher,
    Watcher,
    another,
    condition_metrics,
)
from vqpipe.priors.measure_cost import sampling_cost
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

PROTOCOL = 2
"""Number of the measuring protocol in the code: raise it when a change alters what a number means."""
NUM_SHOWN, NUM_NEAREST = 64, 16
"""Samples in the grid, and those of them that are shown with their nearest training image."""
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
    started = time.perf_counter()
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
    cost = {"training_seconds": round(time.perf_counter() - started, 3)}
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
    def asked_of(self) -> Examples:
        """The split of the samples' conditions: texts and maps are the test split's, which the training did not see;
        classes have the training split's frequencies."""
        return self.examples["train" if self.config.condition == "class" else "test"]

    @cached_property
    def asked(self) -> Int64[np.ndarray, " n"]:
        """The images of that split whose conditions the samples have."""
        return self.asked_of.asked(self.n)

    def conditions(self, rows: slice) -> Condition:
        """The conditions of some samples."""
        return self.asked_of.conditions(self.asked[rows]).condition

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
        "reconstructions": examples["test"].tokens.indices[:n].long(),
    }
    watchers, not_measured = _watchers(run)
    sets = _measure_sets(run, codes, latents, watchers)
    near = memorisation(sets, codes, examples["train"].tokens, examples["train"].images)
    completion, completed = _completion(run, codes)
    found = sets.distances
    few = {name: own.head(n if name == "test" else n // 2) for name, own in examples.items()}
    watched = [name for name in sets.first if name != "train_images"]
    metrics = PriorMetrics(
        **split_bits(prior, {name: own.batches() for name, own in few.items()}, few["test"].tokens, floor),
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
        num_without_condition=int(examples["train"].without_condition().sum()),
        num_captions_cut=examples["train"].num_cut(),
        agreement=_agreement(run, watchers, watched, not_measured),
        completion=completion,
        measured=_measured(run),
    )
    cost = {
        **cost,
        "sampled_tokens_per_second": round(samples.numel() / (n * seconds), 1),
        **sampling_cost(prior, run.conditions, n, {min(n, SAMPLE_BATCH): seconds}),
        "measuring_seconds": round(time.perf_counter() - begun, 3),
    }
    shown = run.asked_of.conditions(run.asked[:NUM_SHOWN])
    nearest = near.nearest["samples"].rows[:NUM_NEAREST].numpy()
    pictures = PriorPictures(
        samples=sets.first["samples"][:NUM_SHOWN],
        indices=samples[:NUM_SHOWN],
        labels=shown.labels,
        captions=shown.captions,
        label_maps=shown.condition.label_map,
        unigram=sets.first["unigram_samples"][:NUM_SHOWN],
        nearest=examples["train"].images.gather(nearest, None, "centre", False),
        nearest_ids=[examples["train"].images.ids[row] for row in nearest],
        rmse=near.nearest["samples"].rmse[:NUM_NEAREST],
        same_codes=near.shared["samples"][:NUM_NEAREST],
        completions=completed,
    )
    made_with = MadeWith.of(tokenizer, examples["train"].text)
    return MeasuredPrior(prior, training.averaged, metrics, dict(cost), pictures, made_with)


def _draw(run: _Measuring) -> tuple[Int64[Tensor, "n g h w"], Float[Tensor, "n c h w"] | None, float]:
    """The codes of all samples; the latents as they were drawn, at the tokenizer's scale, where the prior is over
    latents; and seconds per sample."""
    codes, latents, seconds, start = [], None, 0.0, time.perf_counter()
    for at, drawn in enumerate(sample_batches(run.prior, run.conditions, run.n)):
        seconds += time.perf_counter() - start
        codes.append(to_codes(run.prior, drawn, run.tokenizer))
        if run.prior.models == "latents":
            if latents is None:
                shape = (run.n, *drawn.shape[1:])
                latents = torch.from_numpy(large_array(shape, np.float32, "the latents of the samples"))
            first = at * SAMPLE_BATCH
            latents[first : first + len(drawn)] = to_latents(run.prior, drawn, run.tokenizer).cpu()
        start = time.perf_counter()
    return torch.cat(codes), latents, seconds / run.n


def _measure_sets(
    run: _Measuring,
    codes: Mapping[str, Int64[Tensor, "n g h w"]],
    latents: Float[Tensor, "n c h w"] | None,
    watchers: list[Watcher],
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
        rows = np.sort(numpy_rng(run.config.seed, "prior", "train images").permutation(len(train))[: run.n])
        sets["train_images"] = partial(crops, train, rows)
    whole = None
    if run.config.distances.features == "inception":
        batches = crops(train, np.arange(len(train)))
        whole = Moments.of(map(run.features.extract, batches), run.features.dim)
    test = partial(crops, run.test, np.arange(run.n))
    return measure_sets(sets, test, run.n, run.features, run.config.distances, watched, whole)


def _watchers(run: _Measuring) -> tuple[list[Watcher], dict[str, str]]:
    """What compares images with their conditions, and why a measure has nothing that does."""
    test, judges, rows = run.examples["test"], run.judges, np.arange(run.n)
    match run.config.condition:
        case "class":
            if judges is None or not judges.classes:
                return [], {"class_accuracy": ABSENT if judges is None else "the judges have no classifier"}
            asked, own = run.asked_of.tokens.labels[torch.from_numpy(run.asked)], test.tokens.labels[: run.n]
            return [ClassWatcher(judges, asked, own)], {}
        case "label_map":
            if judges is None or not judges.categories or test.maps is None:
                reason = ABSENT if judges is None else "the judges have no segmenter"
                return [], {"mean_iou": reason, "pixel_accuracy": reason}
            maps = test.maps
            return [MapWatcher(judges, lambda at: maps.get(at.tolist()), run.n, len(maps.classes))], {}
        case "text":
            captions, others = test.first_captions(rows), test.first_captions(np.arange(len(test)))
            same = run.features.clip is run.clip
            by_clip = TextWatcher(run.clip, captions, others, run.config.seed, same)
            if judges is None or not judges.reads_captions:
                reason = ABSENT if judges is None else "the dataset's captions are not those of the scenes"
                return [by_clip], dict.fromkeys(("objects", "colours", "adjectives", "places"), reason)
            return [by_clip, CaptionWatcher(judges, captions)], {}
    return [], {}


def _agreement(
    run: _Measuring, watchers: list[Watcher], names: list[str], not_measured: Mapping[str, str]
) -> ConditionMetrics | None:
    if run.config.condition == "none":
        return None
    missing = run.asked_of.without_condition()[run.asked]
    return condition_metrics(watchers, names, int((~missing).sum()), not_measured)


def _completion(
    run: _Measuring, codes: Mapping[str, Int64[Tensor, "n g h w"]]
) -> tuple[dict[HoleName, CompletionMetrics] | None, list[CompletedPictures]]:
    """Completions of the first half of the test images that samples are compared with; of a few, as pictures."""
    prior, grid, test = run.prior, run.tokenizer.grid, run.examples["test"]
    shapes = holes(grid, prior.known_tokens)
    if not shapes:
        return None, []
    count = run.n // 2
    own, floor = codes["reconstructions"][:count], codes["unigram_samples"][:count]
    fillings, pictures = {}, []
    for name, hole in shapes.items():
        mask = hole.mask(grid)
        parts = []
        for rows in track(slices(count, SAMPLE_BATCH), f"completions, {name}"):
            condition = test.conditions(np.arange(rows.start, rows.stop)).condition
            generator = torch_rng(run.config.seed, "prior", "completion", name, rows.start)
            parts.append(draw_completions(prior, own[rows], mask, condition, generator))
        fillings[name] = {
            "samples": torch.cat(parts),
            "unigram_samples": torch.where(mask, floor, own),
            "another_image": torch.where(mask, own[torch.from_numpy(another(count))], own),
        }
        generator = torch_rng(run.config.seed, "prior", "completion pictures", name)
        few = min(NUM_PICTURES, count)
        asked = test.conditions(np.arange(few))
        drawn = draw_completions(prior, own[:few], mask, asked.condition, generator, NUM_COMPLETIONS)
        again, true = run.decode(own[:few]), run.test.images(0, few)
        made = run.decode(drawn).view(few, NUM_COMPLETIONS, *true.shape[1:])
        cell = true.shape[2] // grid[0], true.shape[3] // grid[1]
        pixels = mask.repeat_interleave(cell[0], 0).repeat_interleave(cell[1], 1).to(torch.uint8) * 255
        pictures += [
            CompletedPictures(
                run.test.ids[at], name, true[at], again[at], pixels, made[at],
                int(asked.labels[at]), asked.captions[at],
            )
            for at in range(few)
        ]  # fmt: skip
    networks = metric_networks(run.features, run.clip, run.tokenizer.device)
    found = measure_completion(
        fillings, own, shapes, lambda rows: run.test.images(rows.start, rows.stop), run.decode, networks,
        run.config.distances, IMAGE_BATCH,
    )  # fmt: skip
    return found, pictures


def _measured(run: _Measuring) -> Measured:
    """The record of what was measured: all numbers are of the first `n` test images, captions are of all of them."""
    digest, config = ImagesDigest(), run.config
    for start in range(0, len(run.test), TRAIN_CHUNK):
        digest.add(run.test.images(start, start + TRAIN_CHUNK))
    protocol = {
        "version": PROTOCOL, "crop": "centre", "num_samples": run.n, "features": run.features.source,
        "distances": config.distances.model_dump(mode="json"), "clip": run.clip.id,
        "judges": "none" if run.judges is None else weights_digest(run.judges.state_dict())[:DIGITS],
    }  # fmt: skip
    return measured_with(digest.images("test"), protocol)
