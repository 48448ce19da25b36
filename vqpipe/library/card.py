"""A tokenizer's model card: what it is, what its codes come from, how well it does, what to check before sharing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqpipe.artifacts.seal import parse_sealed
from vqpipe.codebooks.card_centroids import centroids_sections
from vqpipe.codebooks.card_parts import clip_licence
from vqpipe.codebooks.card_words import words_sections
from vqpipe.codebooks.load import Prior, load_prior
from vqpipe.codebooks.markdown import bullets, escape, section, table
from vqpipe.codebooks.words import Words
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.runtime.terminal import harmless
from vqpipe.tokenizers.tokenizer import Tokenizer

METRICS = {
    "psnr": "PSNR, dB", "ssim": "SSIM", "l1": "L1", "l2": "L2", "clip_distance": "perceptual distance (CLIP)",
    "lpips": "LPIPS", "fd_clip": "Fréchet distance (CLIP)", "fid": "rFID", "kd_clip": "kernel distance (CLIP)",
}  # fmt: skip
"""Metrics that the card shows where they were measured, and their names there."""
ABOUT = {
    "words": "words of captions with their vectors and the graph of which adjective modifies which noun",
    "patches": "centroids of CLIP features of image patches",
    "none": "none: the codes were learned with the networks",
}


def card(tokenizer: Tokenizer, prior: Path | None = None, metrics: Path | None = None) -> str:
    """The card as Markdown; equal content gives equal text.

    Args:
        tokenizer: the tokenizer.
        prior: folder of the codebook prior that it was built on, where it is at hand.
        metrics: the JSON file that the stage `evaluate` or `vqpipe evaluate` wrote.

    Raises:
        ArtifactError: prior or metrics cannot be read.
        MismatchError: a prior of another kind than the tokenizer was built on.
    """
    given = _prior(tokenizer, prior)
    facts = dict(given.facts) if given is not None else dict(tokenizer.facts.get("prior") or {})
    lines = ["# Image tokenizer", ""]
    lines += section("What it is", [_sentence(tokenizer)], table(["fact", "value"], _facts(tokenizer)))
    lines += section("How to use it", _usage())
    lines += section("Where its codes come from", *_source(tokenizer, facts))
    lines += section("How well it does", *_metrics(metrics))
    lines += section("Licences: what to check", bullets(_licences(tokenizer, given, facts)))
    lines += section("Limitations", bullets(_limitations(tokenizer)))
    return harmless("\n".join(lines).rstrip("\n") + "\n")


def _prior(tokenizer: Tokenizer, folder: Path | None) -> Prior:
    if folder is None:
        return None
    prior, needed = load_prior(folder), tokenizer.config.prior
    found = "none" if prior is None else "words" if isinstance(prior, Words) else "patches"
    if found != needed:
        raise MismatchError(
            f"{folder} is not the prior of this tokenizer", found=f"a prior of kind {found}", expected=needed
        )
    own = tokenizer.facts.get("prior")
    if prior is not None and own is not None and own != dict(prior.facts):
        raise MismatchError(f"{folder} is another prior than this tokenizer was built on, of the same kind")
    return prior


def _sentence(tokenizer: Tokenizer) -> str:
    (rows, columns), side = tokenizer.grid, tokenizer.resolution
    return (
        f"Turns an image of {side} x {side} pixels into {tokenizer.groups} x {rows} x {columns} indices and back. "
        f"Quantizer `{tokenizer.config.quantizer.kind}`; made with vqpipe."
    )


def _facts(tokenizer: Tokenizer) -> list[tuple[str, Any]]:
    books = tokenizer.codebooks()
    names = [book.group for book in books] or [f"group {at}" for at in range(tokenizer.groups)]
    counts = [(f"codes ({name})", k) for name, k in zip(names, tokenizer.num_codes, strict=False)]
    return [
        ("quantizer", tokenizer.config.quantizer.kind),
        *counts,
        ("dimension of the quantised latent", tokenizer.config.quantizer.dim),
        ("pixels per index, along a side", tokenizer.config.trunk.downsampling),
        ("bits per image", tokenizer.bits_per_image),
        ("parameters", sum(p.numel() for p in tokenizer.parameters())),
        ("weights", str(tokenizer.facts.get("weights", "not known"))),
    ]


def _usage() -> list[str]:
    return [
        "```python",
        "from PIL import Image",
        "from vqpipe import Tokenizer",
        "",
        'tokenizer = Tokenizer.from_pretrained("OWNER/NAME")       # or a folder',
        'images = tokenizer.preprocess(Image.open("photo.jpg"))    # (1, 3, r, r) in [-1, 1]',
        "indices = tokenizer.encode(images)                        # (1, groups, h, w), int64",
        'tokenizer.to_pil(tokenizer.decode(indices))[0].save("again.png")',
        "```",
        "",
        "`preprocess` scales the shorter side to the tokenizer's resolution (Lanczos, antialiased) and cuts out the "
        "centre.",
    ]


def _source(tokenizer: Tokenizer, facts: Mapping[str, Any]) -> list[list[str]]:
    origin = tokenizer.facts.get("origin")
    parts = [[f"Codebook prior: {ABOUT[tokenizer.config.prior]}."]]
    if tokenizer.config.prior != "none":
        known = [(name, _plain(value)) for name, value in sorted(facts.items())]
        parts.append(table(["the prior's facts", "value"], known) if known else ["Its facts are not known."])
    if origin:
        rows = [(name, _plain(value)) for name, value in sorted(origin.items())]
        parts += [["The weights were imported; vqpipe did not train them."], table(["origin", "value"], rows)]
    return parts


def _plain(value: Any) -> Any:
    """Nested content as JSON text, so that a row stays a row."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False) if isinstance(value, dict | list) else value


def _metrics(path: Path | None) -> list[list[str]]:
    if path is None:
        return [["Not measured here: no metrics were given when this card was written."]]
    try:
        content, _ = parse_sealed(path.read_bytes(), path, required=False)
        protocol, codes = content["protocol"], content["codes"]
        rows = [(name, *_interval(content[key])) for key, name in METRICS.items() if key in content]
        usage = [
            (
                group,
                f"{own['utilisation']:.4f}",
                f"{own['perplexity']:,.1f}",
                own["num_codes"],
                own["num_tokens"],
            )
            for group, own in codes.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} does not hold the metrics of a tokenizer", found=f"{type(error).__name__}: {error}",
            expected="what `vqpipe evaluate` or the stage evaluate wrote",
        ) from error  # fmt: skip
    of = f"{protocol['num_images']:,} images ({escape(protocol['split'])}) at {protocol['resolution']} pixels"
    return [
        [f"Measured with vqpipe's protocol on {of}; features: {escape(protocol['features'])}."],
        table(["metric", "mean", "95 % interval"], rows),
        table(["codes", "used at least once / K", "perplexity", "K", "tokens"], usage),
    ]


def _interval(value: Any) -> tuple[str, str]:
    if isinstance(value, dict):
        return f"{value['mean']:.4g}", f"{value['low']:.4g} to {value['high']:.4g}"
    return f"{value:.4g}", "–"


def _licences(tokenizer: Tokenizer, prior: Prior, facts: Mapping[str, Any]) -> list[str]:
    notes = [
        "**Images.** The weights were trained on images: check that their terms allow sharing what is derived from "
        "them."
    ]
    if tokenizer.facts.get("origin"):
        notes.append(
            "**Weights.** They come from someone else's checkpoint (its hash is above): its licence goes on."
        )
    if prior is not None:
        parts = words_sections(prior) if isinstance(prior, Words) else centroids_sections(prior)
        return notes + [line.removeprefix("- ") for line in parts.licences]
    clip = facts.get("clip") or facts.get("clip_id")
    if tokenizer.config.prior == "words":
        notes.append("**Captions.** The codes come from words of captions, whose terms count too.")
    if clip:
        notes.append(clip_licence(str(clip), "the codebook prior's vectors"))
    if tokenizer.config.prior != "none" and not facts:
        notes.append(
            "**Prior.** Its source is not known here: see the card that `vqpipe prior-card` writes of it."
        )
    return notes


def _limitations(tokenizer: Tokenizer) -> list[str]:
    return [
        f"Trained on square images of {tokenizer.resolution} pixels; other shapes work where sides are multiples of "
        f"{tokenizer.config.trunk.downsampling}, and were not measured.",
        "Lossy: small text, faces and fine textures change, and what is rare in the training images is drawn worse.",
        "Indices have a meaning with these very weights alone.",
    ]
