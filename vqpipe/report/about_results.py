"""What came out, on the first screen: who is ahead, the tokenizers and priors side by side, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from vqpipe.artifacts.specs.evaluation import EXAMPLES
from vqpipe.artifacts.specs.prior import SAMPLES
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import counted
from vqpipe.evaluation.measure import EvaluationMetrics
from vqpipe.metrics.measured import Interval
from vqpipe.priors.measure import PriorMetrics
from vqpipe.report.about_priors import condition_name, published
from vqpipe.report.about_reconstructions import evaluations
from vqpipe.report.about_tokenizers import FLOORS, unlike
from vqpipe.report.blocks import Absent, Beside, Block, Cell, Column, Gallery, Picture, Section, Table, Text
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import BOTH, MEASURES, cell, column, measure, number
from vqpipe.report.pictures import decode_png, picture
from vqpipe.report.task_pairs import TaskRun, parted

PER_IMAGE = ("psnr", "lpips_alex", "lpips_vgg", "clip_distance")
SETS = ("fid", "fd_clip")
"""Distances between sets of images, the one that papers report first; the first that was measured is shown."""
ASKED = ("class_accuracy", "mean_iou", "objects", "clip_similarity")
"""Agreements with what was asked for; the first that was measured is shown, that by an independent judge first."""
GIVEN = {"text": "captions", "label_map": "label maps"}
"""Conditions that are those of the test images."""
READ: dict[str, tuple[str, Callable[[Any], Interval | None]]] = {
    "classification": ("class_top1", attrgetter("top1")),
    "captioning": ("caption_cider_d", attrgetter("generated.cider_d")),
    "vqa": ("vqa_accuracy", attrgetter("accuracy")),
    "grounding": ("box_accuracy", attrgetter("accuracy")),
}
"""The measure that is shown of each task, and where it is in a head's metrics. Masked words, retrieval and relations
are left out: a head without images is no floor of theirs."""
COLUMNS = 6
"""Images in a row: as many as a window of 900 pixels has side by side."""


def about_results(inputs: Inputs, params: ReportParams, solved: Sequence[TaskRun]) -> Section:
    """The section `Results`; `solved` are all tasks that were solved."""
    blocks: list[Block] = []
    if inputs.evaluate:
        blocks += list(unlike(inputs.evaluate)) or [_best_tokenizer(inputs.evaluate)]
    blocks += _best_priors(inputs.prior)
    if inputs.evaluate:
        blocks.append(_tokenizers(inputs.evaluate))
    else:
        blocks.append(Absent("No tokenizer has been evaluated. Run: dvc repro evaluate"))
    made = list(_reconstructions(inputs, params))
    if made:
        note = "The same test images, drawn at random, and what each tokenizer reconstructs, with its PSNR."
        blocks = [Beside(blocks, Gallery("Reconstructions", made, note, dense=True, even=True))]
    blocks += tasks(solved)
    if inputs.prior:
        blocks.append(_priors(inputs))
    samples = list(_samples(inputs, params))
    if samples:
        note = "The first samples of each prior, not picked; under Priors, more of them, with what they were asked for."
        blocks.append(Gallery("Samples", samples, note, dense=True, even=True))
    return Section("results", "Results", blocks)


def _best_tokenizer(evaluate: Mapping[str, EvaluationMetrics]) -> Text:
    """Which tokenizer has the highest PSNR, next to the second, and what k-means on pixels reaches."""
    order = sorted(evaluate, key=lambda name: -evaluate[name].psnr.mean)
    best = evaluate[order[0]]
    text = (
        f"{order[0]} has the highest PSNR, {_at(best)}"
        if order[1:]
        else f"{order[0]} has a PSNR of {_at(best)}"
    )
    if order[1:]:
        text += f"; next is {order[1]} with {_at(evaluate[order[1]])}"
    floors = best.floors
    for name, floor in (
        ("patch_kmeans", floors.patch_kmeans),
        ("patch_kmeans_capped", floors.patch_kmeans_capped),
    ):
        if floor is not None:
            label = FLOORS[name].removeprefix("floor: ")
            text += f". Without a network, {label} reaches {number(floor.psnr.mean, 2)} dB"
            text += f" at {number(floor.bits_per_image, 0)} bits"
            break
    count, split = counted(best.protocol.num_images, "image"), best.protocol.split
    runs = "One training run each" if order[1:] else "One training run"
    text += f". {runs}, measured on {count} of the {split} split. In brackets and in small print: the 95 % bootstrap"
    text += " interval of the mean over images; how much training seeds vary is not measured here."
    return Text(text, [("All measures", "tokenizers")])


def _at(metrics: EvaluationMetrics) -> str:
    psnr, bits = metrics.psnr, number(metrics.bits_per_image, 0)
    return f"{number(psnr.mean, 2)} dB ({number(psnr.low, 2)} to {number(psnr.high, 2)}) at {bits} bits per image"


def _tokenizers(evaluate: Mapping[str, EvaluationMetrics]) -> Table:
    def measured(name: str) -> bool:
        return any(getattr(metrics, name) is not None for metrics in evaluate.values())

    names = [*filter(measured, PER_IMAGE), *[*filter(measured, SETS)][:1]]
    rows = []
    for variant, metrics in evaluate.items():
        books = metrics.codes
        sizes = [number(book.num_codes) for book in books.values()]
        used = [cell("utilisation", book.utilisation).text for book in books.values()]
        groups = ", ".join(books) if len(books) == 2 else f"of {len(books)} codebooks"
        bits = cell("bits_per_image", metrics.bits_per_image)
        values = (cell(name, getattr(metrics, name)) for name in names)
        rows.append(
            [
                Cell(variant),
                *values,
                Cell(_several(used), groups if used[1:] else ""),
                Cell(_several(sizes)),
                bits,
            ]
        )
    tokens = sorted({book.num_tokens for metrics in evaluate.values() for book in metrics.codes.values()})
    note = (
        f"{BOTH} Utilisation: codes used at least once by the {' or '.join(map(number, tokens))} tokens of the split; "
        "a small K reaches 100 % sooner than a large one."
    )
    columns = [
        *map(column, names),
        Column("utilisation", "% of K"),
        column("num_codes"),
        column("bits_per_image"),
    ]
    return Table("Tokenizers", [Column("tokenizer", numeric=False), *columns], rows, note)


def _several(texts: list[str]) -> str:
    """Of each codebook: one text where all are equal, both of two, the first and last in order of more."""
    if len(set(texts)) == 1:
        return texts[0] if len(texts) == 1 else f"{len(texts)} x {texts[0]}"
    if len(texts) == 2:
        return " and ".join(texts)
    order = sorted(texts, key=lambda text: float(text.replace(",", "")))
    return f"{order[0]} to {order[-1]}"


def _reconstructions(inputs: Inputs, params: ReportParams) -> Iterator[tuple[str, list[Picture]]]:
    """A row of originals, and one for each tokenizer."""
    count = min(COLUMNS, params.num_reconstructions)
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for variant, folder in evaluations(inputs):
        file = folder / "examples.parquet"
        drawn = [row for row in read_table(file, EXAMPLES).to_pylist() if row["kind"] == "random"]
        rows[variant] = {row["image_id"]: row | {"file": file} for row in drawn}
    shared = [i for i in next(iter(rows.values()), {}) if all(i in own for own in rows.values())][:count]
    if not shared:
        return

    def shown(row: Mapping[str, Any], name: str, alt: str, caption: str = "") -> Picture:
        where = f"{row['file']}: image {row['image_id']}"
        return picture(decode_png(row[name], params.max_picture_pixels, where, "evaluate"), alt, caption)

    first = next(iter(rows.values()))
    yield "original", [shown(first[i], "original", f"image {i}, original") for i in shared]
    for variant, own in rows.items():
        pictures = []
        for i in shared:
            psnr = f"{number(own[i]['psnr'], 2)} dB"
            alt = f"image {i} as {variant} reconstructs it, PSNR {psnr}"
            pictures.append(shown(own[i], "reconstruction", alt, psnr))
        yield variant, pictures


def _distance(prior: Mapping[str, PriorMetrics]) -> str | None:
    """The distance of samples that is shown."""
    return next((n for n in SETS if any(getattr(m.samples, n) is not None for m in prior.values())), None)


def _best_priors(prior: Mapping[str, PriorMetrics]) -> Iterator[Block]:
    """For each condition the prior whose samples are nearest to test images, next to the second and to real images."""
    name = _distance(prior)
    groups: dict[str, dict[str, float]] = {}
    for pair, metrics in prior.items():
        value = getattr(metrics.samples, name) if name is not None else None
        if value is not None:
            groups.setdefault(metrics.condition, {})[pair] = value
    if name is None or not groups:
        return
    apart = list(unlike(prior))
    if apart:
        yield from apart
        return

    def shown(value: float) -> str:
        return cell(name, value).text

    best_of = []
    for condition, found in groups.items():
        order = sorted(found, key=found.__getitem__)
        best = ", and next ".join(f"{pair}, {shown(found[pair])}" for pair in order[:2])
        named = condition_name(prior[order[0]])
        best_of.append(f"{best} (no condition)" if condition == "none" else f"{best} (condition: {named})")
    text = f"{measure(name).label} between samples and test images, lowest of each condition: {'; '.join(best_of)}"
    real = {
        shown(value) for m in prior.values() if (value := getattr(m.train_images, name, None)) is not None
    }
    if real:
        text += f". Random training images have {' or '.join(sorted(real))}"
    given = [GIVEN[condition] for condition in groups if condition in GIVEN]
    if given:
        text += f". The {' and '.join(given)} asked for are those of these test images, which helps"
    count = number(prior[next(iter(prior))].num_samples)
    text += f". {count} samples from one training run; the distance has no interval."
    yield Text(text, [("All measures", "priors")])


def _priors(inputs: Inputs) -> Table:
    prior, name = inputs.prior, _distance(inputs.prior)
    columns = [Column("prior", numeric=False), Column("condition", numeric=False)]
    rows = [[Cell(pair), Cell(condition_name(metrics))] for pair, metrics in prior.items()]
    if name is not None:
        found = column(name)
        columns += [found, Column(found.name, "floor: codes by frequency", found.note)]
        for row, metrics in zip(rows, prior.values(), strict=True):
            row += [cell(name, getattr(own, name)) for own in (metrics.samples, metrics.unigram_samples)]
    asked = [_asked(metrics) for metrics in prior.values()]
    note = BOTH
    if any(asked):
        columns.append(Column("as asked", "", MEASURES[ASKED[0]].better))
        columns += [Column("chance", "another condition"), Column("test images", "their own")]
        rows = [[*row, *(own or [Cell("–")] * 3)] for row, own in zip(rows, asked, strict=True)]
        note += " As asked: by judges that were trained on real images alone."
        similarity = measure("clip_similarity").label
        if any(own[0].small.startswith(similarity) for own in asked if own):
            note += f" {similarity} is by the CLIP in use, which may have encoded the texts too."
    return Table("Priors", columns, rows, note)


def _asked(metrics: PriorMetrics) -> list[Cell]:
    """How well samples agree with their condition and by which measure, what chance gives and test images reach; empty
    where it was not judged."""
    found = metrics.agreement
    name = next((n for n in ASKED if getattr(getattr(found, "samples", None), n, None) is not None), None)
    if found is None or name is None:
        return []
    own = measure(name)
    unit = f", {own.unit}" if own.unit else ""
    samples = Cell(cell(name, getattr(found.samples, name)).text, f"{own.label}{unit}")
    return [
        samples,
        *(cell(name, getattr(one, name, None)) for one in (found.another_condition, found.test_images)),
    ]


def tasks(runs: Sequence[TaskRun]) -> Iterator[Table]:
    """What fresh heads read from each tokenizer's codes, next to what codes are compared with."""
    codes, others = parted([run for run in runs if run.config.kind in READ])
    labels = list(dict.fromkeys(run.label for run in (*codes, *others)))
    if not labels:
        return
    found = {(run.label, run.config.kind): run.metrics.fresh for run in (*codes, *others)}
    kinds = [kind for kind in READ if any(kind == own for _, own in found)]
    rows = []
    for label in labels:
        row = [Cell(label)]
        for kind in kinds:
            name, of = READ[kind]
            row.append(cell(name, of(found[label, kind]) if (label, kind) in found else None))
        rows.append(row)
    columns = [Column("input", numeric=False)]
    for kind in kinds:
        own = measure(READ[kind][0])
        columns.append(Column(kind, f"{own.label}, {own.unit}", own.better))
    quiet = frozenset(range(len({run.label for run in codes}), len(rows)))
    note = (
        f"{BOTH} Heads that were trained alike on each frozen input, one training run each; small print is the 95 % "
        "bootstrap interval over examples."
    )
    yield Table("What can be read from the codes", columns, rows, note, quiet)


def _samples(inputs: Inputs, params: ReportParams) -> Iterator[tuple[str, list[Picture]]]:
    for pair, folder in published(inputs):
        path = folder / "samples.parquet"
        rows = read_table(path, SAMPLES, ["image", "label_name", "caption"]).slice(
            0, min(COLUMNS, params.num_samples)
        )
        pictures = []
        for at, row in enumerate(rows.to_pylist(), start=1):
            asked = row["caption"] or row["label_name"]
            alt = f"sample {at} of {pair}" + (f", asked for {asked}" if asked else "")
            where = f"{path}: sample {at}"
            pictures.append(picture(decode_png(row["image"], params.max_picture_pixels, where, "prior"), alt))
        if pictures:
            yield pair, pictures
