"""What is read from codes: each measure against a slow form, chance, and heads that learn what the codes say."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.small_alignment import captions, params
from tests.small_reading import EIGHT, aligner, config, frozen, measured
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip, write_tokenizer
from vqpipe.alignment.text import TextBatch
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import DataError, MismatchError
from vqpipe.params.base import validate
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.quantizers import build
from vqpipe.reading.frozen_codes import FrozenCodes
from vqpipe.reading.measure import measure_reading
from vqpipe.reading.read import read_tokenizer
from vqpipe.reading.reader import reader_heads, reader_training
from vqpipe.reading.retrieval import chances, recalls
from vqpipe.reading.text import other_images
from vqpipe.reading.words import best_words, commonest_words, draw_masks, word_counts, word_recall
from vqpipe.tokenizers.latent_init import whiten
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip

CPU = torch.device("cpu")


def words_of(mask: Tensor, text: TextBatch, row: int) -> set[int]:
    return set(text.words[row][mask[row]].tolist())


# --- retrieval


def test_recall_is_the_mean_over_every_order_of_equal_scores() -> None:
    scores = torch.tensor([[3.0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 2, 3, 4], [2, 2, 1, 2, 0]])
    right = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 1, 0, 0]]).bool()
    for rank in (1, 2, 3, 5, 9):
        slow = []
        for row, good in zip(scores.tolist(), right.tolist(), strict=True):
            hits = [
                any(good[i] for i in sorted(order, key=lambda i: -row[i])[:rank])
                for order in itertools.permutations(range(5))
            ]
            slow.append(np.mean(hits))
        np.testing.assert_allclose(recalls(scores, right, rank), slow, rtol=1e-12)
        by_chance = [
            np.mean([any(good[i] for i in order[:rank]) for order in itertools.permutations(range(5))])
            for good in right.tolist()
        ]
        np.testing.assert_allclose(chances(right, rank), by_chance, rtol=1e-12)
    assert recalls(torch.zeros(1, 3), torch.zeros(1, 3).bool(), 3).tolist() == [0.0]


def test_retrieval_takes_equal_captions_as_one_text() -> None:
    found = measured()
    assert found.texts.tolist() == [0, 1, 2, 0, 1, 3, 4, 5]
    assert found.scores is not None
    model, codes, text = aligner(), frozen(), captions(EIGHT)
    image = torch.cat(
        [model.code_transformer(codes.quantized(codes.rows([i])).z_q).feature for i in range(8)]
    )
    slow = cosine_similarity(image[:, None], text.features[None], dim=2).detach()
    torch.testing.assert_close(found.scores, slow, atol=1e-5, rtol=0)
    to_text, to_image = [], []
    for i in range(8):
        order = sorted((0, 1, 2, 5, 6, 7), key=lambda j: -float(slow[i, j]))
        to_text.append([int(found.texts[j]) for j in order].index(int(found.texts[i])))
        images = sorted(range(8), key=lambda j: -float(slow[j, i]))
        to_image.append(min(images.index(j) for j in range(8) if found.texts[j] == found.texts[i]))
    for direction, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
        for rank in (1, 5):
            assert found.metrics[direction][f"r{rank}"]["mean"] == np.mean([r < rank for r in ranks])
    assert found.metrics["image_to_text"]["chance_r1"] == pytest.approx(1 / 6)
    assert found.metrics["text_to_image"]["chance_r1"] == pytest.approx((4 * 2 / 8 + 4 * 1 / 8) / 8)


# --- masked words


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_whole_words_are_masked_and_as_many_as_asked(count: int) -> None:
    text = captions(EIGHT)
    mask = draw_masks(text.words, count, seed=3)
    for row, own in enumerate(EIGHT):
        chosen = words_of(mask, text, row)
        assert len(chosen) == (count if len(own) >= count else 0)
        assert mask[row].tolist() == [number in chosen for number in text.words[row].tolist()]
    assert torch.equal(draw_masks(text.words[:4], count, seed=3), mask[:4])
    assert torch.equal(draw_masks(text.words, count, seed=3), mask)


def test_each_word_is_masked_equally_often() -> None:
    words = captions([EIGHT[1]]).words.expand(6000, -1)
    mask = draw_masks(words, 2, seed=0)
    first = mask.gather(1, torch.stack([(words == n).int().argmax(dim=1) for n in range(6)], dim=1))
    np.testing.assert_allclose(first.double().mean(dim=0), 1 / 3, atol=0.03)


def test_a_word_counts_where_all_its_pieces_are_right() -> None:
    words = torch.tensor([[-1, 0, 1, 1, 2, -1], [-1, 0, 0, 0, 1, -1], [-1, 0, 1, -1, -1, -1]])
    masked = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    right = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    np.testing.assert_array_equal(word_recall(right, masked, words), [0.5, 1.0, np.nan])


def test_masked_recall_is_that_of_one_caption_at_a_time() -> None:
    found, model, codes, text = measured(), aligner(), frozen(), captions(EIGHT)
    assert model.masked_text is not None
    table = model.vocabulary
    for count in (1, 3):
        mask = draw_masks(text.words, count, seed=3)
        for name, images in (("recall", np.arange(8)), ("other_image", other_images(8, 3))):
            slow = []
            for row in range(8):
                z_q = codes.quantized(codes.rows([int(images[row])])).z_q
                real = text.real()[row : row + 1]
                rows = table.rows(text.tokens[row : row + 1], real)
                logits = model.masked_text.logits(
                    rows, real, mask[row : row + 1], model.code_transformer(z_q).tokens, table.embeddings
                )
                said = dict(
                    zip(
                        mask[row].nonzero()[:, 0].tolist(),
                        table.ids[logits.argmax(dim=1)].tolist(),
                        strict=True,
                    )
                )
                hits = [
                    all(said[at] == text.tokens[row, at] for at in said if text.words[row, at] == number)
                    for number in sorted(words_of(mask, text, row))
                ]
                slow.append(float(np.mean(hits)) if hits else np.nan)
            np.testing.assert_allclose(found.per_image[f"masked_{count}.{name}"], slow)
        part = found.metrics[f"masked_{count}"]
        long = [len(own) >= count for own in EIGHT]
        assert part["num_captions"] == sum(long)
        assert part["num_left_out"] == 8 - sum(long)


def test_no_image_is_its_own_other() -> None:
    for count in (2, 3, 8, 50):
        others = other_images(count, 0)
        assert sorted(others.tolist()) == list(range(count))
        assert (others != np.arange(count)).all()


def test_chance_is_of_pieces_and_the_commonest_word_of_as_many() -> None:
    found, text = measured(), captions(EIGHT)
    mask = draw_masks(text.words, 1, seed=3)
    pieces = mask.sum(dim=1).double()
    v = float(len(aligner().vocabulary))
    assert found.metrics["masked_1"]["chance"] == pytest.approx(float((v**-pieces).mean()))
    asked = [tuple(text.tokens[row][mask[row]].tolist()) for row in range(8)]
    assert found.metrics["masked_1"]["commonest"] == np.mean([word in ((300,), (301, 302)) for word in asked])
    with pytest.raises(DataError, match="no test caption has 9 words"):
        measured(masked_counts=[9])


def test_the_commonest_words_are_counted_by_their_number_of_pieces() -> None:
    text = captions(EIGHT)
    counts = word_counts(text.tokens.numpy(), text.words.numpy(), np.array([2, 1, 1, 1, 1, 1, 9, 1]))
    slow: Counter[tuple[int, ...]] = Counter()
    for own, uses in zip(EIGHT, (2, 1, 1, 1, 1, 1, 9, 1), strict=True):
        for word in own:
            slow[tuple(word)] += uses
    assert counts == slow
    assert commonest_words(counts) == {1: (322,), 2: (301, 302), 3: (306, 307, 308)}


def test_the_best_words_are_those_of_all_products() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    ids, chance = torch.arange(100, 107), logits.double().softmax(dim=1)
    slow = sorted(
        (
            (float(chance[0, a] * chance[1, b] * chance[2, c]), (100 + a, 100 + b, 100 + c))
            for a, b, c in itertools.product(range(7), repeat=3)
        ),
        reverse=True,
    )
    found = best_words(logits, ids, 5)
    assert [word for word, _ in found] == [word for _, word in slow[:5]]
    np.testing.assert_allclose([p for _, p in found], [p for p, _ in slow[:5]])


def test_collapsed_codes_read_as_chance() -> None:
    found = measured(collapsed=True)
    for rank in (1, 5, 10):
        part = found.metrics["text_to_image"]
        assert part[f"r{rank}"]["mean"] == pytest.approx(part[f"chance_r{rank}"])
    for count in (1, 3):
        part = found.metrics[f"masked_{count}"]
        assert part["recall"] == part["other_image"]
    raw = found.metrics["similarity"]["raw"]
    assert raw["mse"] == raw["chance"]
    assert "correlation" not in raw


def test_what_has_no_head_is_left_out_and_batches_change_nothing() -> None:
    one, other = measured(), measured(batch_size=8)
    assert one.per_image.keys() == other.per_image.keys()
    for name, values in one.per_image.items():
        np.testing.assert_allclose(values, other.per_image[name], atol=1e-5, err_msg=name)
    text, codes = captions(EIGHT), frozen()
    found = measure_reading(aligner("global"), codes, text, config(), {})
    assert set(found.metrics) == {"image_to_text", "text_to_image", "similarity"}
    assert "projected" not in found.metrics["similarity"]
    bare = FrozenCodes(codes.tokenizer, codes.indices, ())
    assert set(measure_reading(aligner("masked"), bare, text, config(), {}).metrics) == {
        "masked_1",
        "masked_3",
    }


def test_the_examples_are_of_the_images_that_were_named() -> None:
    found = measured()
    assert set(found.masks[1]) == {0, 6}
    assert set(found.masks[3]) == {0}
    shown = found.masks[3][0]
    assert [len(logits) for logits in shown.logits] == [len(word) for word in shown.words]
    assert [tuple(EIGHT[0][number]) for number in shown.numbers] == shown.words
    assert [image for images, _ in found.relations for image in images.tolist()] == [0, 6]


# --- the reader


def test_frozen_codes_are_those_of_the_tokenizer_and_decode_to_its_latent(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, {"train": 5, "validation": 1, "test": 2})
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "vq"))
    split = ImageSplit.open(dataset, "train", 16)
    codes = FrozenCodes.encode(tokenizer, split, np.array([4, 0, 2]), 2, CPU)
    images = split.images(0, 5).float() / 127.5 - 1
    assert torch.equal(codes.indices.long(), tokenizer.encode(images)[[4, 0, 2]])
    found = tokenizer.quantizer(tokenizer.encode_latent(images[2:3]), 1.0)
    again = codes.quantized(codes.rows([2]))
    torch.testing.assert_close(again.z_q, found.z_q)
    assert torch.equal(again.vectors[0], found.vectors[0])


def test_a_reader_learns_what_the_codes_say_and_leaves_the_tokenizer_alone(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, {"train": 64, "validation": 2, "test": 32}, templates=["a {} one"])
    clip = Clip.load(write_tiny_clip(tmp_path / "clip"))
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "vq"))
    images = to_float(ImageSplit.open(dataset, "train", 16).images(0, 64))
    with torch.no_grad():  # embeddings of a trained CLIP's length, and codes that tell dark from light
        clip.token_embeddings().mul_(20)
        whiten(tokenizer.quant_conv, tokenizer.encoder(images), torch.Generator().manual_seed(0))
        latents = tokenizer.encode_latent(images).movedim(1, -1).reshape(-1, 4)
        tokenizer.get_parameter("quantizer.codes").copy_(latents[:: len(latents) // 16][:16])
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    training = {
        **TOKENIZER["training"],
        "num_steps": 150,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "log_every": 50,
    }
    training["checkpoint_every"] = 100
    heads = params(max_tokens=8).model_dump(mode="json")
    settings = config(align=heads, training=training, batch_size=16)
    found = read_tokenizer(
        tokenizer, None, dataset, clip, settings, scratch=tmp_path, curves=None, device=CPU, title="read"
    ).metrics["fresh"]
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert found["masked_3"]["recall"]["mean"] > 0.9
    labels = ImageSplit.open(dataset, "test", 16).labels
    same = (labels == labels[other_images(32, settings.seed)]).mean()
    assert found["masked_3"]["other_image"]["mean"] == pytest.approx((2 + same) / 3, abs=0.07)
    assert found["image_to_text"]["r1"]["mean"] > 0.9
    assert found["image_to_text"]["chance_r1"] == 0.5
    assert found["text_to_image"]["r1"]["mean"] > 0.9


def test_heads_and_training_fit_the_tokenizer() -> None:
    tokenizer = frozen().tokenizer
    assert reader_heads(params(), tokenizer) == params()
    taken = reader_training(config(), tokenizer)
    assert taken.num_steps == tokenizer.config.training.num_steps
    own = {**TOKENIZER["training"], "num_steps": 9}
    assert reader_training(config(training=own), tokenizer).num_steps == 9
    fsq = {"kind": "fsq", "dim": 4, "levels": [5, 5, 3, 3], "margin": 0.001, "shift": "atanh"}
    settings = validate({**TOKENIZER, "quantizer": fsq}, "tokenizer", TokenizerParams)
    lattice = Tokenizer(settings, build(settings.quantizer, None))
    assert reader_heads(params(), lattice).losses() == ("global", "masked")
    with pytest.raises(MismatchError, match="no code vectors for a relationship head"):
        reader_heads(params("relationship"), lattice)
