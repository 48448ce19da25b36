"""Every measure by name: its label, its unit, which way is better, and what it means."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vqpipe.metrics.measured import Interval
from vqpipe.report.blocks import Cell, Column


@dataclass(frozen=True)
class Measure:
    """How a measure is shown; `better` is `HIGHER`, `LOWER` or empty; `digits` after the point."""

    label: str
    unit: str = ""
    better: str = ""
    digits: int = 3
    about: str = ""

    @property
    def scale(self) -> float:
        """What the value is multiplied by: shares are shown in percent."""
        return 100.0 if self.unit.startswith(("%", "points")) else 1.0


HIGHER, LOWER = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"
"""Which way is better."""
BOTH = f"{HIGHER} higher is better, {LOWER} lower is better."
CHANGE = (
    "Change: of the measure before it, example by example, with its 95 % bootstrap interval, which leaves out the "
    "chance of the training."
)
"""What a column of changes is, for the note of its table."""

MEASURES: dict[str, Measure] = {
    "psnr": Measure(
        "PSNR",
        "dB",
        HIGHER,
        2,
        "Peak signal-to-noise ratio of each image on lossless 8-bit RGB with peak 255, averaged over images.",
    ),
    "ssim": Measure(
        "SSIM",
        "",
        HIGHER,
        3,
        "Structural similarity with an 11 x 11 Gaussian window, per channel, "
        "averaged over images; 1 is equality.",
    ),
    "l1": Measure("l1", "scale [-1, 1]", LOWER, 4, "Mean absolute error of pixels on the scale [-1, 1]."),
    "l2": Measure("l2", "scale [-1, 1]", LOWER, 4, "Mean squared error of pixels on the scale [-1, 1]."),
    "clip_distance": Measure(
        "CLIP distance",
        "",
        LOWER,
        4,
        "A perceptual distance between activations of the CLIP in use. It is not "
        "LPIPS and is not comparable with it.",
    ),
    "lpips_alex": Measure(
        "LPIPS (alex)", "", LOWER, 3, "Learned perceptual image patch similarity, v0.1, AlexNet trunk."
    ),
    "lpips_vgg": Measure(
        "LPIPS (vgg)", "", LOWER, 3, "Learned perceptual image patch similarity, v0.1, VGG trunk."
    ),
    "fd_clip": Measure(
        "FD-CLIP",
        "",
        LOWER,
        2,
        "Frechet distance between Gaussian fits of CLIP features, equal n on both "
        "sides. It is not FID: the features differ.",
    ),
    "kd_clip": Measure(
        "KD-CLIP",
        "",
        LOWER,
        4,
        "Kernel distance (squared MMD, cubic kernel) between CLIP features, "
        "averaged over subsets; equal sets give about 0, also slightly below.",
    ),
    "fid": Measure("FID", "", LOWER, 2, "Frechet distance between Gaussian fits of Inception features."),
    "kid": Measure(
        "KID", "", LOWER, 4, "Kernel distance (squared MMD, cubic kernel) between Inception features."
    ),
    "precision_clip": Measure(
        "precision",
        "CLIP features",
        HIGHER,
        3,
        "Share of the evaluated images that fall among the real ones in feature space (improved precision).",
    ),
    "recall_clip": Measure(
        "recall",
        "CLIP features",
        HIGHER,
        3,
        "Share of the real images that fall among the evaluated ones in feature space (improved recall).",
    ),
    "precision_inception": Measure(
        "precision",
        "Inception features",
        HIGHER,
        3,
        "Share of the evaluated images that fall among the real ones in feature space (improved precision).",
    ),
    "recall_inception": Measure(
        "recall",
        "Inception features",
        HIGHER,
        3,
        "Share of the real images that fall among the evaluated ones in feature space (improved recall).",
    ),
    "density_clip": Measure(
        "density", "CLIP features", HIGHER, 3,
        "How many real images have an evaluated one among their k nearest, over k, averaged over the evaluated images "
        "(Naeem et al., 2020).",
    ),
    "coverage_clip": Measure(
        "coverage", "CLIP features", HIGHER, 3,
        "Share of the real images that have an evaluated one as near as their k-th nearest real one (Naeem et al., "
        "2020).",
    ),
    "density_inception": Measure(
        "density", "Inception features", HIGHER, 3, "As the density in CLIP features, in Inception features."
    ),
    "coverage_inception": Measure(
        "coverage", "Inception features", HIGHER, 3, "As the coverage in CLIP features, in Inception features."
    ),
    "fid_train": Measure(
        "FID", "against the training split", LOWER, 2,
        "Frechet distance between Gaussian fits of Inception features, from all training images, as papers state it.",
    ),
    "class_accuracy": Measure(
        "asked class", "%", HIGHER, 1,
        "Share of the images that a classifier trained on real images assigns to the class that was asked for.",
    ),
    "clip_similarity": Measure(
        "CLIP similarity", "cosine", HIGHER, 3, "Mean cosine of image and caption in the CLIP in use."
    ),
    "r_precision": Measure(
        "R-precision", "%", HIGHER, 1,
        "Share of the images whose own caption is the most similar one among others of the test split, by the CLIP in "
        "use.",
    ),
    "mean_iou": Measure(
        "mean IoU", "%", HIGHER, 1,
        "Intersection over union of the asked label map and that of a segmenter trained on real images, averaged over "
        "classes.",
    ),
    "pixel_accuracy": Measure(
        "pixels", "%", HIGHER, 1, "Share of the pixels to which that segmenter assigns the asked class."
    ),
    "objects": Measure(
        "objects", "%", HIGHER, 1, "Share of the objects that a caption states that a detector finds in the image."
    ),
    "colours": Measure("colours", "%", HIGHER, 1, "The same for the colours of these objects."),
    "adjectives": Measure("adjectives", "%", HIGHER, 1, "The same for all adjectives of these objects."),
    "places": Measure("places", "%", HIGHER, 1, "The same for the place, by the classifier."),
    "bits_per_image": Measure(
        "bits",
        "per image",
        "",
        0,
        "Bits of one image. For a tokenizer: of its indices at a fixed-length "
        "code, grid positions times log2 of K, summed over groups.",
    ),
    "bits_per_token": Measure(
        "bits", "per token", LOWER, 3, "Cross-entropy of the test split's tokens under the model, in bits."
    ),
    "unigram_bits_per_token": Measure(
        "unigram bits",
        "per token",
        "",
        3,
        "What a token costs when only the frequency of each code is known.",
    ),
    "num_codes": Measure("K", "codes", "", 0, "Codes in the codebook."),
    "num_tokens": Measure("N", "tokens", "", 0, "Tokens of the split that are counted."),
    "utilisation": Measure(
        "utilisation",
        "%",
        HIGHER,
        1,
        "Codes used at least once over the whole split, of K. It depends on N: "
        "compare it with the uniform expectation, and between variants only where "
        "N is at least 4 K.",
    ),
    "uniform_expectation": Measure(
        "uniform expectation", "%", "", 1, "Utilisation that N uniform draws would reach: 1 - exp(-N/K)."
    ),
    "perplexity": Measure(
        "perplexity",
        "codes",
        HIGHER,
        0,
        "2 to the entropy of the codes' frequencies: the number of equally "
        "frequent codes that would be as varied.",
    ),
    "entropy_bits": Measure("entropy", "bits per token", HIGHER, 2, "Entropy of the codes' frequencies."),
    "masked_recall": Measure(
        "recall@1", "%", HIGHER, 1,
        "Masked words whose first prediction, from the rest of the caption and the codes, is right; a mean over each "
        "caption's masked words, then over captions.",
    ),
    "masked_other_image": Measure(
        "other codes", "%, another image's", "", 1,
        "The same words predicted with the codes of another image: what the caption alone gives away.",
    ),
    "masked_gain": Measure(
        "gain from the codes", "points", HIGHER, 1,
        "Recall@1 with the image's codes less that with another image's, caption by caption.",
    ),
    "class_top1": Measure(
        "top-1", "%", HIGHER, 1, "Share of the test images whose class a transformer over the codes finds."
    ),
    "class_top5": Measure("top-5", "%", HIGHER, 1, "Images whose class is among the five likeliest ones."),
    "class_other_image": Measure(
        "other codes", "%, another image's", "", 1,
        "Top-1 of the same head with the codes of another image, which can mislead it: it may be below what the "
        "most frequent class gives.",
    ),
    "vqa_accuracy": Measure(
        "accuracy", "%", HIGHER, 1, "Share of the questions that a transformer over codes and question answers right."
    ),
    "wups_09": Measure(
        "WUPS 0.9", "%", HIGHER, 1,
        "Answers count by their Wu-Palmer similarity with the true one in WordNet; those of less than 0.9 by a tenth "
        "of it.",
    ),
    "wups_00": Measure("WUPS 0.0", "%", HIGHER, 1, "The same, every answer by its whole similarity."),
    "vqa_other_image": Measure(
        "other codes", "%, another image's", "", 1,
        "Accuracy of the same head with the codes of another image, which can mislead it: it may be below what the "
        "text alone gives.",
    ),
    "r1": Measure("R@1", "%", HIGHER, 1, "Queries whose right answer comes first."),
    "r5": Measure("R@5", "%", HIGHER, 1, "Queries with a right answer among the first five."),
    "r10": Measure("R@10", "%", HIGHER, 1, "Queries with a right answer among the first ten."),
    "box_accuracy": Measure(
        "Acc@0.5", "%", HIGHER, 1,
        "Expressions whose predicted box has an intersection over union (IoU) of at least .5 with the true one.",
    ),
    "box_iou": Measure("mean IoU", "%", HIGHER, 1, "Intersection over union of the predicted and the true box."),
    "box_other_image": Measure(
        "other codes", "%, Acc@0.5", "", 1,
        "The same head with the codes of another image, which can mislead it: it may be below a head without images.",
    ),
    "box_gain": Measure(
        "gain", "points", HIGHER, 1,
        "Acc@0.5 minus that of the same head trained without images, expression by expression; minus that with another "
        "image's codes where there is no such run.",
    ),
    "box_alike": Measure(
        "two alike", "%, Acc@0.5", HIGHER, 1,
        "Expressions whose image has another object of the same name, so that the words around the name decide.",
    ),
    "similarity_mse": Measure(
        "MSE", "", LOWER, 3,
        "Squared difference between the cosine of two words and that of the codes assigned to them, a mean over a "
        "caption's pairs of words, then over captions.",
    ),
    "similarity_chance": Measure("chance", "MSE", "", 3, "The same for codes at positions drawn at random."),
    "correlation": Measure(
        "correlation", "", HIGHER, 3, "Pearson's, of the words' and the codes' cosines over all pairs."
    ),
    "same_position": Measure("one position", "% of pairs", "", 1, "Pairs of words assigned to one position."),
    "caption_bleu_1": Measure(
        "BLEU-1", "points", HIGHER, 1,
        "Share of the generated words that a true caption has, of the whole set, times 100; less where the generated "
        "captions are shorter in all than the true ones closest in length (brevity penalty).",
    ),
    "caption_bleu_2": Measure("BLEU-2", "points", HIGHER, 1, "The same for up to two words in a row."),
    "caption_bleu_3": Measure("BLEU-3", "points", HIGHER, 1, "The same for up to three words in a row."),
    "caption_bleu_4": Measure("BLEU-4", "points", HIGHER, 1, "The same for up to four words in a row."),
    "caption_rouge_l": Measure(
        "ROUGE-L", "points", HIGHER, 1,
        "Longest common subsequence with a true caption, averaged over images, times 100.",
    ),
    "caption_cider_d": Measure(
        "CIDEr-D", "points", HIGHER, 1,
        "Agreement with all true captions in words and sequences that few images have, averaged over images, times 100 "
        "as papers state it; up to 1,000.",
    ),
    "caption_other_image": Measure(
        "other image", "points, CIDEr-D", "", 1, "Of the same head with another image's input: what needs no image."
    ),
    "caption_fewer": Measure(
        "one fewer", "points", HIGHER, 1,
        "CIDEr-D against one true caption fewer, so that the one left out has a number of its own: a reference, no "
        "bound.",
    ),
    "caption_objects": Measure(
        "objects", "%", HIGHER, 1,
        "Of the kinds of objects that a caption names, the share that is in the image; over captions that name some.",
    ),
    "caption_bits": Measure(
        "bits", "per word", LOWER, 3,
        "Code length of the true captions under the head by their words and signs, ends included, also where the "
        "language model has pieces of words.",
    ),
    "caption_meteor": Measure("METEOR", "points", HIGHER, 1, "METEOR 1.5 of the whole set, times 100."),
    "caption_spice": Measure("SPICE", "points", HIGHER, 1, "Agreement of scene graphs, times 100."),
}  # fmt: skip

DISTANCES = (
    "fd_clip", "kd_clip", "precision_clip", "recall_clip", "density_clip", "coverage_clip", "fid", "fid_train", "kid",
    "precision_inception", "recall_inception", "density_inception", "coverage_inception",
)  # fmt: skip
"""Distances between two sets of images, in either network's features."""

CURVES = {
    "learning_rate": "learning rate",
    "loss": "total loss",
    "grad_norm": "gradient norm",
    "accuracy": "accuracy in the batch, share",
    "temperature": "temperature",
    "bits_per_token": "bits per token",
    "l1": "l1 of the pixels",
    "l2": "l2 of the pixels",
    "clip_distance": "CLIP distance",
    "quantizer": "quantizer loss",
    "codebook": "codebook loss",
    "commitment": "commitment loss",
    "codes_in_batch": "distinct codes in a batch",
    "adversarial": "adversarial loss",
    "adaptive_weight": "adaptive weight of the adversarial loss",
    "align": "alignment loss, weighted",
    "align_global": "global alignment loss",
    "align_global_accuracy": "global alignment, accuracy in the batch, share",
    "align_temperature": "global alignment, temperature",
    "align_masked": "masked-word loss",
    "align_masked_accuracy": "masked words, accuracy, share",
    "align_relationship": "relationship loss",
    "disc/loss": "discriminator: total loss",
    "disc/grad_norm": "discriminator: gradient norm",
    "disc/real": "discriminator: mean output on real images",
    "disc/fake": "discriminator: mean output on reconstructions",
}
"""What the columns of curves files are called; the part before `/` is the optimiser."""


def curve_label(name: str) -> str:
    """What a column of a curves file is called, such as `ae/commitment_noun`: its term, then its group of codes."""
    own = name if name in CURVES else name.split("/")[-1]
    known = [term for term in CURVES if own == term or own.startswith(f"{term}_")]
    if not known:
        return own.replace("_", " ")
    term = max(known, key=len)
    group = own.removeprefix(term).strip("_").replace("_", " ")
    return f"{CURVES[term]}, group {group}" if group else CURVES[term]


NOT_MEASURED = "not measured in this checkout"


def measure(name: str) -> Measure:
    """How a measure is shown; one that is not listed is shown under its own name."""
    return MEASURES.get(name) or Measure(name.replace("_", " "))


def column(name: str) -> Column:
    """The table column of a measure."""
    found = measure(name)
    return Column(found.label, found.unit, found.better)


def cell(name: str, value: Interval | float | str | None) -> Cell:
    """A measure's value; the bounds of an interval are small print; None is a dash."""
    if isinstance(value, Interval):
        return Cell(_plain(name, value.mean), f"{_plain(name, value.low)} to {_plain(name, value.high)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell("–" if value is None else str(value))
    return Cell(_plain(name, value))


def change(name: str, interval: Interval) -> Cell:
    """The change of a measure, always with its sign, its bounds as small print."""
    mean, low, high = (_plain(name, value) for value in (interval.mean, interval.low, interval.high))
    return Cell(f"+{mean}" if interval.mean > 0 else mean, f"{low} to {high}")


def _plain(name: str, value: float) -> str:
    if name not in MEASURES:
        return number(value)
    return number(value * MEASURES[name].scale, MEASURES[name].digits)


def number(value: float, digits: int | None = None) -> str:
    """A number as text: thousands separated, a true minus, four significant digits unless `digits` is given."""
    if not math.isfinite(value):
        return "–"
    if digits is None:
        if float(value).is_integer() and abs(value) < 1e15:
            digits = 0
        else:
            digits = max(0, min(6, 3 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")
