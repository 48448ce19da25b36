"""What a prior sees of a split: conditions that are kept in memory or computed, counts, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_priors import params
from tests.tiny import write_dataset, write_tiny_clip, write_tokenizer
from vqpipe.data import annotations
from vqpipe.data.annotations import LabelMaps
from vqpipe.data.images import encode_png
from vqpipe.data.loader import ImageSplit
from vqpipe.errors import MismatchError
from vqpipe.priors import examples as module
from vqpipe.priors.examples import Examples, KeptTexts, scaled, some
from vqpipe.priors.text import ClipText, TextEncoder
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import TokenSplit
from vqpipe.vision.clip import Clip

COUNTS = {"train": 20, "validation": 6, "test": 6}
LONG = "a long caption of many words here"
CAPTIONS = [
    ["a dark picture"],
    ["a light one", "a light picture"],
    [],
    ["", "  "],
    [LONG],
]


class Letters(TextEncoder):
    """A feature is the letter of a token; counts the texts that it is given."""

    id, dim, length = "letters", 2, 4

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        self.calls.append(list(texts))
        ids = torch.full((len(texts), self.length), -1)
        for row, text in enumerate(texts):
            for at, letter in enumerate(text[: self.length]):
                ids[row, at] = ord(letter)
        return ids[..., None].expand(-1, -1, 2).clamp_min(0).float(), ids

    def num_tokens(self, text: str) -> int:
        return len(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    write_dataset(root, COUNTS)
    write_tokenizer(root / "tokenizer")
    write_tiny_clip(root / "clip")
    return root


def examples(folder: Path, split: str = "train", **further: Any) -> Examples:
    images = ImageSplit.open(folder / "dataset", split, 16)
    count = len(images)
    tokens = TokenSplit(
        split, images.ids, torch.from_numpy(images.labels), torch.zeros(count, 1, 4, 4, dtype=torch.int32)
    )
    return Examples(tokens, images, Tokenizer.from_pretrained(folder / "tokenizer"), params(), **further)


def with_captions(folder: Path, captions: list[list[str]], **further: Any) -> Examples:
    """Examples whose first images have these captions, the others `CAPTIONS[0]`."""
    own = examples(folder, text=Letters(), **further)
    own.images.captions = [*captions, *[CAPTIONS[0]] * (len(own) - len(captions))]
    text = {"encoder": "clip", "max_tokens": 4}
    config = own.config.model_copy(update={"condition": "text", "text": text})
    return replace(own, config=config)


def test_kept_texts_are_those_of_the_encoder() -> None:
    encoder = Letters()
    kept = KeptTexts(encoder, ["", "abc", "de"])
    assert len(encoder.calls) == 1
    features, ids = kept.encode(["de", "abc", "de", ""])
    assert len(encoder.calls) == 1, "nothing is computed again"
    expected = Letters().encode(["de", "abc", "de", ""])
    assert torch.equal(features, expected[0])
    assert torch.equal(ids, expected[1])
    assert torch.equal(kept.encode(["abc", "new"])[1], Letters().encode(["abc", "new"])[1])
    assert encoder.calls[1:] == [["abc", "new"]]
    assert (kept.id, kept.dim, kept.length, kept.num_tokens("abcdef")) == ("letters", 2, 4, 6)


def test_the_texts_of_a_split_are_kept_in_fixed_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    own = with_captions(folder, CAPTIONS)
    kept = own.with_kept_texts()
    assert isinstance(own.text, Letters)
    calls = own.text.calls
    assert [len(call) for call in calls] == [2, 2, 1]
    assert sorted(text for call in calls for text in call) == sorted(
        ["", "a dark picture", "a light one", "a light picture", LONG]
    )
    for step in (None, 0, 1, 2):
        rows = np.arange(6)
        one, other = own.conditions(rows, step), kept.conditions(rows, step)
        assert one.captions == other.captions
        assert one.condition.text is not None
        assert other.condition.text is not None
        assert torch.equal(one.condition.text, other.condition.text)
    monkeypatch.setattr(module, "KEPT_BYTES", 4 * 5 * 4 * 2 - 1)
    assert own.with_kept_texts() is own, "one byte too many"


def test_a_step_draws_a_caption_and_a_measurement_takes_the_first(folder: Path) -> None:
    own = with_captions(folder, CAPTIONS)
    assert own.first_captions(np.arange(5)) == [
        "a dark picture", "a light one", "", "", LONG,
    ]  # fmt: skip
    drawn = [own.conditions(np.array([1]), step).captions[0] for step in range(20)]
    assert set(drawn) == {"a light one", "a light picture"}
    # An image's number is its place in the stream of the step, for any batch that it is in.
    for step, text in enumerate(drawn):
        numbers = numpy_rng(own.config.seed, "prior", "captions", step).random(len(own.images))
        assert text == CAPTIONS[1][int(2 * numbers[1])]
        assert own.conditions(np.array([4, 1, 0]), step).captions[1] == text


def test_captions_and_images_without_their_other_side_are_counted(folder: Path) -> None:
    own = with_captions(folder, CAPTIONS)
    assert own.without_condition.tolist()[:5] == [False, False, True, True, False]
    assert own.without_condition.sum() == 2
    # All captions but the empty ones have more than four letters.
    assert own.num_cut() == 3 + 1 + (len(own) - 5)
    assert examples(folder).num_cut() == 0


def test_maps_of_a_split_are_counted_cropped_and_checked() -> None:
    whole = np.zeros((6, 4), dtype=np.uint8)
    whole[1:5] = [[1, 2, 0, 2]] * 4
    maps = LabelMaps([encode_png(whole), None], ("sky", "sea"), 4, "here: train label map")
    found = maps.get([0, 1])
    assert found[0].tolist() == [[0, 1, -1, 1]] * 4
    assert (found[1] == -1).all()
    unknown = LabelMaps([encode_png(whole)], ("sky",), 4, "here: train label map")
    with pytest.raises(
        MismatchError, match=r"here: train label map: a pixel of an unknown class\n.*2\n.*1 to 1"
    ):
        unknown.get([0])
    small = LabelMaps([encode_png(whole)], ("sky", "sea"), 5, "here: train label map")
    with pytest.raises(MismatchError, match=r"smaller than the images\n.*6 x 4\n.*5"):
        small.get([0])


def test_maps_are_decoded_by_the_workers_at_once_and_stay_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two maps waits until the other is being decoded, too."""
    monkeypatch.setenv("VQPIPE_WORKERS", "2")
    both, decode = Barrier(2, timeout=60), annotations.decode_png

    def waiting(*args: Any) -> np.ndarray:
        both.wait()
        return decode(*args)

    monkeypatch.setattr(annotations, "decode_png", waiting)
    pngs = [encode_png(np.full((3, 3), value, dtype=np.uint8)) for value in range(4)]
    found = LabelMaps(pngs, ("a", "b", "c"), 2, "here").get([3, 1, 0, 2])
    assert found[:, 0, 0].tolist() == [2, 0, -1, 1]


def test_the_maps_of_a_split_are_decoded_once_to_count_those_of_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky, nothing = (encode_png(np.full((16, 16), value, dtype=np.uint8)) for value in (1, 0))
    maps = LabelMaps([sky, None, nothing, sky, sky, sky], ("sky",), 16, "here")
    own = examples(folder, "test", maps=maps)
    own = replace(own, config=own.config.model_copy(update={"condition": "label_map"}))
    read, get = [], LabelMaps.get
    monkeypatch.setattr(module, "MAPS_AT_ONCE", 4)
    monkeypatch.setattr(LabelMaps, "get", lambda self, rows: read.extend(rows) or get(self, rows))
    for _ in range(2):
        assert own.without_condition.tolist() == [False, True, True, False, False, False]
    assert read == list(range(6))


def test_texts_longer_than_the_encoder_reads_are_refused(folder: Path) -> None:
    clip = Clip.load(folder / "clip")
    assert ClipText(clip, 8).length == 8
    with pytest.raises(MismatchError, match=r"text\.max_tokens is more than CLIP .* reads\n.*9\n.*at most 8"):
        ClipText(clip, 9)
    with pytest.raises(
        MismatchError, match=r"longer than the prior's encoder reads\n.*6 tokens\n.*at most 4"
    ):
        ClipText(clip, 4).need_short("a red boat there")


@pytest.mark.parametrize("fits", [True, False])
def test_latents_are_kept_where_they_fit(folder: Path, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    every = {name: examples(folder, name) for name in COUNTS}
    whole = every["train"].latents(np.arange(20))
    limit = whole.numel() * 4
    monkeypatch.setattr(module, "KEPT_BYTES", limit if fits else limit - 1)
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 7)
    found = scaled(every)
    std = whole.double().std(dim=(0, 2, 3), unbiased=False)
    assert found["test"].latent_std == found["train"].latent_std == pytest.approx(std.tolist())
    assert found["validation"].kept_latents is None
    assert (found["train"].kept_latents is not None) == fits
    read, gather = [], ImageSplit.gather
    monkeypatch.setattr(ImageSplit, "gather", lambda *args: read.append(1) or gather(*args))
    latents = found["train"].latents(np.array([3, 11]))
    torch.testing.assert_close(latents, whole[[3, 11]], rtol=1e-5, atol=1e-6)
    assert bool(read) != fits


def test_a_constant_channel_is_not_divided(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every, encode = {name: examples(folder, name) for name in COUNTS}, Examples.latents

    def latents(self: Examples, rows: Any) -> Tensor:
        found = encode(self, rows).clone()
        found[:, 1] = 0.25
        return found

    monkeypatch.setattr(Examples, "latents", latents)
    std = scaled(every)["train"].latent_std
    assert std[1] == 1.0
    assert std[0] != 1.0
    assert torch.isfinite(scaled(every)["test"].batch(slice(0, 2))[0]).all()


def test_a_draw_is_of_all_rows_rising_and_the_same_for_one_seed_and_split(folder: Path) -> None:
    own = examples(folder)
    rows = own.drawn(8, "test images")
    assert rows.tolist() == sorted(set(rows.tolist())) != list(range(8))
    assert own.drawn(20, "test images").tolist() == own.drawn(99, "test images").tolist() == list(range(20))
    other = replace(own, config=own.config.model_copy(update={"condition": "none"}))
    assert np.array_equal(other.drawn(8, "test images"), rows), "whatever the prior is"
    seeded = replace(own, config=own.config.model_copy(update={"seed": 1}))
    assert not np.array_equal(seeded.drawn(8, "test images"), rows)
    assert len({tuple(some(20, 8, 0, what)) for what in "abc"}) == 3


def test_batches_and_codes_are_of_the_rows_that_are_asked_for(folder: Path) -> None:
    own = examples(folder)
    codes = torch.arange(20, dtype=torch.int32).view(20, 1, 1, 1).expand(20, 1, 4, 4)
    own = replace(own, tokens=replace(own.tokens, indices=codes))
    rows = np.array([1, 2, 5, 11, 19])
    found = list(own.batches(rows))
    assert [len(images) for images, _ in found] == [4, 1]
    assert torch.cat([images for images, _ in found])[:, 0, 0, 0].tolist() == rows.tolist()
    labels = [condition.labels for _, condition in found if condition.labels is not None]
    assert torch.equal(torch.cat(labels), own.tokens.labels[rows])
    assert own.codes(rows)[:, 0, 0, 0].tolist() == rows.tolist()
