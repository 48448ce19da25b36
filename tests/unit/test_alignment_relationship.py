"""Words, the codes that stand for them, and the cosines that pass from one to the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.small_alignment import CAPTIONS, IDS, PARTS, WORD_DIM, captions, codes, embeddings, params
from vqpipe.alignment.aligner import TextBatch
from vqpipe.alignment.losses import (
    RelationshipAlignment,
    RelationshipParams,
    assign,
    code_vectors,
    word_vectors,
)
from vqpipe.errors import MismatchError
from vqpipe.params.base import validate
from vqpipe.quantizers import Quantized


def module(projection: str, code_dim: int = 8) -> RelationshipAlignment:
    torch.manual_seed(0)
    config = validate({"weight": 1.0, "projection": projection}, "relationship", RelationshipParams)
    return RelationshipAlignment(config, code_dim=code_dim, word_dim=WORD_DIM)


def rows_of(text: TextBatch) -> Tensor:
    return torch.searchsorted(IDS, text.tokens).clamp_max(len(IDS) - 1)


def given(quantized: Quantized, text: TextBatch, seed: int = 3) -> tuple[Any, ...]:
    tokens = torch.randn(len(text.tokens), 12, WORD_DIM, generator=torch.Generator().manual_seed(seed))
    return quantized, tokens, text.words, rows_of(text), embeddings()


def word(ids: list[int]) -> Tensor:
    return embeddings()[torch.searchsorted(IDS, torch.tensor(ids))].mean(0)


@pytest.mark.parametrize(("projection", "dims"), [("none", (8,)), ("mlp", (8,)), ("mlp", (3, 5))])
def test_the_loss_is_the_formula(projection: str, dims: tuple[int, ...]) -> None:
    """Equations 7 and 8 in loops; with two groups a code is both vectors together; a caption of one word has no
    pair."""
    text, quantized, own = captions([*CAPTIONS, [[300]]]), codes(4, dims), module(projection)
    arguments = given(quantized, text)
    tokens, means = arguments[1], []
    for row, caption in enumerate(CAPTIONS):
        vectors, found = [word(ids) for ids in caption], []
        for vector in vectors:
            best = max(range(12), key=lambda j, v=vector: float(cosine_similarity(v, tokens[row, j], dim=0)))  # type: ignore[misc]
            y, x = divmod(best, 4)
            parts = [
                codebook[quantized.indices[row, g, y, x]] for g, codebook in enumerate(quantized.vectors)
            ]
            found.append(own.projection(torch.cat(parts)))
        errors = [
            (cosine_similarity(found[i], found[j], dim=0) - cosine_similarity(vectors[i], vectors[j], dim=0))
            ** 2
            for i in range(len(vectors))
            for j in range(i)
        ]
        means.append(torch.stack(errors).mean())
    torch.testing.assert_close(own(*arguments), torch.stack(means).mean(), rtol=1e-4, atol=1e-6)


def test_the_gradient_reaches_the_codes_of_the_words_alone() -> None:
    text, quantized, own = captions(CAPTIONS), codes(3), module("mlp")
    arguments = given(quantized, text)
    own(*arguments).backward()
    found = own.relations(*arguments)
    used = quantized.indices.flatten(2)[:, 0].gather(1, found.positions)[found.present]
    grad = quantized.vectors[0].grad
    assert grad is not None
    moved = set(grad.abs().sum(dim=1).nonzero().flatten().tolist())
    assert moved
    assert moved <= set(used.tolist())  # fewer, where one code stands for both words of every pair
    assert quantized.z_q.grad is None


def test_the_assignment_is_permutation_equivariant() -> None:
    text, quantized, own = captions(CAPTIONS), codes(3, (3, 5)), module("mlp")
    _, tokens, *rest = given(quantized, text)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turned = replace(quantized, indices=quantized.indices.flatten(2)[..., order].view(3, 2, 3, 4))
    before, after = own.relations(quantized, tokens, *rest), own.relations(turned, tokens[:, order], *rest)
    assert torch.equal(order[after.positions][before.present], before.positions[before.present])
    assert len(before.positions[before.present].unique()) > 3
    pairs = before.present[:, :, None] & before.present[:, None, :]
    torch.testing.assert_close(before.codes[pairs], after.codes[pairs])
    # Neither do the words' order and length matter.
    words, present = word_vectors(text.words, rows_of(text), embeddings())
    turn = torch.randperm(words.shape[1], generator=torch.Generator().manual_seed(2))
    again = assign(words[:, turn] * 7.0, tokens * 0.1)
    assert torch.equal(again[present[:, turn]], assign(words, tokens)[:, turn][present[:, turn]])


def test_words_are_means_of_their_pieces() -> None:
    text = captions(CAPTIONS)
    found, present = word_vectors(text.words, rows_of(text), embeddings())
    assert present.sum(dim=1).tolist() == [4, 6, 2]
    torch.testing.assert_close(found[0, 1], word([301, 302]))
    torch.testing.assert_close(found[1, 1], word([306, 307, 308]))
    assert not found[~present].any()


def test_the_codes_take_on_the_words_cosines() -> None:
    """Trained alone, on one assignment, the codes end with the words' cosines (the paper's Table 4)."""
    text, quantized, own = captions(CAPTIONS), codes(3, num_codes=64), module("none")
    arguments = given(quantized, text)
    optimiser = torch.optim.Adam(quantized.vectors, lr=0.03)
    losses = []
    for _ in range(150):
        loss = own(*arguments)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("texts", [[[], []], [[[300]], []], [[[300], [301]], []]])
def test_empty_rows_give_no_nan(texts: list[list[list[int]]]) -> None:
    text, own = captions(texts), module("mlp")
    quantized = codes(2)
    quantized, tokens, *rest = given(
        replace(quantized, vectors=(torch.zeros(16, 8, requires_grad=True),)), text
    )
    loss = own(quantized, torch.zeros_like(tokens), *rest)
    assert loss.isfinite()
    assert (float(loss.detach()) > 0) == (len(texts[0]) == 2)
    loss.backward()
    grads = [quantized.vectors[0].grad, *(p.grad for p in own.parameters())]
    assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_a_quantizer_without_vectors_is_refused() -> None:
    with pytest.raises(MismatchError, match="has none"):
        code_vectors(replace(codes(2), vectors=()), torch.zeros(2, 3, dtype=torch.int64))


def test_losses_in_use() -> None:
    assert params().losses() == ("global", "masked", "relationship")
    assert params("masked").losses() == ("masked",)
    assert params(relationship={**PARTS["relationship"], "weight": 0.0}).losses() == ("global", "masked")
