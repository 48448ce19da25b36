"""The tables of VQCT (arXiv 2403.10071) and their claims."""

from __future__ import annotations

from vqpipe.report.scoreboard.claims import Claim
from vqpipe.report.scoreboard.tables import PIXELS, QUALITY, BoardTable

GLOVE = "it rests on pretrained GloVe vectors, which this run did not have"

METHODS = BoardTable(
    "VQCT Table 1: reconstruction",
    "VQ-VAE is `vq` without perceptual and adversarial loss. FD-CLIP, in the features of the run's own CLIP, stands "
    "for FID. The claims are judged at equal starts, and the first two also with both methods as the papers start "
    "them. The paper's tables 1 and 2 disagree on VQ-GAN's l2 (0.0319 and 0.0249), so no claim rests on it.",
    (
        ("VQ-VAE", "vq-vae"), ("VQ-GAN", "vq"), ("VQ-GAN, papers' start", "vq-uniform"), ("Gumbel-VQ", "gumbel"),
        ("CVQ", "cvq"), ("VQCT", "vqct"), ("VQCT, paper's start and ReLU", "vqct-paper"),
    ),
    (
        Claim("VQCT has a higher PSNR than VQ-GAN, Gumbel-VQ and CVQ", ("vqct", "vq", "gumbel", "cvq"), "psnr",
              "above_all"),
        Claim("The same of VQ-GAN, both as the papers start them", ("vq-uniform", "vqct-paper")),
        Claim("VQCT has the lowest FID of all", ("vqct", "vq-vae", "vq", "gumbel", "cvq"), "fd_clip", "below_all",
              0.1),
        Claim("VQCT has the lowest l1 but for VQ-VAE's", ("vqct", "vq", "gumbel", "cvq"), "l1", "below_all"),
        Claim("Perceptual and adversarial loss lower the FID: VQ-GAN is far below VQ-VAE", ("vq-vae", "vq"),
              "fd_clip", "falls", 0.1),
        Claim("More of VQCT's codes are used than of VQ-GAN's (Figure 5)", ("vq", "vqct"), "utilisation"),
    ),
    PIXELS,
)  # fmt: skip

OF_LIKE_BITS = ("vqct", "vq-k4096", "fc-k4096", "ema-k4096", "lc-k4096")
EQUAL_BITS = BoardTable(
    "VQCT at equal bits",
    "No table of the paper's: its comparisons are at equal numbers of codes, where two indices a position cost more. "
    "Here the other methods have 4,096 codes, so that an image costs them nearly what it costs VQCT.",
    (
        ("VQ-GAN", "vq-k4096"), ("VQGAN-FC", "fc-k4096"), ("VQGAN-EMA", "ema-k4096"), ("VQGAN-LC", "lc-k4096"),
        ("VQCT", "vqct"),
    ),
    (
        Claim("VQCT's higher PSNR than VQ-GAN's is not bought with bits", ("vq-k4096", "vqct")),
        Claim("VQCT is above every method of its bits", OF_LIKE_BITS, "psnr", "above_all"),
        Claim("The same by FID", OF_LIKE_BITS, "fd_clip", "below_all", 0.1),
    ),
    ("bits_per_image", *QUALITY),
)  # fmt: skip

PRETRAINED = BoardTable(
    "VQCT Table 2: the pretrained codebook",
    "RI: random vectors in place of the words', and an MLP as transfer network. The word vectors are those of the "
    "run's own CLIP, fitted to its captions; the paper's are of a CLIP pretrained on 400 million pairs.",
    (("(i) baseline (VQ-GAN)", "vq"), ("(ii) VQCT (RI)", "vqct-random-mlp"), ("(iii) VQCT", "vqct")),
    (
        Claim("Two random codebooks behind an MLP are better than VQ-GAN", ("vq", "vqct-random-mlp")),
        Claim("Word vectors and graph are better than random vectors", ("vqct-random-mlp", "vqct")),
        Claim("The same by FID", ("vqct-random-mlp", "vqct"), "fd_clip", "falls", 0.1),
    ),
    PIXELS,
)

TRANSFER = BoardTable(
    "VQCT Table 3: the transfer network",
    "SCB: adjectives and nouns as one codebook, one index a position; MCB: as two. Rows (i) and (ii) take the "
    "word vectors themselves as codes (64 dimensions), frozen and trained.",
    (
        ("(i) baseline: frozen words", "vqct-single-frozen"), ("(ii) + finetune", "vqct-single-tuned"),
        ("(iii) + SCB + MLP", "vqct-single-mlp"), ("(iv) + SCB + GCN", "vqct-single-gcn"),
        ("(v) + MCB + MLP", "vqct-mlp"), ("(vi) + MCB + GCN (VQCT)", "vqct"),
    ),
    (
        Claim("Finetuning the words is better than freezing them", ("vqct-single-frozen", "vqct-single-tuned")),
        Claim("One codebook: a GCN is better than finetuning", ("vqct-single-tuned", "vqct-single-gcn")),
        Claim("One codebook: a GCN is better than an MLP", ("vqct-single-mlp", "vqct-single-gcn")),
        Claim("Two codebooks: a GCN is better than an MLP", ("vqct-mlp", "vqct")),
        Claim("MLP: two codebooks are better than one", ("vqct-single-mlp", "vqct-mlp")),
        Claim("GCN: two codebooks are better than one", ("vqct-single-gcn", "vqct")),
    ),
    PIXELS,
)  # fmt: skip

BACKBONES = BoardTable(
    "VQCT Table 4: other backbones",
    "The VQ-VAE backbone is the same trunk with the pixel loss alone.",
    (
        ("(i) VQ-VAE", "vq-vae"), ("VQ-VAE + VQCT", "vqct-vae"), ("(ii) VQGAN", "vq"), ("VQGAN + VQCT", "vqct"),
    ),
    (
        Claim("VQCT raises VQ-VAE", ("vq-vae", "vqct-vae")),
        Claim("VQCT lowers VQ-VAE's FID", ("vq-vae", "vqct-vae"), "fd_clip", "falls", 0.1),
        Claim("VQCT raises VQGAN", ("vq", "vqct")),
        Claim("VQCT lowers VQGAN's FID", ("vq", "vqct"), "fd_clip", "falls", 0.1),
    ),
    PIXELS,
)  # fmt: skip

VECTORS = BoardTable(
    "VQCT Table 5: language models",
    "No GloVe file could be had, so its row is absent; `random vectors` (normal, behind the same GCN) is no row of "
    "the paper and shows what any vectors give. CLIP is the run's own.",
    (("(i) baseline", "vq"), ("random vectors (not in the paper)", "vqct-random"), ("(iii) + CLIP", "vqct")),
    (
        Claim("GloVe vectors are better than the baseline", untestable=GLOVE),
        Claim("CLIP vectors are better than GloVe's", untestable=GLOVE),
        Claim("CLIP vectors are better than the baseline", ("vq", "vqct")),
        Claim("CLIP vectors are better than random ones behind the same network", ("vqct-random", "vqct")),
    ),
    PIXELS,
)

VQCT_TABLES = (METHODS, EQUAL_BITS, PRETRAINED, TRANSFER, BACKBONES, VECTORS)
