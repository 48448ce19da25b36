"""The numbers of a tokenizer's metrics file for its card: rows of a table, and the Hub's `model-index`.

The file is what the stage `evaluate`, `vqpipe evaluate` or `vqpipe bench-tokenizers --out FILE.json` wrote. Of the last
one the tokenizer's own numbers are taken, by the digest of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqpipe.artifacts.seal import parse_sealed
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.tokenizers.identity import SHOWN, tokenizer_digest
from vqpipe.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

METRICS = {
    "psnr": ("PSNR, dB", "psnr"), "psnr_y": ("PSNR of Y, dB", "psnr_y"), "ssim": ("SSIM", "ssim"),
    "l1": ("L1", "mae"), "l2": ("L2", "mse"), "clip_distance": ("perceptual distance (CLIP)", "clip_distance"),
    "lpips_alex": ("LPIPS (AlexNet)", "lpips"), "lpips_vgg": ("LPIPS (VGG)", "lpips"),
    "fd_clip": ("Fréchet distance (CLIP)", "fd_clip"), "kd_clip": ("kernel distance (CLIP)", "kd_clip"),
    "fid": ("rFID", "fid"), "kid": ("KID", "kid"), "bits_per_image": ("bits per image", "bits_per_image"),
    "bits_per_pixel": ("bits per pixel", "bits_per_pixel"),
    "text.character_error_rate": ("character error rate, to the reading of the original", "cer"),
    "text.line_accuracy": ("lines of text read as in the original", "accuracy"),
    "faces.detection_recall": ("faces found again", "recall"),
    "faces.embedding_cosine": ("cosine of face embeddings", "cosine_similarity"),
}  # fmt: skip
"""Metrics that a card shows where they were measured: their names in its table, and their types in `model-index`."""
TASK_TYPE, TASK_NAME = "image-to-image", "Image reconstruction"
"""The Hub's nearest task, and what is meant."""
UNNAMED = "unnamed-images"
"""The dataset in `model-index` where nobody named it."""


@dataclass(frozen=True)
class CardMetrics:
    """What was measured of one tokenizer, as the file has it."""

    content: Mapping[str, Any]
    """The fields of `METRICS`, and `codes`."""
    num_images: int
    split: str
    """Of the images; `images` for a folder."""
    folder: str | None
    """Its name, where it is known."""
    resolution: int
    features: str
    images: Mapping[str, Any]
    """The record of the images; empty in files without one."""
    speed: Mapping[str, Any]
    """`SpeedMetrics`; empty where no time was measured."""

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, mean and interval of each metric."""
        rows = [(METRICS[key][0], *_interval(value)) for key, value in self._found()]
        for name in ("encode_seconds", "decode_seconds") if self.speed else ():
            of = f"{self.speed['device']}, batch of {self.speed['batch_size']}"
            label = f"{name.removesuffix('_seconds')}, ms per image ({of})"
            rows.append((label, f"{1000 * self.speed[name]:.4g}", "–"))
        return rows

    def usage(self) -> list[tuple[str, str, str, int, int]]:
        """Group, utilisation, perplexity, K and tokens of each group of codes."""
        return [
            (group, f"{own['utilisation']:.4f}", f"{own['perplexity']:,.1f}", own["num_codes"], own["num_tokens"])
            for group, own in self.content["codes"].items()
        ]  # fmt: skip

    def eval_results(self, dataset: str | None) -> list[EvalResult]:
        """The entries of `model-index`, without times, which depend on the machine.

        Args:
            dataset: an id on the Hub or another name of the images; the folder's name by default.
        """
        from huggingface_hub import EvalResult

        named = dataset or self.folder or UNNAMED
        known = {key: self.images[key] for key in ("num_images", "pixels", "digest") if key in self.images}

        def entry(kind: str, name: str, value: float) -> EvalResult:
            return EvalResult(
                task_type=TASK_TYPE, task_name=TASK_NAME, dataset_type=named,
                dataset_name=f"{named}, {self.num_images:,} images at {self.resolution} pixels",
                dataset_split=self.split, dataset_args=known or None, metric_type=kind, metric_name=name,
                metric_value=value,
            )  # fmt: skip

        found = [
            entry(METRICS[key][1], METRICS[key][0], value["mean"] if isinstance(value, Mapping) else value)
            for key, value in self._found()
        ]
        for group, own in self.content["codes"].items():
            name = f"codes used / K ({group}), K = {own['num_codes']:,}, N = {own['num_tokens']:,} tokens"
            found.append(entry("utilisation", name, own["utilisation"]))
        return found

    def _found(self) -> list[tuple[str, Any]]:
        pairs = []
        for key in METRICS:
            part, _, name = key.rpartition(".")
            own = self.content.get(part, {}) if part else self.content
            if name in own:
                pairs.append((key, own[name]))
        return pairs


def card_metrics(path: Path, tokenizer: Tokenizer) -> CardMetrics:
    """The numbers of a tokenizer in a metrics file.

    Raises:
        ArtifactError: no such file, or not the metrics of tokenizers.
        MismatchError: the metrics of other tokenizers, or metrics that do not name their tokenizer.
    """
    try:
        content, _ = parse_sealed(path.read_bytes(), path, required=False)
        protocol, images = content["protocol"], content.get("measured", {}).get("images", {})
        own = _own(content.get("tokenizers", [content]), tokenizer, path)
        made = CardMetrics(
            own, int(protocol["num_images"]), str(protocol.get("split") or images["split"]), protocol.get("folder"),
            int(protocol["resolution"]), str(protocol.get("features", "none")), images, own.get("speed", {}),
        )  # fmt: skip
        made.rows(), made.usage()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} does not contain the metrics of a tokenizer", found=f"{type(error).__name__}: {error}",
            expected="what `vqpipe evaluate`, `vqpipe bench-tokenizers --out FILE.json` or the stage evaluate wrote",
        ) from error  # fmt: skip
    return made


def _own(listed: list[dict[str, Any]], tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """The entry with the digest of this tokenizer; one of `vqpipe evaluate` has no name."""
    digest = tokenizer_digest(tokenizer)
    for one in listed:
        if one.get("sha256") == digest:
            return one
    known = [f"{one.get('name', 'sha256')}: {(one.get('sha256') or 'none')[:SHOWN]}…" for one in listed]
    raise MismatchError(
        f"{path} has no numbers of this tokenizer", expected=f"sha256: {digest[:SHOWN]}…",
        found=", ".join(known), run="vqpipe evaluate IMAGES --tokenizer FOLDER",
    )  # fmt: skip


def _interval(measured: Any) -> tuple[str, str]:
    if isinstance(measured, Mapping):
        return f"{measured['mean']:.4g}", f"{measured['low']:.4g} to {measured['high']:.4g}"
    return f"{measured:.4g}", "–"
