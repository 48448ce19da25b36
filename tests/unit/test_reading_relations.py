"""How codes relate beside how words do: LG-VQ's equation 8, one pair at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.small_alignment import IDS, captions
from tests.small_reading import EIGHT, aligner, config, frozen, measured
from vqpipe.reading.measure import measure_reading
from vqpipe.reading.words import relate


def test_relations_are_those_of_equation_8_one_pair_at_a_time() -> None:
    found, model, codes = measured(), aligner().requires_grad_(False), frozen()
    assert model.relationship is not None
    raw: list[float] = []
    projected: list[float] = []
    same: list[float] = []
    words: list[list[float]] = []
    for row, own in enumerate(EIGHT):
        tokens = model.code_transformer(codes.quantized(codes.rows([row])).z_q).tokens[0]
        at = [
            torch.stack(
                [model.vocabulary.embeddings[model.vocabulary.ids == token][0] for token in word]
            ).mean(dim=0)
            for word in own
        ]
        places = [int(cosine_similarity(word[None], tokens).argmax()) for word in at]
        vectors = [codes.vectors[0][codes.indices[row, 0].flatten()[place]] for place in places]
        pairs = [(i, j) for i, j in itertools.combinations(range(len(own)), 2) if own[i] != own[j]]
        if not pairs:
            continue
        wanted = [cosine_similarity(at[i], at[j], dim=0) for i, j in pairs]
        words.append([float(w) for w in wanted])
        for values, through in ((raw, torch.nn.Identity()), (projected, model.relationship.projection)):
            got = [cosine_similarity(through(vectors[i]), through(vectors[j]), dim=0) for i, j in pairs]
            values.append(float(np.mean([float(g - w) ** 2 for g, w in zip(got, wanted, strict=True)])))
        same.append(float(np.mean([places[i] == places[j] for i, j in pairs])))
    part = found.metrics["similarity"]
    assert part["num_captions"] == 7
    assert part["num_left_out"] == 1
    assert part["raw"]["mse"]["mean"] == pytest.approx(np.mean(raw), rel=1e-4)
    assert part["projected"]["mse"]["mean"] == pytest.approx(np.mean(projected), rel=1e-4)
    assert part["same_position"] == pytest.approx(np.mean(same))
    mean = np.mean([np.mean(own) for own in words])
    assert part["constant"] == pytest.approx(
        np.mean([np.mean((np.array(own) - mean) ** 2) for own in words]), rel=1e-4
    )


def test_a_word_and_its_repetition_are_no_pair() -> None:
    """They stand for one position, so that their codes agree whatever the codes are."""
    one, two, pieces = [300], [301], [302, 303]
    text = captions([[one, two, one], [one, one], [pieces, [302], pieces, two], [two]])
    model, codes = aligner().requires_grad_(False), frozen()
    quantized = codes.quantized(codes.rows([0, 1, 2, 3]))
    drawn = torch.arange(4 * 8).reshape(4, 8) % 16
    found = relate(model, quantized, model.code_transformer(quantized.z_q), text, drawn)
    assert [row.nonzero().tolist() for row in found.pairs] == [
        [[0, 1], [1, 2]], [], [[0, 1], [0, 3], [1, 2], [1, 3], [2, 3]], [],
    ]  # fmt: skip
    assert found.words[0, 0, 2] == pytest.approx(1.0)
    assert found.codes["raw"][0, 0, 2] == pytest.approx(1.0)
    assert np.isnan(found.errors("raw")).tolist() == [False, True, False, True]


def test_saying_every_word_twice_changes_no_relation() -> None:
    draws = np.random.default_rng(0)
    texts = [[[int(id)] for id in draws.choice(IDS[2:-2], 4, replace=False)] for _ in EIGHT]
    once, twice = (
        measure_reading(
            aligner(), frozen(), captions([own * times for own in texts]), config(masked_counts=[1]), {}
        ).metrics["similarity"]
        for times in (1, 2)
    )
    for name in ("constant", "same_position"):
        assert twice[name] == pytest.approx(once[name], rel=1e-5)
    for name in ("raw", "projected"):
        assert twice[name]["correlation"] == pytest.approx(once[name]["correlation"], rel=1e-5)
        assert twice[name]["mse"]["mean"] == pytest.approx(once[name]["mse"]["mean"], rel=1e-5)
