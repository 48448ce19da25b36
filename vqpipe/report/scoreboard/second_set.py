"""The tables of a second data set: the main rows of both papers, and the transfer of a codebook."""

from __future__ import annotations

from vqpipe.report.scoreboard.claims import Claim
from vqpipe.report.scoreboard.tables import BoardTable
from vqpipe.report.scoreboard.vqgan_lc import NEARLY_ALL, TRANSFER

METHODS = BoardTable(
    "Main rows, and the claims of VQCT Table 1 and VQGAN-LC Table 2",
    "At K = 1,024 and from data; the words are those of the class names' captions.",
    tuple((name, name) for name in ("vq", "ema", "fc", "cvq", "gumbel", "vqct", "lc")),
    (
        Claim("VQCT has a higher PSNR than VQ-GAN, Gumbel-VQ and CVQ", ("vqct", "vq", "gumbel", "cvq"), "psnr",
              "above_all"),
        Claim("VQCT has a lower FID than VQ-GAN, Gumbel-VQ and CVQ", ("vqct", "vq", "gumbel", "cvq"), "fd_clip",
              "below_all", 0.1),
        Claim("VQGAN-LC has a higher PSNR than VQGAN, VQGAN-FC and VQGAN-EMA", ("lc", "vq", "fc", "ema"), "psnr",
              "above_all"),
        Claim("VQGAN-LC has a lower FID than VQGAN, VQGAN-FC and VQGAN-EMA", ("lc", "vq", "fc", "ema"), "fd_clip",
              "below_all", 0.1),
        Claim("VQGAN-LC uses over 99 % of its codes", ("lc",), "utilisation", "at_least", NEARLY_ALL),
    ),
)  # fmt: skip

SECOND_TABLES = (METHODS, TRANSFER)
