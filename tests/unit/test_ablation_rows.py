"""Every row of VQCT's tables 2 to 5 and VQGAN-LC's tables 6 to 10 that params can say: it builds from a small prior
and takes one training step that moves what it trains and nothing that it keeps frozen.

Rows that need other pretrained weights (table 6's ResNet-50 and ViT-B towers) differ by their prior alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.codebook_folders import write_patches
from tests.recipes import GCN, LC, VQ, VQCT
from tests.tiny import TOKENIZER
from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.codebooks.patches import PatchesCodebook, read_patches_codebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.params.base import merged, validate
from vqpipe.quantizers import build
from vqpipe.text.glove import GloveVectors
from vqpipe.text.vectors import word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos
from vqpipe.tokenizers.objective import TokenizerObjective
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.tokenizers.train import check_codebook
from vqpipe.vision.cluster import ClusterParams, write_patches_codebook

ADJECTIVES, NOUNS = ["red", "old", "tall"], ["cat", "sea", "red", "tree"]
EDGES = torch.tensor([[0, 0, 1, 2], [0, 2, 1, 3]])
WORD_DIM = CENTROID_DIM = 6


@dataclass(frozen=True)
class Row:
    """A row: the prior it needs by name, and the variant's params over the common ones."""

    prior: str
    quantizer: dict[str, Any]
    over: dict[str, Any]
    trained: set[str]
    """Modules and tensors of the quantizer that the step must move."""


def row(prior: str, quantizer: dict[str, Any], trained: str, **over: Any) -> Row:
    return Row(prior, quantizer, over, set(trained.split()))


SMALL = {"dim": 4, "beta": 0.25, "beta_on": "commitment"}
NARROW = {**GCN, "hidden_dim": 6, "final_relu": False}
MLP = {name: value for name, value in NARROW.items() if name != "edge_weights"} | {"kind": "mlp"}
REFERENCE = {**NARROW, "num_layers": 2, "dropout": 0.5, "edge_weights": "count"}
BASE = {**VQ, **SMALL}
MCB = {**VQCT, **SMALL, "transfer": NARROW}
SCB = {**MCB, "codebooks": "single"}
ALONE = {**SCB, "transfer": {"kind": "none"}, "dim": WORD_DIM}
PROJECTED = {**LC, **SMALL, "num_codes": 12, "beta": 0.33, "beta_on": "codebook"}
PLAIN = {"perceptual": {"kind": "none"}, "perceptual_weight": 0.0, "adversarial": {"weight": 0.0}}
WIDE = {"latent_init": "standard"}

ROWS = {
    "vqct-2-vqgan": row("none", BASE, "codes"),
    "vqct-2-random": row("words", {**MCB, "transfer": MLP, "words": "random"}, "transfer"),
    "vqct-2-random-tuned": row(
        "words",
        {**MCB, "transfer": MLP, "words": "random", "trainable_words": True},
        "transfer adjective_vectors noun_vectors",
    ),
    "vqct-2-vqct": row("words", MCB, "transfer"),
    "vqct-3-baseline": row("words", ALONE, "", **WIDE),
    "vqct-3-finetune": row(
        "words", {**ALONE, "trainable_words": True}, "adjective_vectors noun_vectors", **WIDE
    ),
    "vqct-3-scb-mlp": row("words", {**SCB, "transfer": MLP}, "transfer"),
    "vqct-3-scb-gcn": row("words", SCB, "transfer"),
    "vqct-3-mcb-mlp": row("words", {**MCB, "transfer": MLP}, "transfer"),
    "vqct-3-mcb-gcn": row("words", MCB, "transfer"),
    "vqct-paper": row("words", {**MCB, "transfer": {**NARROW, "final_relu": True}}, "transfer"),
    "vqct-reference": row("words", {**MCB, "transfer": REFERENCE, "topk_adjectives": 2}, "transfer"),
    "vqct-4-vqvae": row("none", BASE, "codes", losses=PLAIN),
    "vqct-4-vqvae-vqct": row("words", MCB, "transfer", losses=PLAIN),
    "vqct-5-glove": row("glove", MCB, "transfer"),
    "lc-6-random": row("patches", {**PROJECTED, "source": "random"}, "projector"),
    "lc-6-selection": row("selection", PROJECTED, "projector"),
    "lc-6-kmeans": row("patches", PROJECTED, "projector"),
    **{f"lc-7-k{k}": row("patches", {**PROJECTED, "num_codes": k}, "projector") for k in (2, 6, 12)},
    "lc-8-another-data-set": row("elsewhere", PROJECTED, "projector"),
    "lc-9-no-projector": row(
        "patches", {**PROJECTED, "projector": False, "dim": CENTROID_DIM}, "", latent_init="standard"
    ),
    "lc-9-trainable": row("patches", {**PROJECTED, "trainable": True}, "projector centroids"),
    "lc-9-default": row("patches", {**PROJECTED, "distance": "euclidean"}, "projector"),
    **{f"lc-10-d{d}": row("patches", {**PROJECTED, "dim": d}, "projector", **WIDE) for d in (2, 4, 16)},
}


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainedCodebook]:
    """The priors of all rows, those that the stages make differently as they make them."""
    folder = tmp_path_factory.mktemp("priors")
    draw = torch.Generator().manual_seed(0)
    lines = [
        f"{word} {' '.join(map(str, torch.randn(5, generator=draw).tolist()))}\n"
        for word in dict.fromkeys([*ADJECTIVES, *NOUNS])
    ]
    (folder / "glove.txt").write_text("".join(lines))
    vocabulary = Vocabulary(WordnetPos(kind="wordnet"), dict.fromkeys(ADJECTIVES, 2), dict.fromkeys(NOUNS, 2))
    glove = GloveVectors(kind="glove", path=str(folder / "glove.txt"), dim=5, unknown="error", seed=0)
    found = word_vectors(vocabulary, glove, lambda: pytest.fail("no CLIP is needed"))
    clip_like = [torch.randn(len(kind), WORD_DIM, generator=draw) for kind in (ADJECTIVES, NOUNS)]
    weights = torch.tensor([1.0, 3.0, 2.0, 1.0])
    patches = write_patches(folder / "patches", torch.randn(60, CENTROID_DIM, generator=draw))
    write_patches(folder / "others", torch.randn(60, CENTROID_DIM, generator=draw) * 2 + 1)
    return {
        "none": None,
        "words": WordsCodebook(ADJECTIVES, NOUNS, *clip_like, EDGES, weights),
        "glove": WordsCodebook(ADJECTIVES, NOUNS, found.adjectives, found.nouns, EDGES, weights, found.facts),
        "patches": cluster(patches, "kmeans"),
        "selection": cluster(patches, "selection"),
        "elsewhere": cluster(folder / "others", "kmeans"),
    }


def cluster(patches: Path, method: str) -> PatchesCodebook:
    section = {
        "num_clusters": 12, "method": method, "algorithm": "torch", "start": "random", "num_iterations": 3, "seed": 0,
        "spherical": False, "prefixes": [2, 6], "pull": 0.0,
    }  # fmt: skip
    out = patches.with_name(f"{patches.name}-{method}")
    write_patches_codebook(patches, validate(section, "cluster", ClusterParams), out)
    return read_patches_codebook(out)


def starts(this: Row) -> list[str]:
    """The values of `init` that a row's quantizer has."""
    if this.prior == "none":
        return ["uniform", "data"]
    return ["standard", "data"] if {"transfer", "projector"} & this.trained else ["standard"]


@pytest.mark.parametrize(
    ("name", "start"), [(name, start) for name, this in ROWS.items() for start in starts(this)]
)
def test_it_builds_and_trains_what_it_should(
    name: str, start: str, priors: dict[str, PretrainedCodebook]
) -> None:
    this = ROWS[name]
    prior = priors[this.prior]
    kind = "none" if prior is None else "words" if isinstance(prior, WordsCodebook) else "patches"
    section = merged(TOKENIZER, {"losses": {"adversarial": {"weight": 0.5, "start": 0.0}}})
    section = merged(section, {"quantizer": {**this.quantizer, "init": start}, "codebook": kind, **this.over})
    config = validate(section, "tokenizer", TokenizerParams)
    assert check_codebook(config, prior, None) is None
    torch.manual_seed(0)
    tokenizer = Tokenizer(config, build(config.quantizer, prior))
    with torch.no_grad():  # spread latents: they take codes of both kinds
        tokenizer.quant_conv.weight.mul_(10)
    training = TokenizerObjective(config, tokenizer, None)
    assert training.phases == (("ae",) if this.over.get("losses") is PLAIN else ("ae", "disc"))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert isinstance(tokenizer.quantizer, torch.nn.Module)
    if start == "data":
        tokenizer.quantizer.initialise(tokenizer.encode_latent(images))  # type: ignore[operator]
    before = {part: tensor.clone() for part, tensor in tokenizer.state_dict().items()}
    for phase in training.phases:
        weights = [weight for group in training.parameters(phase) for weight in group["params"]]
        optimiser = torch.optim.Adam(weights, lr=0.01)
        loss, terms = training.loss(phase, images + 0.1, 0.5)
        assert loss.isfinite(), terms
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    moved = {part for part, tensor in tokenizer.state_dict().items() if not torch.equal(tensor, before[part])}
    quantizer = {part.split(".")[1] for part in moved if part.startswith("quantizer.")}
    assert quantizer == this.trained
    assert any(part.startswith("encoder.") for part in moved)
    assert any(part.startswith("decoder.") for part in moved)
    with torch.no_grad():
        tokenizer.eval()
        indices = tokenizer.encode(images)
        assert torch.equal(tokenizer.decode(indices), tokenizer(images)[0])


def test_selection_is_of_the_patches_and_k_means_is_not(priors: dict[str, PretrainedCodebook]) -> None:
    selected, means = priors["selection"], priors["patches"]
    assert isinstance(selected, PatchesCodebook)
    assert isinstance(means, PatchesCodebook)
    assert torch.equal(selected.vectors, selected.vectors.half().float())  # patches are stored so
    assert not torch.equal(means.vectors, means.vectors.half().float())
    assert list(means.prefixes) == [2, 6, 12]
