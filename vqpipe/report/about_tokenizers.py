"""The tokenizers: measures beside floors and ceiling, code usage, training and its curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vqpipe.artifacts.specs.evaluation import USAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.metrics.measured import MEASURED
from vqpipe.params.report import ReportParams
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
from vqpipe.report.charts import NUM_COLOURS, rank_frequency
from vqpipe.report.inputs import Inputs
from vqpipe.report.names import BOTH, MEASURES, cell, column, measure, number

PER_IMAGE = ("bits_per_image", "psnr", "ssim", "l1", "l2", "clip_distance", "lpips_alex", "lpips_vgg")
DISTANCES = ("fd_clip", "kd_clip", "precision_clip", "recall_clip", "fid", "kid", "precision", "recall")
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
    "train_halves": "ceiling: half of train against the other half",
}


def about_tokenizers(inputs: Inputs, params: ReportParams) -> Section:
    """The section `Tokenizers`."""
    blocks: list[Block] = []
    if inputs.evaluate:
        blocks += [
            _protocol(inputs.evaluate),
            *_unlike(inputs.evaluate),
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
        Section("code-words", "What the codes stand for", code_words(inputs, params)),
    ]
    return Section("tokenizers", "Tokenizers", blocks, parts)


def _protocol(evaluate: Mapping[str, Any]) -> Text:
    protocol = next(iter(evaluate.values())).get("protocol", {})
    judged = protocol.get("distance_images", 0)
    distances = (
        f"Distances between sets of images compare n = {number(judged)} a side, in "
        f"features of {protocol.get('features')} "
        f"with {number(protocol.get('feature_dim', 0))} dimensions."
        if judged
        else "Distances between sets of images are left out: "
        f"{protocol.get('distances_left_out', 'no features')}."
    )
    return Text(
        f"Measured on the {protocol.get('split', 'test')} split, n = "
        f"{number(protocol.get('num_images', 0))} images of "
        f"{protocol.get('resolution', '?')} x {protocol.get('resolution', '?')} "
        "pixels, decoded to 8 bits and never compressed with loss. Small print is "
        "the 95 % bootstrap interval of the mean "
        f"({number(protocol.get('num_bootstrap', 0))} resamples of the images). "
        f"{distances} "
        "Floors need no learning; the ceiling is what a model that draws perfectly would get."
        f"{_digests(evaluate)}"
    )


def _recorded(evaluate: Mapping[str, Any], side: str) -> dict[str, list[str]]:
    """Tokenizers by the digest of what they were measured on (`images`) or how (`protocol`)."""
    found: dict[str, list[str]] = {}
    for variant, metrics in evaluate.items():
        digest = metrics.get(MEASURED, {}).get(side, {}).get("digest", "not recorded")
        found.setdefault(digest, []).append(variant)
    return found


def _digests(evaluate: Mapping[str, Any]) -> str:
    images, protocol = _recorded(evaluate, "images"), _recorded(evaluate, "protocol")
    if len(images) > 1 or len(protocol) > 1 or "not recorded" in images:
        return ""
    return f" Digest of the images {next(iter(images))}, of the protocol {next(iter(protocol))}."


def _unlike(evaluate: Mapping[str, Any]) -> Iterator[Absent]:
    """A sentence for the images and for the protocol, where the tokenizers were not all measured alike."""
    for side in ("images", "protocol"):
        found = _recorded(evaluate, side)
        if len(found) > 1:
            listed = "; ".join(f"{', '.join(variants)}: {digest}" for digest, variants in found.items())
            yield Absent(
                f"The rows below do not share one digest of the {side}, so compare with care. {listed}."
            )


def _quality(evaluate: Mapping[str, Any], title: str, measures: Sequence[str]) -> Iterator[Table]:
    """Tokenizers, then the floors and ceilings that have these measures, each distinct one once."""
    entries: list[tuple[str, Mapping[str, Any]]] = list(evaluate.items())
    quiet_from = len(entries)
    seen: dict[str, tuple[str, Mapping[str, Any], list[str]]] = {}
    for variant, metrics in evaluate.items():
        for name, values in {**metrics.get("floors", {}), **metrics.get("ceiling", {})}.items():
            key = f"{name} {sorted(values.items(), key=str)}"
            seen.setdefault(key, (name, values, []))[2].append(variant)
    for name, values, variants in seen.values():
        label = FLOORS.get(name, name)
        if name.startswith("patch_kmeans") and "num_codes" in values:
            label += f", K = {number(values['num_codes'])}"
        entries.append(
            (label if len(variants) == len(evaluate) else f"{label} ({', '.join(variants)})", values)
        )
    names = [name for name in measures if any(name in values for _, values in entries)]
    if not names:
        return
    judged = [(label, values) for label, values in entries if any(name in values for name in names)]
    quiet_from -= len(
        [values for _, values in entries[:quiet_from] if not any(name in values for name in names)]
    )
    rows = [[Cell(label), *(cell(name, values.get(name)) for name in names)] for label, values in judged]
    quiet = frozenset(range(quiet_from, len(rows)))
    yield Table(title, [Column("tokenizer", numeric=False), *map(column, names)], rows, BOTH, quiet)


def _usage_table(evaluate: Mapping[str, Any]) -> Table:
    rows = []
    for variant, metrics in evaluate.items():
        groups = metrics.get("codes", {})
        for group, values in groups.items():
            label = book_name(variant, group, len(groups))
            rows.append([Cell(label), *(cell(name, values.get(name)) for name in USAGE_COLUMNS)])
    note = (
        "Utilisation counts codes used at least once over the whole split; a code that is "
        f"used once counts as much as any other, so read it with the perplexity. {BOTH}"
    )
    return Table(
        "Use of the codes", [Column("tokenizer", numeric=False), *map(column, USAGE_COLUMNS)], rows, note
    )


def _terms(evaluate: Mapping[str, Any]) -> Terms:
    present = {name for metrics in evaluate.values() for name in metrics}
    items = [
        (measure(n).label, MEASURES[n].about)
        for n in (*PER_IMAGE, *DISTANCES, *USAGE_COLUMNS)
        if n in MEASURES and (n in present or n in USAGE_COLUMNS)
    ]
    return Terms("What each measure says", items)


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
            parts = {part: count for part, count in metrics.get("parameters", {}).items() if count}
            millions = Cell(
                number(sum(parts.values()) / 1e6, 2),
                ", ".join(f"{part} {number(count / 1e6, 2)}" for part, count in parts.items()),
            )
            rows.append(
                [
                    Cell(name),
                    cell("", metrics.get("num_steps")),
                    cell("", metrics.get("num_rollbacks")),
                    Cell(str(metrics.get("weights", "–"))),
                    cell("psnr", metrics.get("validation", {}).get("psnr")),
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
        run: {name: values for name, values in curve.items() if not name.startswith(WATCHED)}
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
    legend = [(f"c{i % NUM_COLOURS}", label) for i, (label, _) in enumerate(lines)]
    return [Charts("Rank and frequency of codes", [Chart(svg, "")], legend, note, wide=True)]
