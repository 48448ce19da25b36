"""That the masked-text head can learn: its logits reach what the cross-entropy asks for, and codes are read."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.small_alignment import MASKED, PARTS
from vqpipe.alignment.aligner import Aligner, AlignParams
from vqpipe.alignment.text import CorpusVocabulary, TextBatch
from vqpipe.errors import MismatchError
from vqpipe.params.base import validate
from vqpipe.quantizers import Quantized

CLIPS = [(64, 164, 0.029), (512, 1000, 0.0175)]
"""Width, tokens of the corpus and deviation of the components: a small CLIP fitted on scenes, and about ViT-B/32's."""
SEEN, OTHERS = 10, torch.tensor([300, 301, 302])
"""Words that an image's codes name, as many as there are codes; and three that every caption has."""


def table(width: int, count: int, deviation: float) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1)) * deviation


def aligner(
    embeddings: Tensor, *, width: int = 16, num_heads: int = 2, word_dim_of: str = "masked"
) -> Aligner:
    masked = {**MASKED, "num_layers": 1, "width": width, "label_smoothing": 0.0}
    parts = {name: masked if name == word_dim_of else None for name in PARTS}
    section = {"width": width, "num_layers": 1, "num_heads": num_heads, "max_tokens": 8, **parts}
    torch.manual_seed(0)
    return Aligner(
        validate(section, "align", AlignParams), num_positions=4, latent_dim=6, code_dims=(),
        vocabulary=torch.arange(300, 300 + len(embeddings)), embeddings=embeddings, text_dim=4,
    )  # fmt: skip


@pytest.mark.parametrize(("width", "count", "deviation"), CLIPS)
@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_a_head_that_is_right_pays_next_to_nothing_whatever_the_clips_scale(
    width: int, count: int, deviation: float, factor: float
) -> None:
    vocabulary = CorpusVocabulary(torch.arange(count), factor * table(width, count, deviation))
    embeddings = vocabulary.embeddings
    assert float(embeddings.square().sum(dim=1).mean()) == pytest.approx(1.0, abs=1e-5)
    # The head ends in a layer norm: the best that it can say of a token points along that token's embedding.
    best = torch.nn.functional.layer_norm(embeddings, (width,)) @ embeddings.T
    targets = torch.arange(count)
    assert float(cross_entropy(best, targets)) < 0.1 * math.log(count)
    # Of CLIP's own length they would leave a small CLIP's head at most of what it pays for knowing nothing.
    raw = table(width, count, deviation)
    small = torch.nn.functional.layer_norm(raw, (width,)) @ raw.T
    assert float(cross_entropy(small, targets)) > (0.6 if width == 64 else 0.0) * math.log(count)


@pytest.mark.parametrize(("width", "count", "deviation"), CLIPS)
def test_logits_words_and_positions_start_at_the_same_scale_for_any_clip(
    width: int, count: int, deviation: float
) -> None:
    model = aligner(table(width, count, deviation), width=width).eval()
    head, embeddings = model.masked_text, model.vocabulary.embeddings
    assert head is not None
    rows = torch.randint(count, (16, 8), generator=torch.Generator().manual_seed(2))
    real = torch.ones(16, 8, dtype=torch.bool)
    masked = real.clone()
    masked[:, ::2] = False
    with torch.no_grad():
        found = head.logits(rows, real, masked, torch.randn(16, 4, width), embeddings)
        words = head.into(torch.nn.functional.embedding(rows, embeddings) * math.sqrt(width))
    assert 0.7 < float(found.std()) < 1.4
    ratio = float(head.positions.detach().std() / words.std())
    assert 0.5 < ratio < 2.0


def test_embeddings_of_no_length_are_an_error() -> None:
    with pytest.raises(MismatchError, match="all 0"):
        CorpusVocabulary(torch.arange(3), torch.zeros(3, 4))


def batch(size: int, seed: int) -> tuple[Tensor, TextBatch, Tensor]:
    """Images of four positions, one of which holds a code that names a word; the caption says it at its second place
    between words that are the same for all."""
    draw = torch.Generator().manual_seed(seed)
    names = torch.randint(SEEN, (size,), generator=draw)
    places = torch.randint(4, (size,), generator=draw)
    code = torch.randn(SEEN, 6, generator=torch.Generator().manual_seed(3))
    latent = torch.zeros(size, 6, 4)
    latent[torch.arange(size), :, places] = code[names]
    tokens = torch.stack(
        [OTHERS[0].expand(size), 303 + names, OTHERS[1].expand(size), OTHERS[2].expand(size)], 1
    )
    words = torch.arange(4).expand(size, 4).contiguous()
    text = TextBatch(tokens, torch.full((size,), 4), words, torch.zeros(size, 4))
    return latent.unflatten(2, (2, 2)), text, names


def test_words_that_only_the_codes_tell_are_learnt_and_lost_with_other_codes() -> None:
    model = aligner(table(16, SEEN + 3, 0.02))
    head = model.masked_text
    assert head is not None

    def logits(latent: Tensor, text: TextBatch) -> Tensor:
        rows, masked = model.vocabulary.rows(text.tokens, text.real()), text.words == 1
        codes = model.code_transformer(latent).tokens
        return head.logits(rows, text.real(), masked, codes, model.vocabulary.embeddings)

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95))
    for step in range(200):
        latent, text, names = batch(32, step)
        loss = cross_entropy(logits(latent, text), names + 3)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    latent, text, names = batch(500, 10_000)
    with torch.no_grad():
        own, exchanged = (
            logits(latent, text).argmax(dim=1) - 3,
            logits(latent.roll(1, 0), text).argmax(dim=1) - 3,
        )
    assert float((own == names).float().mean()) > 0.9
    assert float((exchanged == names).float().mean()) < 0.2  # a tenth by chance
    assert float((exchanged == names.roll(1)).float().mean()) > 0.9, (
        "what is said is what the other codes show"
    )
    # The whole path, as a tokenizer's training takes it.
    zero = torch.zeros(())
    loss, terms = model(Quantized(latent, torch.zeros(500, 1, 2, 2).long(), zero, {}, ()), text)
    assert bool(loss.isfinite())
    assert set(terms) == {"align_masked", "align_masked_accuracy"}
