"""What a table of the scoreboard is: rows under their labels, columns, and the claims that it is to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vqpipe.report.scoreboard.claims import Claim

QUALITY = ("psnr", "ssim", "clip_distance", "fd_clip", "utilisation", "perplexity_share")
PIXELS = ("psnr", "l1", "l2", "clip_distance", "fd_clip", "utilisation")


@dataclass(frozen=True)
class BoardTable:
    """One table. `about` is prose: what is compared, and how the setting differs from the paper's."""

    title: str
    about: str
    rows: tuple[tuple[str, str], ...]
    """Label and row, in the paper's order."""
    claims: tuple[Claim, ...] = ()
    metrics: tuple[str, ...] = QUALITY


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


MAIN = BoardTable(
    "Main rows",
    "Every method under the same trunk, schedule, data order, losses and seeds; the quantizer alone differs. Codes "
    "start from the first batch's latents wherever the method has such a start. All but `vqct` (two indices a "
    "position) and `fsq` (1,000 codes) spend 10 bits a position.",
    tuple(
        (name, name)
        for name in (
            "vq", "ema", "fc", "gumbel", "cvq", "reg_vq", "sq_vae", "lc", "vqct", "sim_vq", "fsq", "lfq", "ibq",
            "residual",
        )
    ),
    metrics=("bits_per_image", *QUALITY),
)  # fmt: skip

STARTS = BoardTable(
    "Starts, estimator and anchors",
    "The same methods with codes uniform in +-1/K at the start, a projector or network as its layers start "
    "(`vqct-paper`: three layers, ReLU after each; `vqct-reference`: two layers, dropout 0.5, edges by count, "
    "the mean of two adjectives; `vqct-topk2`: the mean of two adjectives alone; "
    "`vq-uniform-d64`: codes of the latent's own 64 dimensions, not factorised). Then the rotation trick in place of "
    "the straight-through gradient, and another anchor of `cvq`.",
    tuple(
        (name, name)
        for name in (
            "vq", "vq-uniform", "vq-uniform-d64", "ema", "ema-uniform", "fc", "fc-uniform", "lc", "lc-standard",
            "vqct", "vqct-paper", "vqct-reference", "vqct-topk2", "vq-rotation", "cvq", "cvq-probrandom",
        )
    ),
    (
        Claim("A start from data raises plain VQ", ("vq-uniform", "vq")),
        Claim("A start from data raises vqct", ("vqct-paper", "vqct")),
        Claim("The rotation trick raises plain VQ", ("vq", "vq-rotation")),
    ),
)  # fmt: skip
