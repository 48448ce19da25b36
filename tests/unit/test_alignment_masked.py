"""Masked text prediction: which words are masked, what the predictor sees, and that its logits reach what it needs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.small_alignment import (
    CAPTIONS,
    END,
    IDS,
    MASKED,
    PARTS,
    START,
    WORD_DIM,
    captions,
    codes,
    embeddings,
    make,
    params,
)
from vqpipe.alignment.aligner import Aligner, AlignParams, CorpusVocabulary, TextBatch
from vqpipe.alignment.losses import (
    MaskedParams,
    MaskedText,
    mask_by_ratio,
    truncated_normal,
)
from vqpipe.errors import MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.quantizers import Quantized


def section(**changes: float) -> MaskedParams:
    return validate({**MASKED, **changes}, "masked", MaskedParams)


@pytest.mark.parametrize(
    ("mean", "std", "low", "high"), [(0.5, 0.1, 0.1, 0.3), (0.25, 0.2, 0.0, 1.0), (0.1, 0.05, 0.3, 0.6)]
)
def test_ratios_follow_the_truncated_normal(mean: float, std: float, low: float, high: float) -> None:
    torch.manual_seed(0)
    drawn = truncated_normal(section(mean=mean, std=std, low=low, high=high), (20_000,))
    assert low <= float(drawn.min()) < float(drawn.max()) <= high
    known = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    assert stats.kstest(drawn.numpy(), known.cdf).pvalue > 1e-3
    assert float(drawn.mean()) == pytest.approx(known.mean(), abs=4 * known.std() / 20_000**0.5)
    if (mean, low) == (0.5, 0.1):
        assert float(drawn.mean()) == pytest.approx(0.263, abs=1e-3)


def test_one_point_is_a_ratio_and_an_unlikely_one_is_refused() -> None:
    assert truncated_normal(section(low=0.25, high=0.25), (4,)).tolist() == [0.25] * 4
    with pytest.raises(ParamsError, match="5 standard deviations"):
        section(mean=0.9, low=0.1, high=0.3)
    with pytest.raises(ParamsError, match="above high"):
        section(low=0.4)


def test_whole_words_are_masked_and_one_at_least() -> None:
    torch.manual_seed(0)
    text = captions([*CAPTIONS, []])
    seen = torch.zeros(text.words.shape)
    for _ in range(300):
        masked = mask_by_ratio(section(), text.words)
        for row, words in enumerate(text.words):
            chosen = {int(w) for w in words[masked[row]]}
            assert -1 not in chosen, "start, end or padding is masked"
            assert (len(chosen) >= 1) == (row < 3)
            assert torch.equal(masked[row], torch.isin(words, torch.tensor(sorted(chosen or {-2}))))
        seen += masked
    assert (seen[text.words >= 0] > 0).all()
    assert not seen[3].any()


def test_the_share_of_masked_words_is_the_ratio() -> None:
    torch.manual_seed(0)
    words = torch.arange(200).repeat(50, 1)
    share = mask_by_ratio(section(low=0.2, high=0.2), words).float().mean()
    assert float(share) == pytest.approx(0.2, abs=0.01)
    assert mask_by_ratio(section(low=1.0, high=1.0, mean=1.0), words).all()


def logits(aligner: Aligner, text: TextBatch, masked: Tensor, tokens: Tensor) -> Tensor:
    assert aligner.masked_text is not None
    real = text.real()
    rows = aligner.vocabulary.rows(text.tokens, real)
    return aligner.masked_text.logits(rows, real, masked, tokens, aligner.vocabulary.embeddings)


def with_word(text: TextBatch, row: int, word: int, ids: list[int]) -> TextBatch:
    tokens = text.tokens.clone()
    tokens[row, text.words[row] == word] = torch.tensor(ids)
    return replace(text, tokens=tokens)


@pytest.mark.parametrize("training", [False, True])
def test_a_masked_word_leaves_no_trace(training: bool) -> None:
    aligner = make(params("masked")).train(training)  # dropout is 0
    text = captions(CAPTIONS)
    tokens = torch.randn(3, 12, WORD_DIM)
    masked = (text.words == 1) & (torch.arange(3) == 1)[:, None]  # the word of three pieces
    before = logits(aligner, text, masked, tokens)
    assert before.shape == (3, len(IDS))
    other = with_word(text, 1, 1, [320, 321, 322])
    assert torch.equal(logits(aligner, other, masked, tokens), before)
    # Any other word is seen there, and so is any code.
    for word, ids in [(0, [320]), (2, [320]), (5, [320]), (4, [310, 321])]:
        assert (logits(aligner, with_word(text, 1, word, ids), masked, tokens) != before).any(dim=1).all()
    moved = tokens.clone()
    moved[1, 7] += 1
    assert (logits(aligner, text, masked, moved) != before).any(dim=1).all()
    # The other captions are not.
    assert torch.allclose(logits(aligner, with_word(text, 0, 0, [320]), masked, tokens), before, atol=1e-6)


def test_the_loss_is_the_mean_over_masked_tokens() -> None:
    aligner = make(params("masked")).eval()
    assert aligner.masked_text is not None
    text, tokens = captions(CAPTIONS), torch.randn(3, 12, WORD_DIM)
    real = text.real()
    rows = aligner.vocabulary.rows(text.tokens, real)
    masked = (text.words == 1) | (text.words == 3)
    loss, accuracy = aligner.masked_text(rows, real, masked, tokens, aligner.vocabulary.embeddings)
    found = logits(aligner, text, masked, tokens)
    target = torch.searchsorted(IDS, text.tokens[masked])
    assert len(target) == 2 + 3 + 1 + 1 + 1
    smooth = -(0.9 * found.log_softmax(1)[range(8), target] + 0.1 * found.log_softmax(1).mean(1)).mean()
    torch.testing.assert_close(loss, smooth)
    torch.testing.assert_close(loss, cross_entropy(found, target, label_smoothing=0.1))
    assert float(accuracy) == float((found.argmax(1) == target).float().mean())


def test_no_masked_word_gives_zero_with_a_graph() -> None:
    aligner = make(params("masked"))
    quantized = codes(2)
    loss, terms = aligner(quantized, captions([[], []]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(terms["align_masked_accuracy"]) == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in aligner.parameters())


def test_a_token_outside_the_vocabulary_is_an_error_and_padding_is_not() -> None:
    vocabulary = CorpusVocabulary(IDS, embeddings())
    text = captions(CAPTIONS)
    assert torch.equal(IDS[vocabulary.rows(text.tokens, text.real())][text.real()], text.tokens[text.real()])
    strange = with_word(text, 2, 1, [777])
    with pytest.raises(MismatchError, match="777"):
        vocabulary.rows(strange.tokens, strange.real())
    with pytest.raises(MismatchError, match="repeat"):
        CorpusVocabulary(torch.cat([IDS, IDS[:1]]), torch.randn(len(IDS) + 1, WORD_DIM))
    with pytest.raises(MismatchError, match="do not fit"):
        CorpusVocabulary(IDS[:-1], embeddings())
    with pytest.raises(MismatchError, match="finite"):
        CorpusVocabulary(IDS, embeddings().fill_(float("nan")))


def test_the_order_of_the_vocabulary_does_not_matter() -> None:
    order = torch.randperm(len(IDS), generator=torch.Generator().manual_seed(0))
    one, two = CorpusVocabulary(IDS, embeddings()), CorpusVocabulary(IDS[order], embeddings()[order])
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.embeddings, two.embeddings)
    assert len(one) == len(IDS)
    assert one.ids[-2:].tolist() == [START, END]


def test_the_decoder_learns_masked_words_from_the_codes() -> None:
    """Each image shows one of four words, which its caption does not say otherwise."""
    torch.manual_seed(0)
    module = MaskedText(
        section(width=32, label_smoothing=0.0), num_heads=2, max_tokens=4, num_tokens=len(IDS), word_dim=WORD_DIM
    )  # fmt: skip
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    shown = torch.randn(4, WORD_DIM)
    accuracies = []
    for _ in range(120):
        word = torch.randint(4, (16,))
        tokens = torch.randn(16, 5, WORD_DIM) * 0.1
        tokens[:, 2] += shown[word]
        rows = torch.stack([torch.full((16,), len(IDS) - 2), word, torch.full((16,), len(IDS) - 1)], dim=1)
        masked = torch.tensor([False, True, False]).expand(16, 3)
        loss, accuracy = module(rows, torch.ones(16, 3, dtype=torch.bool), masked, tokens, embeddings())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        accuracies.append(float(accuracy))
    assert sum(accuracies[-20:]) / 20 > 0.9


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


@pytest.mark.slow
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
