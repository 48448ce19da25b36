"""Fitting a CLIP: contrastive loss, compact token table, caption draw, retrieval and its chance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.ranks import run_two
from vqpipe.data.loader import ImageSplit
from vqpipe.errors import DataError, ParamsError
from vqpipe.params.base import validate
from vqpipe.training.clip import (
    CaptionDraws,
    ClipParams,
    ContrastiveTraining,
    FitParams,
    ImageTextBatch,
    chance,
    compact_ids,
    compact_model,
    evaluate_retrieval,
    fit_clip,
    info_nce,
    open_clip_config,
    positives,
    recall,
    restore_full_table,
    same_text,
    used_tokens,
)
from vqpipe.vision.clip import Clip, token_ids
from vqpipe.vision.towers import build_model, encode_ids

CPU = torch.device("cpu")
TRAINING: dict[str, Any] = {
    "num_steps": 60, "batch_size": 12, "learning_rate": 3e-3, "betas": [0.9, 0.98], "weight_decay": 0.0,
    "warmup_fraction": 0.1, "final_lr_fraction": 0.1, "clip_grad_norm": 1.0, "ema_decay": 0.0,
    "precision": "fp32", "log_every": 20, "checkpoint_every": 20,
}  # fmt: skip
FIT: dict[str, Any] = {
    "seed": 0, "embed_dim": 16, "initial_temperature": 0.07, "max_logit_scale": 100.0, "crop": "centre",
    "flip": False, "training": TRAINING,
    "vision": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16,
               "patch_dropout": 0.0, "pool": "avg"},
    "text": {"context_length": 10, "width": 32, "heads": 2, "layers": 1},
}  # fmt: skip
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class Solid:
    """Pixels of one colour per image, with a little noise."""

    def __init__(self, colours: list[str]) -> None:
        rng = np.random.default_rng(0)
        plain = np.array([COLOURS[name] for name in colours], dtype=np.int64)[:, :, None, None]
        noisy = plain + rng.integers(-20, 21, (len(colours), 3, 16, 16))
        self.pictures = noisy.clip(0, 255).astype(np.uint8)

    def get(self, rows: list[int]) -> list[np.ndarray]:
        return [self.pictures[row] for row in rows]


def split_of(colours: list[str], captions: list[list[str]] | None = None) -> ImageSplit:
    texts = captions or [[f"a {name} sheet", f"it is {name}"] for name in colours]
    num = len(colours)
    shapes = np.full((num, 2), 16, dtype=np.int64)
    labels = np.full(num, -1, dtype=np.int64)
    ids = [str(row) for row in range(num)]
    return ImageSplit(16, ids, labels, texts, [], shapes, Solid(colours))  # type: ignore[arg-type]


def fit_params(**training: object) -> FitParams:
    return validate({**FIT, "training": {**TRAINING, **training}}, "clip.fit", FitParams)


def test_the_loss_of_perfect_and_of_blind_pairs() -> None:
    apart = torch.eye(4)
    scale = torch.tensor(50.0)
    loss, accuracy = info_nce(apart, apart, scale, torch.eye(4, dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert accuracy == 1
    blind = torch.ones(4, 4) / 2
    assert info_nce(blind, blind, scale, torch.eye(4, dtype=torch.bool))[0].item() == pytest.approx(
        math.log(4)
    )


def test_equal_captions_are_no_negatives() -> None:
    ids = torch.tensor([[1, 2], [1, 3], [1, 2]])
    same = same_text(ids)
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    vectors = normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), dim=1)
    loss, _ = info_nce(vectors, vectors, torch.tensor(50.0), same)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_the_compact_model_is_the_full_one_on_its_tokens() -> None:
    config = open_clip_config(fit_params())["model_cfg"]
    torch.manual_seed(0)
    full = build_model(config, "full")
    ids = token_ids(["a red sheet", "it is blue"], 10)
    used = used_tokens(ids)
    compact = compact_model(full, config, used)
    assert compact.token_embedding.num_embeddings == len(used) < 20
    torch.testing.assert_close(encode_ids(compact, compact_ids(ids, used)), encode_ids(full, ids))
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter.add_(0.1)
    before = full.token_embedding.weight.detach().clone()
    restore_full_table(full, compact.state_dict(), used)
    torch.testing.assert_close(encode_ids(compact, compact_ids(ids, used)), encode_ids(full, ids))
    untouched = torch.ones(49408, dtype=torch.bool)
    untouched[used] = False
    assert torch.equal(full.token_embedding.weight[untouched], before[untouched])


def test_each_image_gets_one_of_its_own_captions() -> None:
    captions = CaptionDraws([["a", "b"], [], ["c"], ["d", "e", "f"]], 5)
    assert captions.rows.tolist() == [0, 2, 3]
    own = [{0, 1}, {2}, {3, 4, 5}]
    seen: list[set[int]] = [set(), set(), set()]
    for step in range(60):
        for place, row in enumerate(captions.draw(np.array([0, 1, 2]), 0, step).tolist()):
            seen[place].add(row)
    assert seen == own
    whole = captions.draw(np.array([0, 1, 2]), 0, 7)
    assert captions.draw(np.array([2]), 0, 7).tolist() == whole[2:].tolist()


def test_temperature_is_bounded() -> None:
    model = build_model(open_clip_config(fit_params())["model_cfg"], "x")
    model.logit_scale.data.fill_(20.0)
    batch = ImageTextBatch(torch.randn(3, 3, 16, 16), token_ids(["a", "b", "c"], 10))
    _, terms = ContrastiveTraining(model, 100.0).loss("main", batch, 0.0)
    assert float(terms["temperature"]) == pytest.approx(0.01)


def test_fitting_learns_to_tell_colours_apart_and_repeats_itself(tmp_path: Path) -> None:
    colours = list(COLOURS) * 6
    params = fit_params()
    weights = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        config = open_clip_config(params)
        model, metrics = fit_clip(
            split_of(colours), params, config, tmp_path / f"{name}.csv", tmp_path / name, CPU
        )
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert metrics.num_tokens_fitted == 11  # 4 colours, a, it, is, sheet, start, end, padding
    clip = Clip(model, config["preprocess_cfg"], "x")
    found = evaluate_retrieval(clip, split_of(list(COLOURS)), 10, CPU)
    assert found.image_to_text_r1 == found.text_to_image_r1 == 1
    assert found.chance_image_to_text_r1 == pytest.approx(1 / 4)
    assert (found.num_validation, found.num_texts) == (4, 8)


def test_too_few_captions_for_a_batch_is_refused(tmp_path: Path) -> None:
    params = fit_params()
    half = [["a"] if row % 2 else [] for row in range(20)]
    with pytest.raises(DataError, match="10 of 20 images"):
        fit_clip(
            split_of(["red"] * 20, half), params, open_clip_config(params), tmp_path / "c.csv", tmp_path, CPU
        )


def test_retrieval_needs_two_captioned_images(tmp_path: Path) -> None:
    clip = Clip(build_model(open_clip_config(fit_params())["model_cfg"], "x"),
                open_clip_config(fit_params())["preprocess_cfg"], "x")  # fmt: skip
    with pytest.raises(DataError, match="captions"):
        evaluate_retrieval(clip, split_of(["red", "blue"], [["a"], []]), 10, CPU)


def test_recall_counts_queries_with_a_right_one_among_the_best() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2]])
    right = torch.tensor([[True, False, False], [True, False, False], [False, True, False]])
    assert recall(scores, right, 1) == pytest.approx(1 / 3)
    assert recall(scores, right, 2) == pytest.approx(2 / 3)
    assert recall(scores, right, 5) == 1


def test_shared_captions_are_right_for_all_their_images() -> None:
    right = positives([["x", "y"], ["x"], ["z", "z"]], ["x", "y", "z"])
    assert right.tolist() == [[True, True, False], [True, False, False], [False, False, True]]


@pytest.mark.parametrize("rank", [1, 3])
def test_chance_is_what_random_orders_reach(rank: int) -> None:
    right = positives([["a", "b", "c"], ["d"], ["e", "f"], ["a"]], list("abcdef"))
    rng = torch.Generator().manual_seed(0)
    tries = [recall(torch.rand(4, 6, generator=rng), right, rank) for _ in range(4000)]
    assert chance(right, rank) == pytest.approx(float(np.mean(tries)), abs=0.015)
    assert chance(right, 6) == 1


def test_params_say_what_is_missing() -> None:
    with pytest.raises(ParamsError, match="how to fit"):
        validate({"pretrained": None, "num_retrieval": 10}, "clip", ClipParams)
    with pytest.raises(ParamsError, match="does not divide image_size"):
        validate({**FIT, "vision": {**FIT["vision"], "patch_size": 7}}, "clip.fit", FitParams)
    pinned = {"pretrained": {"kind": "tag", "model": "ViT-B-32", "tag": "openai"}, "num_retrieval": 10}
    assert validate(pinned, "clip", ClipParams).fit is None


RANK_PROGRAM = """
import torch
from vqpipe.training.clip import ContrastiveTraining, ImageTextBatch
from vqpipe.training.step import PhaseLoss
from vqpipe.runtime.distributed import data_parallel
from vqpipe.vision.towers import build_model

config = {
    "embed_dim": 8, "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
}
torch.manual_seed(0)
split, whole = build_model(config, "split"), build_model(config, "whole")
split.load_state_dict(whole.state_dict())
images, ids = torch.randn(8, 3, 16, 16), torch.randint(1, 18, (8, 8))
ids[:, 5] = 19
loss, _ = ContrastiveTraining(whole, 100.0).loss("main", ImageTextBatch(images, ids), 0.0)
loss.backward()
join()
own = slice(rank * 4, rank * 4 + 4)
module = data_parallel(PhaseLoss(ContrastiveTraining(split, 100.0), "main", list(split.parameters())))
shared, _ = module(ImageTextBatch(images[own], ids[own]), 0.0)
shared.backward()
torch.testing.assert_close(shared, loss)
for ours, theirs in zip(split.parameters(), whole.parameters(), strict=True):
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_two_ranks_take_the_step_of_one(tmp_path: Path) -> None:
    run_two(RANK_PROGRAM, tmp_path)
