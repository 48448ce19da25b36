"""The tables of LG-VQ (arXiv 2405.14206) and their claims."""

from __future__ import annotations

from vqpipe.report.scoreboard.claims import Claim, Relation
from vqpipe.report.scoreboard.columns import DIRECTIONS, RANKS
from vqpipe.report.scoreboard.tables import BoardTable

PRETRAINED = (
    "it rests on CLIP pretrained on 400 million pairs; this run's CLIP was fitted to the data set's own "
    "captions"
)
DATA = "it rests on data sets that this run did not have (TextCaps, CelebA-HQ, CUB-200)"
COLUMNS = ("psnr", "ssim", "l1", "clip_distance", "fd_clip", "utilisation", "perplexity_share")
NAMES = {"vq": "VQ-GAN", "cvq": "CVQ", "vqct": "VQCT", "lc": "VQGAN-LC"}
ALIGNED = tuple(f"{row}+lg" for row in NAMES)
BESIDE = tuple(line for row, name in NAMES.items() for line in ((name, row), (f"{name} + LG", f"{row}+lg")))
"""Every backbone and, under it, its aligned form."""

READING = """\
**What the reading numbers are.** Codes say something of a caption where a network that sees nothing of the image but
its codes can tell the caption's words. So every row is read: after it is measured, fresh heads (LG-VQ's own: a
transformer over the codes, masked text prediction, global and relationship alignment) are trained on its *frozen*
codes of the training images, and measured on the test images with one caption each. Plain and aligned rows of one
backbone and seed are read by heads of the same first weights, for the same steps, on the same captions, so that what
differs is the codes. The paper reports what an aligned tokenizer's own heads can do, which a plain one does not have;
those stand beside as `own heads`.

- **Masked words**: the part of the masked words of a caption (one, or three) that the heads predict at first place,
  all byte-pair pieces right. `other image`: the same words, predicted with the codes of another image: what the caption
  alone gives away, and the number to beat. `commonest`: always saying the training captions' most frequent word.
  `chance`: pieces drawn evenly from the vocabulary.
- **Retrieval**: the part of the images whose own caption is among the 1, 5 or 10 most similar of all test captions, and
  of the captions whose image is. `chance` is a random order.
- **Similarity MSE** (Table 4): each word of a caption stands for the code that the heads assign to it; the number is
  the mean squared difference between the cosine of two words and the cosine of their code vectors as they are, without
  a projection, over pairs of different words (a word and its repetition stand for one code, whatever it is). `drawn
  positions`: codes drawn evenly from the image in place of the assigned ones. `one cosine`: the least that codes of one
  and the same cosine could reach; an error above it is not yet knowledge of the words. `correlation` is of the two
  cosines, over pairs. `one position`: the part of the pairs both of whose words one position stands for.
- Claims of a row beside the same row with alignment, and of two numbers of one row, are judged seed by seed (Student's
  t of the differences), since runs of one seed share first weights, batches and test images.
- The intervals over seeds hold the chance of the tokenizer's training, of the heads and of the captions drawn.
- Plain and aligned rows differ in one more thing than the losses: an image whose caption says left or right, every
  eighth, is not mirrored in the training of an aligned one."""


def _read(reader: str, measure: str) -> str:
    return f"read.{reader}.{measure}"


def _each(text: str, metric: str, relation: Relation, margin: float = 0.05) -> tuple[Claim, ...]:
    """The claim of every backbone, its plain row before its aligned one."""
    return tuple(
        Claim(text.format(name), (row, f"{row}+lg"), metric, relation, margin, paired=True)
        for row, name in NAMES.items()
    )


def _beside(text: str, measure: str, other: str, relation: Relation) -> tuple[Claim, ...]:
    """The claim of every aligned row that what its own heads read lies beside another number of its own."""
    return tuple(
        Claim(text.format(name), (f"{row}+lg",) * 2, relation=relation, paired=True,
              metrics=(_read("own", measure), _read("own", other)))
        for row, name in NAMES.items()
    )  # fmt: skip


RECONSTRUCTION = BoardTable(
    "LG-VQ Table 1: reconstruction",
    "The paper's three backbones, plain and aligned; FD-CLIP, in the features of the run's own CLIP, stands for FID. "
    "The global loss aligns codes with text features of the same CLIP, so a lower FD-CLIP may in part come from being "
    "judged by the network that taught.",
    (
        ("VQ-VAE", "vq-vae"), ("VQ-VAE + LG", "vq-vae+lg"), ("VQ-GAN", "vq"), ("VQ-GAN + LG", "vq+lg"),
        ("CVQ", "cvq"), ("CVQ + LG", "cvq+lg"),
    ),
    (
        Claim("Alignment lowers VQ-VAE's FID", ("vq-vae", "vq-vae+lg"), "fd_clip", "falls", 0.1),
        Claim("Alignment lowers VQ-GAN's FID", ("vq", "vq+lg"), "fd_clip", "falls", paired=True),
        Claim("Alignment lowers CVQ's FID", ("cvq", "cvq+lg"), "fd_clip", "falls", paired=True),
        Claim("VQ-VAE loses at most 1 % of PSNR by alignment", ("vq-vae+lg", "vq-vae"),
              "psnr", "no_rise", 0.01),
        Claim("VQ-GAN loses at most 1 % of PSNR", ("vq+lg", "vq"), "psnr", "no_rise", 0.01),
        Claim("CVQ loses at most 1 % of PSNR", ("cvq+lg", "cvq"), "psnr", "no_rise", 0.01),
        Claim("PSNR changes little: VQ-GAN's stays within 2 %", ("vq", "vq+lg"), "psnr", "stays", 0.02),
        Claim("PSNR changes little: CVQ's stays within 2 %", ("cvq", "cvq+lg"), "psnr", "stays", 0.02),
        Claim("Alignment improves the use of VQ-GAN's codes (Figure 7)", ("vq", "vq+lg"), "utilisation", "rises",
              paired=True),
        Claim("It is the semantics of well pretrained text that help", untestable=PRETRAINED),
    ),
    COLUMNS,
)  # fmt: skip

OTHERS = BoardTable(
    "LG-VQ Tables 12 and 13: VQCT, and a backbone that the paper does not have",
    "VQCT and VQGAN-LC, plain and aligned; VQCT spends two indices a position. VQGAN-LC is not in the paper: its codes "
    "are frozen, and alignment can move its projector alone.",
    (
        ("VQCT", "vqct"), ("VQCT + LG", "vqct+lg"), ("VQ-GAN + LG", "vq+lg"), ("CVQ + LG", "cvq+lg"),
        ("VQGAN-LC", "lc"), ("VQGAN-LC + LG", "lc+lg"),
    ),
    (
        Claim("Alignment lowers VQCT's FID (Table 13)", ("vqct", "vqct+lg"), "fd_clip", "falls", paired=True),
        Claim("VQCT's FID is below that of VQ-GAN + LG (Table 12)", ("vqct", "vq+lg"), "fd_clip", "below_all"),
        Claim("Alignment lowers VQGAN-LC's FID (not in the paper)", ("lc", "lc+lg"), "fd_clip", "falls", paired=True),
        Claim("VQCT loses at most 1 % of PSNR by alignment", ("vqct+lg", "vqct"),
              "psnr", "no_rise", 0.01),
        Claim("VQGAN-LC loses at most 1 % of PSNR", ("lc+lg", "lc"), "psnr", "no_rise", 0.01),
    ),
    COLUMNS,
)  # fmt: skip

_GAINS: tuple[tuple[str, str, Relation, float], ...] = (
    ("Fresh heads read more of one masked word", _read("fresh", "masked_1.recall"), "rises", 0.05),
    ("Fresh heads find more captions", _read("fresh", "image_to_text.r10"), "rises", 0.05),
    ("Codes relate more as words do (MSE falls)", _read("fresh", "similarity.raw.mse"), "falls", 0.05),
    ("PSNR stays within 2 %", "psnr", "stays", 0.02),
)

STEPS = ("vq", "vq+global", "vq+masked", "vq+masked+relationship", "vq+global+masked", "vq+lg")
ABLATION = BoardTable(
    "LG-VQ Table 2: the losses",
    "Each loss alone and combined, on VQ-GAN. Rows between the first and the last have one seed, and FD-CLIP then no "
    "interval: read differences below the rows' own spread as none. The relationship loss alone is not in the paper, "
    "since which code stands for a word is found by a network that only the other losses train.",
    (
        ("(i) baseline (VQ-GAN)", "vq"), ("(ii) + global", "vq+global"), ("(iii) + masked", "vq+masked"),
        ("+ relationship (not in the paper)", "vq+relationship"),
        ("(iv) + masked + relationship", "vq+masked+relationship"), ("(v) + global + masked", "vq+global+masked"),
        ("(vi) + all three (LG-VQ)", "vq+lg"),
    ),
    (
        Claim("Global alignment lowers the FID", ("vq", "vq+global"), "fd_clip", "falls"),
        Claim("Masked text prediction lowers the FID", ("vq", "vq+masked"), "fd_clip", "falls"),
        Claim("The relationship loss beside the masked one lowers it further", ("vq+masked", "vq+masked+relationship"),
              "fd_clip", "falls"),
        Claim("Global and masked together lower the FID", ("vq", "vq+global+masked"), "fd_clip", "falls"),
        Claim("All three have the lowest FID of all", tuple(reversed(STEPS)), "fd_clip", "below_all"),
        Claim("The relationship loss alone lowers the similarity MSE (not in the paper)", ("vq", "vq+relationship"),
              _read("fresh", "similarity.raw.mse"), "falls"),
        Claim("Masked text helps more than global alignment where captions are richer (TextCaps against CUB-200)",
              untestable=DATA),
    ),
    (*COLUMNS, _read("fresh", "similarity.raw.mse")),
)  # fmt: skip

STRONGER = ("vq+lg-x10", "vq+lg-x30")
WEIGHTS = BoardTable(
    "LG-VQ's weights, not in the paper",
    "All three losses on VQ-GAN with ten and thirty times their weights: whether codes could say more of captions than "
    "they do, and what that costs. One seed each but for the first two rows.",
    (("VQ-GAN", "vq"), ("+ LG", "vq+lg"), ("+ LG, ten times", "vq+lg-x10"), ("+ LG, thirty times", "vq+lg-x30")),
    tuple(
        Claim(f"{text} with {times} times the weights", ("vq", row), metric, relation, margin)
        for row, times in zip(STRONGER, ("ten", "thirty"), strict=True)
        for text, metric, relation, margin in _GAINS
    ),
    ("psnr", "fd_clip", "utilisation", "perplexity_share", *(
        _read("fresh", name)
        for name in ("masked_1.recall", "masked_1.other_image", "masked_1.chance", "image_to_text.r10",
                     "image_to_text.chance_r10", "similarity.raw.mse", "similarity.raw.chance",
                     "similarity.raw.correlation")
    )),
)  # fmt: skip

MOST = 0.5
MASKED = tuple(
    BoardTable(
        f"LG-VQ Table 3: {words} masked",
        "What the codes and the rest of the caption say of masked words, beside what the caption says with another "
        "image's codes, the commonest word and chance.",
        BESIDE,
        (
            Claim(f"LG-VQ's own heads predict most words right ({paper})", ALIGNED,
                  _read("own", f"masked_{count}.recall"), "at_least", MOST),
            *_beside("{} + LG: its own heads read the words from the codes, not from the caption alone",
                     f"masked_{count}.recall", f"masked_{count}.other_image", "above_all"),
            *_each("{}: fresh heads read more of the words from aligned codes (not in the paper)",
                   _read("fresh", f"masked_{count}.recall"), "rises"),
        ),
        tuple(_read(*name) for name in (
            ("fresh", f"masked_{count}.recall"), ("fresh", f"masked_{count}.other_image"),
            ("own", f"masked_{count}.recall"), ("own", f"masked_{count}.other_image"),
            ("fresh", f"masked_{count}.commonest"), ("fresh", f"masked_{count}.chance"),
        )),
    )
    for count, words, paper in (
        (1, "one word", "83.65 % on CUB-200, 99.55 % on CelebA-HQ"),
        (3, "three words", "80.17 % on CUB-200, 99.24 % on CelebA-HQ"),
    )
)  # fmt: skip

RETRIEVAL = tuple(
    BoardTable(
        f"LG-VQ Figure {figure}: retrieval, {words}",
        "The paper shows examples and no numbers, so the claims are judged by R@10, the part that counts most queries.",
        BESIDE,
        (
            *_beside("{} + LG: its own heads find more than chance does", f"{direction}.r10", f"{direction}.chance_r10",
                     "above_all"),
            *_each("{}: fresh heads find more with aligned codes (not in the paper)",
                   _read("fresh", f"{direction}.r10"), "rises"),
        ),
        tuple(name for rank in RANKS for name in (
            _read("fresh", f"{direction}.r{rank}"), _read("own", f"{direction}.r{rank}"),
            _read("fresh", f"{direction}.chance_r{rank}"),
        )),
    )
    for direction, words, figure in zip(DIRECTIONS, DIRECTIONS.values(), ("4", "4, the other way"), strict=True)
)  # fmt: skip

RAW = "similarity.raw.mse"
SIMILARITY = BoardTable(
    "LG-VQ Table 4: similarity of words and of their codes",
    "Mean squared difference of cosines; the paper has 0.6374 for VQ-GAN and 0.0351 for VQ-GAN + LG, and does not say "
    "how a plain tokenizer's codes are assigned to words, which fresh heads do here.",
    BESIDE,
    (
        *_each("{}: codes relate as words do, MSE by fresh heads falls", _read("fresh", RAW), "falls"),
        *(
            Claim(f"{name}: MSE by its own heads lies below the plain row's", (f"{row}+lg", row), relation="below_all",
                  paired=True,
                  metrics=(_read("own", RAW), _read("fresh", RAW)))
            for row, name in NAMES.items()
        ),
        *_beside("{} + LG: MSE by its own heads lies below what one cosine all over would reach", RAW,
                 "similarity.constant", "below_all"),
        *_each("{}: the cosines of words and codes correlate more with alignment",
               _read("fresh", "similarity.raw.correlation"), "rises"),
    ),
    tuple(_read(*name) for name in (
        ("fresh", RAW), ("own", RAW), ("fresh", "similarity.raw.chance"), ("fresh", "similarity.constant"),
        ("fresh", "similarity.raw.correlation"), ("own", "similarity.raw.correlation"),
        ("fresh", "similarity.same_position"),
    )),
)  # fmt: skip

LANGUAGE_TABLES = (RECONSTRUCTION, OTHERS, ABLATION, WEIGHTS, *MASKED, *RETRIEVAL, SIMILARITY)
