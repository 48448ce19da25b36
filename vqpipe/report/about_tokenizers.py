"""The tokenizers: measures with floors and a reference, code usage, training and its curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.specs.evaluation import USAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.errors import counted
from vqpipe.evaluation.measure import EvaluationMetrics
from vqpipe.priors.measure import PriorMetrics
from vqpipe.report.about_data import curve_charts
from vqpipe.report.about_health import WATCHED
from vqpipe.report.about_reconstructions import book_name, code_words, evaluations, reconstructions
from vqpipe.report.blocks import (
    Absent,
    Block,
    Cell,
    Chart,
    Charts,
    Column,
    Section,
    Table,
    Terms,
    Text,
)
from vqpipe.report.charts import legend, rank_frequency
from vqpipe.report.gate import SIDES, Side
from vqpipe.report.inputs import Inputs, ReportParams
from vqpipe.report.names import BOTH, DISTANCES, MEASURES, cell, column, measure, number

PER_IMAGE = ("bits_per_image", "psnr", "ssim", "l1", "l2", "clip_distance", "lpips_alex", "lpips_vgg")
USAGE_COLUMNS = (
    "num_codes",
    "num_tokens",
    "utilisation",
    "uniform_expectation",
    "perplexity",
    "entropy_bits",
)
FLOORS = {
    "block_mean": "floor: mean colour of each grid cell",
    "patch_kmeans": "floor: k-means on raw patches",
    "patch_kmeans_capped": "floor: k-means on raw patches, K capped",
    "train_halves": "reference: half of train against the other half",
}


def about_tokenizers(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Tokenizers`."""
    blocks: list[Block] = []
    if inputs.evaluate:
        blocks += [
            _protocol(inputs.evaluate),
            *unlike(inputs.evaluate),
            *_quality(inputs.evaluate, "Quality of reconstructions, image by image", PER_IMAGE),
            *_quality(inputs.evaluate, "Distance of all reconstructions from all originals", DISTANCES),
            _usage_table(inputs.evaluate),
            _terms(inputs.evaluate),
        ]
    else:
        blocks.append(Absent("Measures are absent: no tokenizer has been evaluated. Run: dvc repro evaluate"))
    lacking = [name for name in inputs.variants if name not in inputs.evaluate]
    if lacking and inputs.evaluate:
        blocks.append(
            Absent(f"Not evaluated in this checkout: {', '.join(lacking)}. Run: dvc repro evaluate")
        )
    parts = [
        Section("curves", "Training", _curves(inputs)),
        Section("codes", "How the codes are used", _usage_charts(inputs)),
        Section("reconstructions", "Reconstructions", reconstructions(inputs, params)),
        Section("code-words", "Image patches of each code", code_words(inputs, params)),
    ]
    return Section("tokenizers", "Tokenizers", blocks, parts)


def _protocol(evaluate: Mapping[str, EvaluationMetrics]) -> Text:
    protocol = next(iter(evaluate.values())).protocol
    judged = protocol.distance_images
    distances = (
        f"Distances between sets of images compare n = {number(judged)} a side, in "
        f"features of {protocol.features} with {number(protocol.feature_dim or 0)} dimensions."
        if judged
        else f"Distances between sets of images are left out: {protocol.distances_left_out or 'no features'}."
    )
    return Text(
        f"Measured on the {protocol.split} split, n = {counted(protocol.num_images, 'image')} of "
        f"{protocol.resolution} x {protocol.resolution} pixels, decoded to 8 bits, never compressed with loss. Small "
        f"print is the 95 % bootstrap interval of the mean ({number(protocol.num_bootstrap)} resamples of the images). "
        f"{distances} "
        "Floors need no training. For scale: two disjoint halves of the training images against each other. That is no "
        "bound: reconstructions are compared with their own originals."
        f"{_digests(evaluate)}"
    )


def _recorded(found_of: Mapping[str, EvaluationMetrics | PriorMetrics], side: Side) -> dict[str, list[str]]:
    """Tokenizers or priors by the digest of what they were measured on (`images`) or how (`protocol`)."""
    found: dict[str, list[str]] = {}
    for name, metrics in found_of.items():
        measured = metrics.measured
        digest = measured.images.digest if side == "images" else str(measured.protocol["digest"])
        found.setdefault(digest, []).append(name)
    return found


def _digests(evaluate: Mapping[str, EvaluationMetrics]) -> str:
    images, protocol = _recorded(evaluate, "images"), _recorded(evaluate, "protocol")
    if len(images) > 1 or len(protocol) > 1:
        return ""
    return f" Digest of the images {next(iter(images))}, of the protocol {next(iter(protocol))}."


def unlike(measured: Mapping[str, EvaluationMetrics | PriorMetrics]) -> Iterator[Absent]:
    """A sentence for the images and for the protocol, where tokenizers or priors were not all measured alike."""
    for side in SIDES:
        found = _recorded(measured, side)
        if len(found) > 1:
            listed = "; ".join(f"{', '.join(variants)}: {digest}" for digest, variants in found.items())
            yield Absent(
                f"These do not share one digest of the {side}, and are not comparable without care. {listed}."
            )


def _quality(
    evaluate: Mapping[str, EvaluationMetrics], title: str, measures: Sequence[str]
) -> Iterator[Table]:
    """Tokenizers, then the floors and references that have these measures, each distinct one once."""
    names = [name for name in measures if any(_has(metrics, name) for metrics in evaluate.values())]
    rows = [_row(variant, metrics, names) for variant, metrics in evaluate.items()]
    floors: dict[str, tuple[str, Metrics, list[str]]] = {}
    for variant, metrics in evaluate.items():
        for label, found in _compared(metrics):
            if any(_has(found, name) for name in measures):
                floors.setdefault(f"{label} {found}", (label, found, []))[2].append(variant)
    names = [
        name for name in measures if name in names or any(_has(one, name) for _, one, _ in floors.values())
    ]
    if not names:
        return
    rows = [_row(v, m, names) for v, m in evaluate.items() if any(_has(m, name) for name in names)]
    quiet_from = len(rows)
    for label, found, variants in floors.values():
        shown = label if len(variants) == len(evaluate) else f"{label} ({', '.join(variants)})"
        rows.append(_row(shown, found, names))
    quiet = frozenset(range(quiet_from, len(rows)))
    yield Table(title, [Column("tokenizer", numeric=False), *map(column, names)], rows, BOTH, quiet)


def _has(metrics: Metrics, name: str) -> bool:
    return getattr(metrics, name, None) is not None


def _row(label: str, metrics: Metrics, names: Sequence[str]) -> list[Cell]:
    return [Cell(label), *(cell(name, getattr(metrics, name, None)) for name in names)]


def _compared(metrics: EvaluationMetrics) -> Iterator[tuple[str, Metrics]]:
    """The floors and references of an evaluation, with what the table calls them."""
    for part in (metrics.floors, metrics.ceiling):
        for name, found in part or ():
            if found is not None:
                k = getattr(found, "num_codes", None)
                yield FLOORS.get(name, name) + (f", K = {number(k)}" if k is not None else ""), found


def _usage_table(evaluate: Mapping[str, EvaluationMetrics]) -> Table:
    rows = [
        _row(book_name(variant, group, len(metrics.codes)), found, USAGE_COLUMNS)
        for variant, metrics in evaluate.items()
        for group, found in metrics.codes.items()
    ]
    note = (
        "Utilisation counts codes used at least once over the whole split; a code that is "
        f"used once counts as much as any other, so compare the perplexity too. {BOTH}"
    )
    return Table(
        "Use of the codes", [Column("tokenizer", numeric=False), *map(column, USAGE_COLUMNS)], rows, note
    )


def _terms(evaluate: Mapping[str, EvaluationMetrics]) -> Terms:
    items = [
        (measure(n).label, MEASURES[n].about)
        for n in (*PER_IMAGE, *DISTANCES, *USAGE_COLUMNS)
        if n in MEASURES and (n in USAGE_COLUMNS or any(_has(metrics, n) for metrics in evaluate.values()))
    ]
    return Terms("What each measure means", items)


def _curves(inputs: Inputs) -> list[Block]:
    curves = inputs.curves.get("tokenizer", {})
    blocks: list[Block] = []
    if inputs.tokenizer:
        columns = [
            Column("tokenizer", numeric=False),
            Column("steps"),
            Column("rollbacks"),
            Column("weights", numeric=False),
            Column("PSNR", "dB, validation"),
            Column("parameters", "million"),
        ]
        rows = []
        for name, metrics in inputs.tokenizer.items():
            parts = {part: count for part, count in metrics.parameters if count}
            millions = Cell(
                number(sum(parts.values()) / 1e6, 2),
                ", ".join(f"{part} {number(count / 1e6, 2)}" for part, count in parts.items()),
            )
            rows.append(
                [
                    Cell(name),
                    cell("", metrics.num_steps),
                    cell("", metrics.num_rollbacks),
                    Cell(metrics.weights),
                    cell("psnr", metrics.validation.psnr),
                    millions,
                ]
            )
        note = (
            "A rollback returns to the last checkpoint after a loss that was not finite. "
            "Weights: their moving average (ema) or the last ones."
        )
        blocks.append(Table("Training runs", columns, rows, note))
    if not curves:
        return [*blocks, Absent("Training curves are absent. Run: dvc repro tokenizer")]
    losses = {
        run: {name: values for name, values in curve.items() if not name.startswith(tuple(WATCHED))}
        for run, curve in curves.items()
    }
    return [*blocks, curve_charts("Training curves", losses, "Terms of the losses by optimiser step.")]


def _usage_charts(inputs: Inputs) -> list[Block]:
    lines: list[tuple[str, list[int]]] = []
    for variant, folder in evaluations(inputs):
        table = read_table(folder / "usage.parquet", USAGE, ["group", "count"])
        counts: dict[str, list[int]] = defaultdict(list)
        for group, count in zip(table["group"].to_pylist(), table["count"].to_pylist(), strict=True):
            counts[group].append(count)
        lines += [(book_name(variant, group, len(counts)), found) for group, found in counts.items()]
    if not lines:
        return [Absent("Histograms are absent: no evaluation in this checkout. Run: dvc repro evaluate")]
    svg = rank_frequency(
        lines, "Times each code is used against its rank, one line per codebook, logarithmic axes"
    )
    unused = ", ".join(
        f"{label} {number(sum(1 for c in counts if c == 0))} of {number(len(counts))}"
        for label, counts in lines
    )
    note = (
        "Codes by falling frequency over the test split, both axes logarithmic: a flat line "
        f"uses its codes evenly, and a line ends at its last used code. Unused: {unused}."
    )
    return [
        Charts(
            "Rank and frequency of codes",
            [Chart(svg, "")],
            legend([label for label, _ in lines]),
            note,
            wide=True,
        )
    ]
