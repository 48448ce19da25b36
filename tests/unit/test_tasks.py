"""Tasks: each measure compared with a slow form and chance, heads that learn, inputs and params."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.small_alignment import IDS, captions
from tests.small_answers import read_all, write_all
from tests.small_tasks import CAPTION_KINDS, COMMON, EIGHT, config, frozen, head, measured, task
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip, write_tokenizer
from vqpipe.alignment.aligner import TextBatch
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.specs.task import TASK, TASK_PER_IMAGE
from vqpipe.artifacts.tables import read_table
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import DataError, MismatchError, ParamsError
from vqpipe.metrics.floors import FloorsParams, from_patches, other_examples
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.tasks import TASKS, solve
from vqpipe.tasks.inputs import (
    ClipFeatures,
    Codes,
    CodeSpace,
    FrozenInputs,
    Latents,
    Nothing,
    PatchCodes,
    view_of,
)
from vqpipe.tasks.masked_words import best_words, commonest_words, draw_masks, word_counts, word_recall
from vqpipe.tasks.relations import relate
from vqpipe.tasks.retrieval import chances, recalls
from vqpipe.tasks.solve import solve_task, training_of
from vqpipe.tasks.stored import load_head
from vqpipe.tasks.task import Task, task_entry, tasks_of
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.tokenizers.train import whiten
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
    found = measured("retrieval").kept
    metrics = measured("retrieval").metrics.plain()
    assert found.texts.tolist() == [0, 1, 2, 0, 1, 3, 4, 5]
    model, codes, text = head(), frozen(), captions(EIGHT)
    image = torch.cat(
        [model.code_transformer(codes.quantized(codes.rows([i])).z_q).feature for i in range(8)]
    )
    slow = cosine_similarity(image[:, None], text.features[None], dim=2).detach()
    torch.testing.assert_close(found.cosines, slow, atol=1e-5, rtol=0)
    to_text, to_image = [], []
    for i in range(8):
        order = sorted((0, 1, 2, 5, 6, 7), key=lambda j: -float(slow[i, j]))
        to_text.append([int(found.texts[j]) for j in order].index(int(found.texts[i])))
        images = sorted(range(8), key=lambda j: -float(slow[j, i]))
        to_image.append(min(images.index(j) for j in range(8) if found.texts[j] == found.texts[i]))
    for direction, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
        for rank in (1, 5):
            assert metrics[direction][f"r{rank}"]["mean"] == np.mean([r < rank for r in ranks])
    assert metrics["image_to_text"]["chance_r1"] == pytest.approx(1 / 6)
    assert metrics["text_to_image"]["chance_r1"] == pytest.approx((4 * 2 / 8 + 4 * 1 / 8) / 8)


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
    found, model, codes, text = measured("masked_words"), head(), frozen(), captions(EIGHT)
    assert model.masked_text is not None
    table = model.vocabulary
    for count in (1, 3):
        mask = draw_masks(text.words, count, seed=3)
        for name, images in (("recall", np.arange(8)), ("other_image", other_examples(8, 3))):
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
            np.testing.assert_allclose(found.values[f"masked_{count}.{name}"], slow)
        part = found.metrics.plain()[f"masked_{count}"]
        long = [len(own) >= count for own in EIGHT]
        assert part["num_captions"] == sum(long)
        assert part["num_left_out"] == 8 - sum(long)


def test_no_image_is_its_own_other() -> None:
    for count in (2, 3, 8, 50):
        others = other_examples(count, 0)
        assert sorted(others.tolist()) == list(range(count))
        assert (others != np.arange(count)).all()


def test_chance_is_of_pieces_and_the_commonest_word_of_as_many() -> None:
    found, text = measured("masked_words").metrics.counts[1], captions(EIGHT)
    mask = draw_masks(text.words, 1, seed=3)
    pieces = mask.sum(dim=1).double()
    v = float(len(head().vocabulary))
    assert found.chance == pytest.approx(float((v**-pieces).mean()))
    asked = [tuple(text.tokens[row][mask[row]].tolist()) for row in range(8)]
    assert found.commonest == np.mean([word in ((300,), (301, 302)) for word in asked])
    with pytest.raises(DataError, match="no test caption has 9 words"):
        task("masked_words", masked_counts=[9]).check(None, text)


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


def test_collapsed_codes_give_chance() -> None:
    retrieval = measured("retrieval", collapsed=True).metrics.plain()["text_to_image"]
    for rank in (1, 5, 10):
        assert retrieval[f"r{rank}"]["mean"] == pytest.approx(retrieval[f"chance_r{rank}"])
    for part in measured("masked_words", collapsed=True).metrics.counts.values():
        assert part.recall == part.other_image
    raw = measured("relations", collapsed=True).metrics.similarity.raw
    assert raw.mse == raw.chance
    assert raw.correlation is None


@pytest.mark.parametrize("kind", CAPTION_KINDS)
def test_batches_change_nothing(kind: str) -> None:
    one, other = measured(kind), measured(kind, batch_size=8)
    assert one.values.keys() == other.values.keys()
    for name, values in one.values.items():
        np.testing.assert_allclose(values, other.values[name], atol=1e-5, err_msg=name)


def test_an_aligner_is_a_head_of_the_tasks_that_it_was_trained_for() -> None:
    fits = {
        name: [kind for kind in CAPTION_KINDS if task(kind).fits(head(*losses))]
        for name, losses in {"global": ["global"], "masked": ["masked"], "all": []}.items()
    }
    assert fits == {
        "global": ["retrieval"],
        "masked": ["masked_words", "relations"],
        "all": [*CAPTION_KINDS],
    }
    assert measured("relations", model=head("global")).metrics.similarity.projected is None


def test_the_pictures_are_of_the_images_that_were_named() -> None:
    masks = measured("masked_words").kept
    assert set(masks[1]) == {0, 6}
    assert set(masks[3]) == {0}
    shown = masks[3][0]
    assert [len(logits) for logits in shown.logits] == [len(word) for word in shown.words]
    assert [tuple(EIGHT[0][number]) for number in shown.numbers] == shown.words
    assert [row for rows, _ in measured("relations").kept for row in rows.tolist()] == [0, 6]


# --- relations


def test_relations_are_those_of_equation_8_one_pair_at_a_time() -> None:
    found, model, codes = measured("relations"), head().requires_grad_(False), frozen()
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
        vectors = [
            codes.view.quantized(codes.rows([row])).vectors[0][codes.values[row, 0].flatten()[place]]
            for place in places
        ]
        pairs = [(i, j) for i, j in itertools.combinations(range(len(own)), 2) if own[i] != own[j]]
        if not pairs:
            continue
        wanted = [cosine_similarity(at[i], at[j], dim=0) for i, j in pairs]
        words.append([float(w) for w in wanted])
        for values, through in ((raw, torch.nn.Identity()), (projected, model.relationship.projection)):
            got = [cosine_similarity(through(vectors[i]), through(vectors[j]), dim=0) for i, j in pairs]
            values.append(float(np.mean([float(g - w) ** 2 for g, w in zip(got, wanted, strict=True)])))
        same.append(float(np.mean([places[i] == places[j] for i, j in pairs])))
    part = found.metrics.plain()["similarity"]
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
    """Both have one position, so that their codes agree for any codes."""
    one, two, pieces = [300], [301], [302, 303]
    text = captions([[one, two, one], [one, one], [pieces, [302], pieces, two], [two]])
    model, codes = head().requires_grad_(False), frozen()
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
        measured("relations", texts=[own * times for own in texts]).metrics.plain()["similarity"]
        for times in (1, 2)
    )
    for name in ("constant", "same_position"):
        assert twice[name] == pytest.approx(once[name], rel=1e-5)
    for name in ("raw", "projected"):
        assert twice[name]["correlation"] == pytest.approx(once[name]["correlation"], rel=1e-5)
        assert twice[name]["mse"]["mean"] == pytest.approx(once[name]["mse"]["mean"], rel=1e-5)


# --- inputs and training


def test_frozen_codes_are_those_of_the_tokenizer_and_decode_to_its_latent(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, {"train": 5, "validation": 1, "test": 2})
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "vq"))
    split = ImageSplit.open(dataset, "train", 16)
    at = np.array([4, 0, 2, 0])  # an image may have several examples
    codes = FrozenInputs.encode(Codes(tokenizer), split, at, 2)
    images = split.images(0, 5).float() / 127.5 - 1
    assert len(codes) == 4
    assert len(codes.values) == 3
    assert torch.equal(codes.rows(range(4)), tokenizer.encode(images)[at])
    latent = tokenizer.encode_latent(images[2:3]).detach()
    found = tokenizer.quantizer(latent, 1.0)
    again = codes.quantized(codes.rows([2]))
    torch.testing.assert_close(again.z_q, found.z_q)
    assert torch.equal(again.vectors[0], found.vectors[0])
    assert torch.equal(codes.exchanged(np.array([1, 2, 3, 0])).rows([0, 3]), codes.rows([1, 0]))
    assert codes.space.code_dims == (4,)
    latents = FrozenInputs.encode(Latents(tokenizer), split, at, 2)
    torch.testing.assert_close(latents.quantized(latents.rows([2])).z_q, latent)
    nothing = FrozenInputs.encode(Nothing(tokenizer), split, at, 2)
    assert nothing.quantized(nothing.rows([2, 3])).z_q.shape == (2, 4, 4, 4)
    assert not nothing.quantized(nothing.rows([2, 3])).z_q.any()
    assert not latents.space.has_vectors
    other = codes.of_other_images(3)  # examples 1 and 3 are of one image
    assert torch.equal(other.rows([1]), other.rows([3]))
    assert all(not torch.equal(other.rows([row]), codes.rows([row])) for row in range(4))


def test_what_codes_are_compared_with_is_of_the_same_images(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, {"train": 40, "validation": 1, "test": 2})
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "vq"))
    clip = Clip.load(write_tiny_clip(tmp_path / "clip"))
    split = ImageSplit.open(dataset, "train", 16)
    images = to_float(split.images(0, 3))
    with torch.no_grad():
        features = clip.patch_features(images, projected=False).permute(0, 3, 1, 2)
    seen = FrozenInputs.encode(ClipFeatures(tokenizer, clip), split, np.arange(3), 2)
    torch.testing.assert_close(seen.batch([0, 1, 2]).z_q, features)
    assert seen.space == CodeSpace(clip.patch_grid, clip.patch_dim, (), False, ())

    floors = FloorsParams(num_patches=400, num_iterations=2, max_num_codes=1024)
    patches = PatchCodes.fit(tokenizer, split, floors, seed=0)
    assert (patches.name, patches.space.num_codes) == ("patch_kmeans", tokenizer.num_codes)
    cut = FrozenInputs.encode(patches, split, np.arange(3), 2)
    assert cut.space.dim == 3 * 4 * 4
    levels = patches.codebook.centroids[cut.rows([0, 1, 2])[:, 0]].permute(0, 3, 1, 2)
    torch.testing.assert_close(cut.batch([0, 1, 2]).z_q, levels / 127.5 - 1)
    drawn = from_patches(
        levels.permute(0, 2, 3, 1).flatten(1, 2).round().clamp(0, 255).byte(), tokenizer.grid, (4, 4)
    )
    assert torch.equal(drawn, patches.codebook.reconstruct(split.images(0, 3)))
    few = FloorsParams(num_patches=400, num_iterations=2, max_num_codes=8)
    assert PatchCodes.fit(tokenizer, split, few, seed=0).name == "patch_kmeans_capped"


@pytest.fixture(scope="module")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clip, Tokenizer]:
    """Dark and light images with captions that name which, a CLIP, and a tokenizer whose codes tell them apart."""
    root = tmp_path_factory.mktemp("learnable")
    dataset = write_dataset(root, {"train": 64, "validation": 2, "test": 32}, templates=["a {} one"])
    clip = Clip.load(write_tiny_clip(root / "clip"))
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(root / "vq"))
    images = to_float(ImageSplit.open(dataset, "train", 16).images(0, 64))
    with torch.no_grad():  # embeddings of a trained CLIP's length
        clip.token_embeddings().mul_(20)
        whiten(tokenizer.quant_conv, tokenizer.encoder(images), torch.Generator().manual_seed(0))
        latents = tokenizer.encode_latent(images).movedim(1, -1).reshape(-1, 4)
        tokenizer.get_parameter("quantizer.codes").copy_(latents[:: len(latents) // 16][:16])
    return dataset, clip, tokenizer


TRAINING = {
    **TOKENIZER["training"], "num_steps": 150, "batch_size": 16, "learning_rate": 2e-3, "log_every": 50,
    "checkpoint_every": 100,
}  # fmt: skip


def solved(kind: str, given: tuple[Path, Clip, Tokenizer], scratch: Path, **changes: Any) -> Any:
    dataset, clip, tokenizer = given
    head = {"head": {"max_tokens": 8}} if kind in CAPTION_KINDS else {}
    settings = config(kind, training=TRAINING, batch_size=16, **head, **changes)
    return solve_task(
        settings, tokenizer, None, dataset, clip, scratch=scratch, curves=None, device=CPU, title=kind
    ).metrics.fresh


def test_heads_learn_what_the_codes_show_and_leave_the_tokenizer_alone(
    learnable: tuple[Path, Clip, Tokenizer], tmp_path: Path
) -> None:
    dataset, _, tokenizer = learnable
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    found = solved("masked_words", learnable, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert found.counts[3].recall.mean > 0.9
    labels = ImageSplit.open(dataset, "test", 16).labels
    same = (labels == labels[other_examples(32, 3)]).mean()
    assert found.counts[3].other_image.mean == pytest.approx((2 + same) / 3, abs=0.07)


@pytest.mark.parametrize("input", ["codes", "latents", "none", "clip"])
def test_an_aligners_own_head_is_measured_on_codes_alone(
    learnable: tuple[Path, Clip, Tokenizer], tmp_path: Path, input: str
) -> None:
    dataset, clip, tokenizer = learnable
    short = {**TRAINING, "num_steps": 2}
    settings = config("retrieval", training=short, batch_size=16, head={"max_tokens": 8})
    asked = TASKS["retrieval"](settings, dataset, clip, 16, tmp_path)
    known, space = asked.known(asked.examples("train")), view_of("codes", tokenizer, clip).space
    own: Any = asked.head(space, known).eval()
    found = solve_task(
        settings.model_copy(update={"input": input}), tokenizer, own, dataset, clip,
        scratch=tmp_path, curves=None, device=CPU, title="own",
    )  # fmt: skip
    assert (found.metrics.own is not None) == (input == "codes")


def test_retrieval_learns_which_caption_is_an_images(
    learnable: tuple[Path, Clip, Tokenizer], tmp_path: Path
) -> None:
    found = solved("retrieval", learnable, tmp_path)
    assert found.image_to_text.r1.mean > 0.9
    assert found.image_to_text.chance_r1 == 0.5
    assert found.text_to_image.r1.mean > 0.9


def test_captions_of_one_word_are_counted(learnable: tuple[Path, Clip, Tokenizer]) -> None:
    dataset, clip, tokenizer = learnable
    own: Any = TASKS["retrieval"](config("retrieval", head={"max_tokens": 8}), dataset, clip, 16, None)
    test, train = own.examples("test"), own.examples("train")
    inputs = FrozenInputs.encode(Codes(tokenizer), test.split, test.positions, 4)
    few = replace(test, captions=["dog", "a dog", *test.captions[2:]])
    assert (found := own.describe(inputs, few, train)).num_one_word == 1
    assert found.num_train_one_word == own.describe(inputs, test, train).num_one_word == 0


def test_without_codes_a_head_knows_no_more_than_the_captions(
    learnable: tuple[Path, Clip, Tokenizer], tmp_path: Path
) -> None:
    found = solved("retrieval", learnable, tmp_path, input="none")
    assert found.text_to_image.r1.mean == pytest.approx(found.text_to_image.chance_r1)
    (tmp_path / "latents").mkdir()
    assert solved("retrieval", learnable, tmp_path / "latents", input="latents").image_to_text.r1.mean > 0.9
    (tmp_path / "none").mkdir()
    with pytest.raises(MismatchError, match="compares code vectors"):
        solved("relations", learnable, tmp_path / "none", input="none")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clip, Tokenizer]:
    return read_all(write_all(tmp_path_factory.mktemp("boxes"), 12))


@pytest.mark.parametrize("kind", ["classification", "captioning", "vqa", "grounding"])
def test_test_examples_of_one_image_are_refused_before_training(
    kind: str, boxes: tuple[Path, Clip, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are measured with another image's input."""
    examples = TASKS[kind].examples

    def of_one(self: Task, split: str) -> Any:
        found = examples(self, split)
        return replace(found, positions=np.zeros_like(found.positions)) if split == "test" else found

    monkeypatch.setattr(TASKS[kind], "examples", of_one)
    monkeypatch.setattr(solve, "run_training", lambda *_, **__: pytest.fail("the head was trained"))
    with pytest.raises(DataError, match=f"(?s)compares images with each other.*1 image that {kind} can"):
        solved(kind, boxes, tmp_path)


def test_what_is_counted_is_said_before_training(
    boxes: tuple[Path, Clip, Tokenizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def begins(*_: Any, **__: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(solve, "run_training", begins)
    with pytest.raises(InterruptedError):
        solved("grounding", boxes, tmp_path, max_words=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grounding: split test, num_images 12")
    assert "num_train_cut" in line
    assert "num_without_words" not in line  # there is none


def test_heads_and_training_fit_the_tokenizer() -> None:
    codes = frozen()
    tokenizer, relations = codes.view.tokenizer, task("relations")
    assert relations.align(codes.space).losses() == ("masked", "relationship")
    assert training_of(config("retrieval"), tokenizer).num_steps == tokenizer.config.training.num_steps
    own = {**TOKENIZER["training"], "num_steps": 9}
    assert training_of(config("retrieval", training=own), tokenizer).num_steps == 9
    averages = {**TOKENIZER["quantizer"], "kind": "ema", "decay": 0.9, "epsilon": 1e-5, "restart": None}
    averages = {key: value for key, value in averages.items() if key != "beta_on"}
    settings = validate({**TOKENIZER, "quantizer": averages}, "tokenizer", TokenizerParams)
    averaged = Tokenizer(settings, build(settings.quantizer, None)).eval()
    ema = FrozenInputs(Codes(averaged), codes.values)
    assert relations.align(ema.space).losses() == ("masked",)
    with pytest.raises(MismatchError, match="compares code vectors"):
        relations.align(FrozenInputs(Nothing(tokenizer), codes.values).space)


# --- params


def test_a_pair_is_merged_over_its_kind_and_that_over_the_rest() -> None:
    own = {"kind": "retrieval", "head": {"width": 32}, "seed": 5}
    whole = task_entry({**COMMON, "retrieval": {**COMMON["retrieval"], "seed": 4, "num_bootstrap": 200}}, own)
    found = validate(whole, "task", TASKS.params())
    assert (found.seed, found.num_bootstrap, found.head.width, found.head.max_tokens) == (5, 200, 32, 12)
    assert list(tasks_of(COMMON, "a board", seed=1)) == list(TASKS)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"kind": "masked_word"}, "no task masked_word; did you mean masked_words"),
        ({"tokenizer": "vq"}, "an entry without its kind"),
        ({"kind": "retrieval", "head": {"num_heads": 3}}, "width 16 is not a multiple of num_heads 3"),
        ({"kind": "masked_words", "masked_counts": [3, 1]}, "do not increase"),
        (
            {"kind": "masked_words", "masked": {"weight": 0.0}},
            "no loss has a weight",
        ),
        ({"kind": "relations", "masked": {"weight": 0.0}}, "weight is 0, and without masked text prediction"),
        ({"kind": "masked_words", "contrastive": None}, "contrastive is not a field"),
    ],
)
def test_wrong_params_are_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        validate(task_entry(COMMON, own), "task.pairs.vq", TASKS.params())


# --- a task of one's own


def test_a_task_of_one_file_and_one_line(
    learnable: tuple[Path, Clip, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS._places, "class_label", "tests.toy_task:ClassLabel")
    dataset, clip, tokenizer = learnable
    settings = config("class_label", training={**TRAINING, "learning_rate": 0.05}, batch_size=16)
    solved = solve_task(
        settings, tokenizer, None, dataset, clip, scratch=tmp_path, curves=None, device=CPU, title="toy"
    )
    assert solved.metrics.fresh.accuracy.mean > 0.9
    assert solved.metrics.fresh.commonest == 0.5
    assert solved.metrics.protocol.num_images == 32
    solved.write(tmp_path / "out")
    assert read_manifest(tmp_path / "out", TASK).facts["kind"] == "class_label"
    assert read_table(tmp_path / "out/per_image.parquet", TASK_PER_IMAGE).num_rows == 32
    assert type(solved.metrics).of(solved.metrics.plain(), "it") == solved.metrics


@pytest.mark.parametrize("kind", ["masked_words", "retrieval", "relations", "class_label"])
@pytest.mark.parametrize("seen", ["codes", "patches"])
def test_a_head_is_read_as_it_was_written(
    learnable: tuple[Path, Clip, Tokenizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    seen: str,
) -> None:
    if (kind, seen) == ("relations", "patches"):
        pytest.skip("relations are of the codes that a tokenizer trained")
    monkeypatch.setitem(TASKS._places, "class_label", "tests.toy_task:ClassLabel")
    dataset, clip, tokenizer = learnable
    floors = {"num_patches": 400, "num_iterations": 2, "max_num_codes": 1024}
    changes = {} if kind == "class_label" else {"head": {"max_tokens": 8}}
    settings = config(
        kind, training={**TRAINING, "num_steps": 2}, batch_size=16, input=seen, patches=floors, **changes
    )
    solved = solve_task(
        settings, tokenizer, None, dataset, clip, scratch=tmp_path, curves=None, device=CPU, title=kind
    )
    solved.write(tmp_path / "out")
    task, head = load_head(tmp_path / "out", tokenizer, clip)
    assert task.config == settings
    for name, value in solved.head.network.state_dict().items():
        assert torch.equal(head.network.state_dict()[name], value), name
    images = ImageSplit.open(dataset, "test", 16).images(0, 3)
    assert torch.equal(head.see(images).z_q, solved.head.see(images).z_q)
    other = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "other", seed=5))
    with pytest.raises(MismatchError, match="solved with another tokenizer"):
        load_head(tmp_path / "out", other, clip)
