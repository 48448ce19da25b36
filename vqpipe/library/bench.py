"""`vqpipe bench-tokenizers`: what is loaded, at which resolution it is compared, and the table of the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from vqpipe.errors import ArtifactError, MismatchError, ParamsError, counted, human_bytes
from vqpipe.evaluation.bench import Candidate, Probes, TokenizerBench, TokenizersBench, bench
from vqpipe.evaluation.damage import load_probes
from vqpipe.evaluation.evaluate import folder_params, read_folder
from vqpipe.evaluation.reconstructions import MetricNetworks
from vqpipe.library.cards import table as markdown_table
from vqpipe.library.choices import FeaturesChoice, PerceptualChoice
from vqpipe.library.hub import Tokenizer
from vqpipe.metrics.distances import load_features
from vqpipe.metrics.measured import Interval
from vqpipe.models.perceptual import (
    ClipPerceptualParams,
    LpipsPerceptualParams,
    NoPerceptual,
    build_perceptual,
)
from vqpipe.runtime.device import device
from vqpipe.tokenizers.identity import tokenizer_digest
from vqpipe.vision.clip import Clip


def bench_tokenizers(
    folder: Path,
    given: Sequence[str],
    *,
    clip: Path | None = None,
    features: FeaturesChoice | None = None,
    perceptual: PerceptualChoice | None = None,
    resolution: int | None = None,
    batch_size: int = 32,
    repeats: int = 5,
    damage: bool = True,
) -> TokenizersBench:
    """Measure tokenizers on the images of a folder, at any depth.

    Args:
        given: tokenizers as `Tokenizer.from_pretrained` takes them: folders, names below `artifacts/tokenizer`, or
            owner/name on the Hub.
        clip: a CLIP artifact.
        features: what the distances between sets are taken in; the CLIP's where there is one, otherwise none.
        perceptual: the distance of each image; the CLIP's where there is one, otherwise none.
        resolution: side in pixels at which all of them encode; their own where they agree.
        batch_size: images encoded at once.
        repeats: timed passes.
        damage: also measure damage to text and faces, where the packages are installed.

    Raises:
        DataError: no usable image.
        ArtifactError: a tokenizer or the CLIP cannot be read, or a tokenizer is given twice.
        MismatchError: other resolutions and none that is asked for, or `clip` is asked for and not given.
        ParamsError: a resolution that one of them cannot encode.
        SetupError: weights that are asked for and not on disk.
    """
    where = device()
    models = {
        name: Tokenizer.from_pretrained(one, where) for name, one in zip(names_of(given), given, strict=True)
    }
    side = common_resolution(models, resolution)
    network = Clip.load(clip, where) if clip is not None else None
    networks, left_out = _networks(network, features, perceptual)
    text, faces, missing = (
        load_probes(where) if damage else (None, None, ["damage to text and faces: --no-damage"])
    )
    images, left_out_files = read_folder(folder, side)
    candidates = [Candidate(name, model, tokenizer_digest(model), side) for name, model in models.items()]
    return bench(
        candidates, images, folder.resolve().name, networks, Probes(text, faces), batch_size=batch_size,
        repeats=repeats, left_out=[*left_out, *missing], left_out_files=left_out_files,
    )  # fmt: skip


def names_of(given: Sequence[str]) -> list[str]:
    """Short names: the last part of a path where no two are equal, otherwise all of it.

    Raises:
        ArtifactError: none, or one that is given twice.
    """
    if not given:
        raise ArtifactError("there is no tokenizer to measure", expected="--tokenizer once for each")
    places = [str(Path(one).resolve()) if Path(one).exists() else one for one in given]
    twice = [one for one, place in zip(given, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ArtifactError("a tokenizer is given twice", found=", ".join(twice))
    short = [Path(one).name if Path(one).exists() else one for one in given]
    return [name if name and short.count(name) == 1 else one for name, one in zip(short, given, strict=True)]


def common_resolution(models: Mapping[str, Tokenizer], asked: int | None) -> int:
    """The side of the images that every tokenizer encodes.

    Bits, errors and times only compare at one side, and scaling reconstructions afterwards would measure the scaling.
    So tokenizers of different resolutions are compared at one that is asked for; encoder and decoder take any multiple
    of their downsampling.

    Raises:
        MismatchError: they were trained at different resolutions, and none is asked for.
        ParamsError: a resolution that one of them cannot encode; the message names it.
    """
    own = {name: model.resolution for name, model in models.items()}
    steps = {name: model.config.trunk.downsampling for name, model in models.items()}
    if asked is None and len(set(own.values())) > 1:
        most, step = max(own.values()), math.lcm(*steps.values())
        raise MismatchError(
            "these tokenizers were trained at different resolutions, and numbers compare at one",
            found=", ".join(f"{name}: {side}" for name, side in own.items()),
            expected=f"--resolution, a multiple of {step}: tokenizers encode it though trained at another, which the "
            "table states",
            run=f"vqpipe bench-tokenizers … --resolution {math.ceil(most / step) * step}",
        )  # fmt: skip
    side = asked or next(iter(own.values()))
    wrong = [
        f"{name} takes multiples of {step}" for name, step in steps.items() if side < step or side % step
    ]
    if wrong:
        raise ParamsError(
            f"not every tokenizer encodes images of {side} x {side}", found="; ".join(wrong),
            expected=f"--resolution, a multiple of {math.lcm(*steps.values())}",
        )  # fmt: skip
    return side


def _networks(
    clip: Clip | None, features: FeaturesChoice | None, perceptual: PerceptualChoice | None
) -> tuple[MetricNetworks, list[str]]:
    """The networks of the metrics, and what is left out without further options."""
    where = device()
    default: Literal["clip", "none"] = "clip" if clip is not None else "none"
    features, perceptual = features or default, perceptual or default
    params = folder_params(1, clip.num_blocks if clip is not None else 0)
    for option, choice in (("--features", features), ("--perceptual", perceptual)):
        if choice == "clip" and clip is None:
            raise MismatchError(f"{option} is clip, and there is no CLIP", expected="--clip with its folder")
    left_out = []
    if features != "inception":
        left_out.append("FID: --features inception adds it (needs torch-fidelity's weights on disk)")
    if features == "none":
        left_out.append("distances between sets: --clip or --features inception adds them")
    if not perceptual.startswith("lpips"):
        left_out.append("LPIPS: --perceptual lpips_alex adds it (needs torchvision's AlexNet on disk)")
    if perceptual == "none":
        left_out.append("a perceptual distance: --clip adds clip_distance, a substitute for LPIPS")
    own: ClipPerceptualParams | LpipsPerceptualParams | NoPerceptual
    if perceptual == "lpips_alex" or perceptual == "lpips_vgg":
        own = LpipsPerceptualParams(kind="lpips", net="alex" if perceptual == "lpips_alex" else "vgg")
    elif perceptual == "clip" and clip is not None:
        own = ClipPerceptualParams(kind="clip", layers=tuple(range(clip.num_blocks)))
    else:
        own = NoPerceptual(kind="none")
    distance = build_perceptual(own, clip)
    sets = None
    if features != "none":
        sets = load_features(params.distances.model_copy(update={"features": features}), clip, where)
    return MetricNetworks(sets, distance.to(where) if distance is not None else None, where), left_out


Cell = Callable[[TokenizerBench], str | None]


def _interval(name: str, digits: int) -> Cell:
    def cell(one: TokenizerBench) -> str | None:
        found: Interval | None = getattr(one, name)
        if found is None or found.low == found.high:  # as of one image, which has no interval
            return None if found is None else f"{found.mean:.{digits}f}"
        return f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"

    return cell


def _number(name: str) -> Cell:
    def cell(one: TokenizerBench) -> str | None:
        found: float | None = getattr(one, name)
        return None if found is None else f"{found:.4g}"

    return cell


def _by_group(show: Callable[..., str]) -> Cell:
    return lambda one: ", ".join(show(use) for use in one.codes.values())


def _of_part(part: str, name: str, show: str = "{:.3f}") -> Cell:
    def cell(one: TokenizerBench) -> str | None:
        found = getattr(getattr(one, part), name, None)
        return None if found is None else show.format(found)

    return cell


def _milliseconds(name: str) -> Cell:
    def cell(one: TokenizerBench) -> str | None:
        found: float | None = getattr(one.speed, name)
        return None if found is None else f"{1000 * found:.3g}"

    return cell


ROWS: tuple[tuple[str, Cell], ...] = (
    ("quantizer", lambda one: one.quantizer),
    ("trained at, pixels", lambda one: f"{one.trained_resolution}"),
    ("tokens", lambda one: f"{one.groups} x {one.grid}" if one.groups > 1 else one.grid),
    ("K", _by_group(lambda use: f"{use.num_codes:,}")),
    ("bits per image", lambda one: f"{one.bits_per_image:,.0f}"),
    ("bits per pixel", _number("bits_per_pixel")),
    ("PSNR RGB, dB ↑", _interval("psnr", 2)),
    ("PSNR Y, dB ↑", _interval("psnr_y", 2)),
    ("SSIM ↑", _interval("ssim", 4)),
    ("clip_distance, not LPIPS ↓", _interval("clip_distance", 4)),
    ("LPIPS AlexNet ↓", _interval("lpips_alex", 4)),
    ("LPIPS VGG ↓", _interval("lpips_vgg", 4)),
    ("fd_clip ↓", _number("fd_clip")),
    ("kd_clip ↓", _number("kd_clip")),
    ("FID ↓", _number("fid")),
    ("KID ↓", _number("kid")),
    ("codes used / K ↑", _by_group(lambda use: f"{use.utilisation:.4f}")),
    ("… of uniform draws", _by_group(lambda use: f"{use.uniform_expectation:.4f}")),
    ("… N tokens", _by_group(lambda use: f"{use.num_tokens:,}")),
    ("perplexity ↑", _by_group(lambda use: f"{use.perplexity:,.1f}")),
    ("lines of text", _of_part("text", "num_lines", "{:,}")),
    ("character error rate ↓", _of_part("text", "character_error_rate")),
    ("line accuracy ↑", _of_part("text", "line_accuracy")),
    ("faces", _of_part("faces", "num_faces", "{:,}")),
    ("face detection recall ↑", _of_part("faces", "detection_recall")),
    ("face embedding cosine ↑", _of_part("faces", "embedding_cosine")),
    ("encode, ms per image ↓", _milliseconds("encode_seconds")),
    ("decode, ms per image ↓", _milliseconds("decode_seconds")),
    ("encode, processor ms ↓", _milliseconds("encode_cpu_seconds")),
    ("decode, processor ms ↓", _milliseconds("decode_cpu_seconds")),
    (
        "peak memory added ↓",
        lambda one: None if one.speed.peak_memory_bytes is None else human_bytes(one.speed.peak_memory_bytes),
    ),
    ("parameters of the encoder", lambda one: f"{one.sizes.encoder:,}"),
    ("… of the quantizer", lambda one: f"{one.sizes.quantizer:,}"),
    ("… of the quantizer, no gradient", lambda one: f"{one.sizes.quantizer_buffers:,}"),
    ("… of the decoder", lambda one: f"{one.sizes.decoder:,}"),
)
"""The rows of the table: what it is, and its cell. A row without any cell is left out."""


def cells(found: TokenizersBench) -> list[list[str]]:
    """The rows of the table: a name, and one cell for each tokenizer."""
    rows = [[name, *(cell(one) for one in found.tokenizers)] for name, cell in ROWS]
    return [[row[0] or "", *(cell or "–" for cell in row[1:])] for row in rows if any(row[1:])]


def notes(found: TokenizersBench) -> list[str]:
    """The protocol in sentences, and what was left out."""
    protocol, speed = found.protocol, found.tokenizers[0].speed
    side = protocol.resolution
    other = [one.name for one in found.tokenizers if one.trained_resolution != side]
    lines = [
        f"{counted(protocol.num_images, 'image')} of {protocol.folder} at {side} x {side} pixels for every tokenizer: "
        f"{protocol.crop}; digest {found.measured.images.digest}, protocol {found.measured.protocol['digest']}.",
        (
            "One image has no interval. "
            if protocol.num_images == 1
            else "Means over images, 95 % bootstrap intervals. "
        )
        + "PSNR RGB over all channels; PSNR Y on Y of BT.601 in full range; peak 255.",
        f"Perceptual distance: {protocol.perceptual}. Features of distances between sets: {protocol.features}.",
        "Bits are those of codes of fixed length. Codes used: at least once in N tokens, compared with what N uniform "
        "draws would reach.",
        f"Time: median of {speed.repeats} passes after one that is not counted; batch of {speed.batch_size}, "
        f"{speed.dtype}, device {speed.device}, {speed.threads} CPU threads. Memory: the most in addition to weights "
        "and images.",
    ]
    if other:
        lines.append(
            f"Trained at another resolution: {', '.join(other)}; numbers at their own may be better."
        )
    first = found.tokenizers[0]
    if first.text is not None:
        lines.append(
            f"Text: {first.text.reader} reads the lines of the original in both images; its reading of the original is "
            f"the reference ({counted(first.text.num_lines, 'line')} in {counted(first.text.num_images, 'image')})."
        )
    if first.faces is not None:
        lines.append(
            f"Faces: {first.faces.detector}; faces of the original that are found again at an IoU of 0.5 "
            f"({counted(first.faces.num_faces, 'face')} in {counted(first.faces.num_images, 'image')}); embedding: "
            f"{first.faces.embedding or 'none'}."
        )
    lines += [f"Left out: {reason}." for reason in found.left_out]
    if found.left_out_files:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(found.left_out_files.items()))
        lines.append(f"Files left out: {reasons}.")
    return lines


def terminal_table(found: TokenizersBench, width: int) -> str:
    """The table and the notes as plain text, wrapped to a width."""
    import io

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE, show_edge=False)
    shown.add_column("")
    for one in found.tokenizers:
        shown.add_column(Text(one.name), justify="right")
    for row in cells(found):
        shown.add_row(*map(Text, row))
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, legacy_windows=False)
    console.print(shown)
    for line in notes(found):
        console.print(Text(line))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def markdown_page(found: TokenizersBench) -> str:
    """The table and the notes as a Markdown page."""
    lines = markdown_table(["", *(one.name for one in found.tokenizers)], cells(found))
    head = ["# Tokenizers on the same images", ""]
    return "\n".join([*head, *lines, "", *(f"- {line}" for line in notes(found)), ""])
