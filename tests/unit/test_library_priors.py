"""`ImagePrior`: where its parts are found, what is drawn for which condition, what is refused before the first step."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vqpipe.library.hub as hub
import vqpipe.priors as priors
from tests.prior_folders import CLASSES, write_prior
from tests.tiny import picture, write_tiny_clip, write_tokenizer
from tests.toy_priors import PLACES
from vqpipe.artifacts.publish import read_manifest
from vqpipe.artifacts.verify import verify
from vqpipe.errors import ArtifactError, MismatchError, ParamsError, VqpipeError
from vqpipe.library.choices import KEPT
from vqpipe.library.masks import hidden_tokens, keep_mask
from vqpipe.library.prior_export import export_prior
from vqpipe.library.priors import PLACE, ImagePrior
from vqpipe.priors import PRIORS
from vqpipe.priors.artifact import read_prior
from vqpipe.priors.contract import Condition
from vqpipe.priors.text import ClipText
from vqpipe.runtime.seeds import torch_rng
from vqpipe.vision.clip import Clip

KINDS: dict[str, dict[str, Any]] = {
    "gpt": {}, "gpt-none": {"condition": "none"}, "undropped": {"drop": 0.0},
    "classes": {"kind": "palette"}, "texts": {"kind": "palette", "condition": "text"},
    "maps": {"kind": "palette", "condition": "label_map"}, "latents": {"kind": "normal", "condition": "none"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    """Adds the toys' lines to the table."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, place in PLACES.items():
            patch.setitem(PRIORS._places, kind, place)
        patch.setattr(priors, "AnyPrior", PRIORS.params())
        yield


@pytest.fixture(scope="module")
def root(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of one prior for each of `KINDS`, as a pipeline has them."""
    made = tmp_path_factory.mktemp("priors")
    for name, options in KINDS.items():
        write_prior(made, name, **options)
    return made


@pytest.fixture(scope="module")
def load(root: Path) -> Any:
    """The prior of a name, read once."""
    read = {name: ImagePrior.from_pretrained(root / "artifacts/prior" / name) for name in KINDS}
    return read.__getitem__


def refused(call: Any, *parts: str) -> None:
    with pytest.raises(VqpipeError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def write_grey(path: Path, bits: int, value: int) -> Path:
    """A greyscale PNG of 16 x 16 pixels of one value; Pillow does not write every depth."""
    row = b"\0" + int(f"{value:0{bits}b}" * 16, 2).to_bytes(2 * bits, "big")
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, 0, 0, 0, 0)), (b"IDAT", zlib.compress(row * 16)),
        (b"IEND", b""),
    ]  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ))  # fmt: skip
    return path


def square_map(value: int) -> Tensor:
    return torch.full((16, 16), value)


def test_a_seed_gives_the_same_images_however_many_are_drawn(load: Any) -> None:
    prior = load("classes")
    images = prior.sample(6, classes=["circle", None, "star"], guidance=2.0, seed=3)
    assert images.shape == (6, 3, 16, 16)
    assert images.dtype == torch.float32
    assert not torch.equal(images, prior.sample(6, classes=["circle", None, "star"], guidance=2.0, seed=4))
    fewer = prior.sample(3, classes=["circle", None, "star"], guidance=2.0, seed=3)
    torch.testing.assert_close(fewer, images[:3])
    assert len(prior.sample(classes=["circle", "star"])) == 2
    assert len(prior.sample()) == 1
    assert prior.to_pil(images)[0].size == (16, 16)


def test_conditions_reach_the_prior_in_turns(load: Any) -> None:
    prior = load("classes")
    labels = prior._asked(5, ["circle", None, 2], None, None).condition.labels
    assert labels.tolist() == [0, -1, 2, 0, -1]
    alone = prior._asked(None, "square", None, None)
    assert (alone.n, alone.condition.labels.tolist()) == (1, [1])
    assert prior._asked(2, None, None, None).condition == Condition()
    texts = load("texts")._asked(3, None, ["a red boat", None], None).condition
    assert texts.text_ids.shape == (3, 6)
    assert (texts.text_ids >= 0).sum(1).tolist() == [5, 0, 5]
    features, ids = load("texts").encoder.encode(["a red boat"])
    torch.testing.assert_close(texts.text[0], features[0])
    assert torch.equal(texts.text_ids[2], ids[0])
    maps = load("maps")._asked(2, None, None, [square_map(1), None]).condition.label_map
    assert [int(one.unique()) for one in maps] == [1, -1]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("gpt", {"classes": "circle"}, {"classes": "star"}),
        ("texts", {"text": "a red boat"}, {"text": "sky"}),
        ("maps", {"label_map": square_map(0)}, {"label_map": square_map(1)}),
    ],
)
def test_another_condition_gives_other_images(
    load: Any, name: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    prior = load(name)
    images = prior.sample(16, **one)
    assert not torch.equal(images, prior.sample(16, **other))
    assert not torch.equal(images, prior.sample(16))
    assert torch.equal(prior.sample(16, **one, guidance=0.0), prior.sample(16, guidance=1.0))


def test_stored_options_of_guidance_go_when_it_is_turned_off(tmp_path: Path) -> None:
    sampling = {**PRIORS["masked"].example()["sampling"], "guidance": 3.0, "guidance_ramp": "linear"}
    prior = ImagePrior.from_pretrained(write_prior(tmp_path, "ramp", kind="masked", sampling=sampling))
    images = prior.sample(2, classes="circle", guidance=1.0, seed=0)
    assert torch.equal(
        images, prior.sample(2, classes="circle", guidance=1.0, guidance_ramp="constant", seed=0)
    )
    refused(
        lambda: prior.sample(2, classes="circle", guidance=1.0, guidance_ramp="linear"),
        "guidance_ramp needs guidance other than 1",
    )


def test_samples_are_those_of_the_prior_itself_decoded(load: Any, root: Path) -> None:
    image_prior = load("gpt")
    prior = read_prior(root / "artifacts/prior/gpt").prior
    sampling = prior.config.sampling.model_copy(update={"top_k": 3})
    tokens = prior.sample(
        Condition(labels=torch.tensor([2, 2])), 2, sampling, torch_rng(5, "prior", "images")
    )
    assert torch.equal(
        image_prior.sample(2, classes="star", seed=5, top_k=3), image_prior.tokenizer.decode(tokens)
    )
    latents = load("latents")
    assert latents.sample(2).shape == (2, 3, 16, 16)


def test_completions_keep_the_tokens_that_are_not_hidden(load: Any) -> None:
    image, prior = picture(3, True), load("gpt")
    filled = prior.complete(image, keep="top", n=3, classes="circle", seed=1)
    again = prior.complete(prior.preprocess(image)[0], keep="top", n=3, classes="circle", seed=1)
    assert torch.equal(filled, again)
    assert len({one.sum().item() for one in filled}) == 3, "completions differ"
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[5:7, 9] = True  # one position of the second row, third column
    palette = load("classes")
    drawn: list[Tensor] = []
    decode = palette.tokenizer.decode
    palette.tokenizer.decode = lambda codes: drawn.append(codes) or decode(codes)  # type: ignore[func-returns-value]
    try:
        palette.complete(image, mask, n=4)
    finally:
        del palette.tokenizer.decode
    codes = palette.tokenizer.encode(palette.preprocess(image))
    same = drawn[0] == codes
    same[:, :, 1, 2] = True
    assert bool(same.all())
    assert not torch.equal(drawn[0], codes.expand_as(drawn[0]))


def test_masks_mean_the_same_as_pictures_and_tensors(load: Any) -> None:
    prior, wide = load("classes"), Image.new("RGB", (48, 32))
    white = np.zeros((64, 96), dtype=np.uint8)
    white[:, 72:] = 128  # right quarter; the centre square of the image is columns 16 to 80 of the mask
    for mask in (Image.fromarray(white), torch.from_numpy(white > 127)):
        hidden = prior.hidden(wide, mask)[1]
        assert hidden.tolist() == [[False, False, False, True]] * 4
    assert hidden_tokens(keep_mask("centre", 16), (4, 4)).sum() == 12
    assert all(hidden_tokens(keep_mask(part, 16), (4, 4)).sum() == 8 for part in KEPT if part != "centre")
    assert bool(keep_mask("left", 16)[:, 8:].all())
    assert not bool(keep_mask("left", 16)[:, :8].any())
    grey = Image.fromarray(np.full((32, 48), 127, dtype=np.uint8))
    refused(lambda: prior.hidden(wide, grey), "the mask hides nothing")


def test_a_thin_white_part_of_a_large_mask_is_filled(load: Any) -> None:
    image, prior = Image.new("RGB", (160, 160)), load("classes")
    for row in range(80, 90):  # each is one of the 10 rows of the mask that one row of pixels covers
        line = torch.zeros(160, 160, dtype=torch.bool)
        line[row, 3] = True
        hidden = prior.hidden(image, line)[1]
        assert hidden.nonzero().tolist() == [[2, 0]]
    odd = torch.zeros(37, 37, dtype=torch.bool)
    odd[36] = True
    assert prior.hidden(image, odd)[1].sum(1).tolist() == [0, 0, 0, 4]
    small = torch.zeros(4, 4, dtype=torch.bool)
    small[1, 2] = True
    assert prior.hidden(image, small)[1].nonzero().tolist() == [[1, 2]], "a mask that grows keeps its edges"


def test_the_transparent_part_of_a_mask_is_kept(load: Any) -> None:
    white = np.full((16, 16, 4), 255, dtype=np.uint8)
    white[:8, :, 3] = 0
    for mask in (Image.fromarray(white), Image.fromarray(white[..., 2:], "LA")):
        hidden = load("classes").hidden(Image.new("RGB", (16, 16)), mask)[1]
        assert hidden.sum(1).tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("bits", [1, 2, 4, 16])
def test_a_greyscale_map_of_other_than_8_bits_is_refused(load: Any, tmp_path: Path, bits: int) -> None:
    path = write_grey(tmp_path / "map.png", bits, 1)
    expected = ("an 8-bit greyscale or palette PNG", "16 x 16 pixels")
    refused(lambda: load("maps").sample(label_map=path), f"a {bits}-bit greyscale PNG", *expected)
    assert load("maps").read_map(write_grey(tmp_path / "eight.png", 8, 1)).unique().tolist() == [0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_map_has_the_numbers_of_its_palette(load: Any, tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(np.eye(16, dtype=np.uint8)).convert("P")
    image.putdata(np.eye(16, dtype=np.uint8).flatten().tolist())
    image.putpalette([9, 9, 9] * 2**bits)  # whose length gives the depth
    image.save(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[24:26] == bytes([bits, 3])
    assert torch.equal(load("maps").read_map(tmp_path / "map.png"), torch.eye(16).long() - 1)


def test_maps_are_read_as_the_dataset_has_them(load: Any, tmp_path: Path) -> None:
    prior, values = load("maps"), np.zeros((16, 16), dtype=np.uint8)
    values[:4], values[4:8] = 1, 2
    Image.fromarray(values).save(tmp_path / "map.png")
    found = prior.read_map(tmp_path / "map.png")
    assert [int(found[row, 0]) for row in (0, 4, 8)] == [0, 1, -1]
    assert torch.equal(prior.sample(label_map=tmp_path / "map.png"), prior.sample(label_map=found))
    values[0, 0] = 3
    Image.fromarray(values).save(tmp_path / "unknown.png")
    refused(lambda: prior.sample(label_map=tmp_path / "unknown.png"), "value 3", "1 to 2", "1: sky, 2: sea")
    Image.fromarray(values[:8]).save(tmp_path / "flat.png")
    refused(lambda: prior.sample(label_map=tmp_path / "flat.png"), "16 x 8 pixels", "16 x 16 pixels")
    Image.fromarray(values).convert("RGB").save(tmp_path / "colours.png")
    refused(lambda: prior.sample(label_map=tmp_path / "colours.png"), "mode RGB", "one number for each")
    refused(lambda: prior.sample(label_map=tmp_path / "none.png"), "is not a label map", "No such file")
    for own in (found, torch.stack([found, found.flip(0)])):
        for array in (own.numpy(), own.numpy().astype(np.int8), list(own.numpy()) if own.ndim == 3 else own):
            assert torch.equal(prior.sample(label_map=array), prior.sample(label_map=own))
    refused(lambda: prior.sample(label_map=square_map(2)), "unknown class", "0 to 1")
    refused(lambda: prior.sample(label_map=torch.zeros(8, 8)), "images' size", "(b, 16, 16)")


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("gpt", {"text": "a boat"}, ("condition: class", "text (--text)", "classes (--class)")),
        ("gpt", {"label_map": square_map(0)}, ("condition: class", "label_map (--map)")),
        ("gpt-none", {"classes": "circle"}, ("condition: none", "no condition")),
        ("texts", {"classes": 0}, ("condition: text", "text (--text)")),
        ("gpt", {"classes": "circel"}, ("no class circel; did you mean circle?", "circle, square, star")),
        ("gpt", {"classes": 3}, ("no class 3", "an index below 3")),
        ("gpt", {"classes": " "}, ("the prior has no class", "an index below 3")),
        ("maps", {"label_map": ""}, ("is not a label map", "No such file")),
        ("texts", {"text": "a red boat on a green lake"}, ("9 tokens", "at most 6")),
        ("gpt", {"n": 0}, ("n = 0", "1 or more (--n)")),
        ("gpt", {"n": 1, "classes": ["circle", "star"]}, ("n = 1", "2 or more")),
        ("gpt", {"guidance": 2.0}, ("guidance 2.0 needs a condition, and no image has one", "--class")),
        ("gpt-none", {"guidance": 2.0}, ("this prior takes none", "condition: none")),
        ("undropped", {"guidance": 2.0, "classes": 0}, ("not trained", "condition_drop: 0")),
        ("undropped", {}, ("needs a class for each image", "condition_drop: 0", "circle, square, star")),
        ("undropped", {"classes": ["circle", None]}, ("1 of 2 without one",)),
        ("gpt", {"temperature": 0.0}, ("prior.sampling.temperature", "greater than or equal to 0.000001")),
        ("gpt", {"temperature": 1e-310}, ("prior.sampling.temperature", "greater than or equal to 0.000001")),
        ("gpt", {"classes": 0, "guidance": 1e39}, ("prior.sampling.guidance", "less than or equal to 1000000")),
        ("gpt", {"n": 4, "classes": []}, ("an empty list", "classes (--class)", "leave it out")),
        ("maps", {"n": 4, "label_map": torch.zeros(0, 16, 16)}, ("an empty list", "label_map (--map)")),
        ("maps", {"label_map": np.zeros((16, 16))}, ("not a label map", "an array of float64", "whole numbers")),
        ("maps", {"label_map": [Image.new("L", (16, 16))]}, ("not a label map", "Image", "path of a PNG")),
        ("gpt", {"temprature": 1.0}, ("did you mean temperature?", "top_k")),
        ("gpt", {"seed": 0.5}, ("the seed is not a whole number",)),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_before_the_first_step(
    load: Any, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any], parts: tuple[str, ...]
) -> None:
    prior = load(name)
    monkeypatch.setattr(type(prior.prior), "sample", lambda *_: pytest.fail("a step was made"))
    refused(lambda: prior.sample(**arguments), *parts)


EVERYTHING = torch.ones(16, 16, dtype=torch.bool)


@pytest.mark.parametrize(
    ("name", "arguments", "parts"),
    [
        ("gpt", {"keep": "left"}, ("takes a prefix", "row 0, column 2", "row 3, column 1", "--keep top", "palette")),
        ("latents", {"keep": "top"}, ("takes no known tokens", "8 known tokens of 16", "choices:  gpt")),
        ("classes", {"mask": EVERYTHING}, ("hides everything", "16 of 16", "vqpipe sample")),
        ("classes", {"mask": ~EVERYTHING}, ("hides nothing", "0 of 16", "white (above 127)")),
        ("classes", {"mask": EVERYTHING[:8]}, ("aspect", "16 x 8 pixels", "16 x 16")),
        ("classes", {"mask": EVERYTHING.float()}, ("not a mask", "torch.float32", "boolean tensor")),
        ("classes", {}, ("neither", "--mask", "--keep")),
        ("classes", {"mask": EVERYTHING, "keep": "top"}, ("both",)),
        ("classes", {"keep": "topp"}, ("did you mean top?", "centre")),
        ("classes", {"keep": "top", "n": 0}, ("n = 0",)),
        ("classes", {"keep": "top", "guidance": 3.0}, ("needs a condition, and no image has one",)),
        ("classes", {"keep": "top", "text": "a boat"}, ("condition: class",)),
    ],
)  # fmt: skip
def test_what_cannot_be_completed_is_refused_before_the_first_step(
    load: Any, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any], parts: tuple[str, ...]
) -> None:
    prior = load(name)
    monkeypatch.setattr(type(prior.prior), "sample", lambda *_: pytest.fail("a step was made"))
    refused(lambda: prior.complete(picture(0, True), **arguments), *parts)


def test_an_image_of_another_size_is_refused(load: Any) -> None:
    refused(lambda: load("gpt").complete(torch.zeros(3, 32, 32), keep="top"), "(3, 32, 32)", "(3, 16, 16)")
    refused(lambda: load("gpt").complete("photo.jpg", keep="top"), "not PIL images")


def test_parts_are_found_next_to_the_artifact_or_where_they_are_given(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    images = ImagePrior.from_pretrained("texts").sample(2, text="a boat")
    alone = tmp_path / "texts"
    shutil.copytree(root / "artifacts/prior/texts", alone)
    refused(lambda: ImagePrior.from_pretrained(alone), "the tokenizer of", "is not there", "(--tokenizer)")
    tokenizer = root / "artifacts/tokenizer/vq"
    refused(lambda: ImagePrior.from_pretrained(alone, tokenizer=tokenizer), "the clip of", "(--clip)")
    given = ImagePrior.from_pretrained(alone, tokenizer=tokenizer, clip=root / "artifacts/clip")
    assert torch.equal(given.sample(2, text="a boat"), images)
    refused(lambda: ImagePrior.from_pretrained("gpt", clip=root / "artifacts/clip"), "does not use a CLIP")


def test_another_tokenizer_or_text_encoder_is_refused(root: Path, tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other", seed=1)
    artifact = root / "artifacts/prior/texts"
    refused(
        lambda: ImagePrior.from_pretrained(artifact, tokenizer=other), "another tokenizer", "found:    vq, sha256",
        "expected: vq, sha256", "--tokenizer",
    )  # fmt: skip
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("tests.tiny.seed_everything", lambda *_: torch.manual_seed(9))
        clip = write_tiny_clip(tmp_path / "clip")
    refused(lambda: ImagePrior.from_pretrained(artifact, clip=clip), "another text encoder", "tiny:fresh:")


def test_a_name_that_is_no_prior_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    refused(lambda: ImagePrior.from_pretrained("gtp"), "no prior gtp; did you mean gpt?", "choices:  classes")
    refused(lambda: ImagePrior.from_pretrained("./gpt"), "gpt does not exist")
    monkeypatch.setattr(hub, "hf_hub_download", Remote(Path("none"), Path("cache")).download)
    for near in ("artifacts/prior/gtp", root / "artifacts/prior/gtp", "./artifacts/prior/gtp"):
        refused(
            lambda near=near: ImagePrior.from_pretrained(near), "gtp; did you mean gpt?", "choices:  classes"
        )
    monkeypatch.chdir(root / "artifacts")
    refused(lambda: ImagePrior.from_pretrained("prior/gtp"), "prior/gtp; did you mean gpt?", "owner/name")
    refused(lambda: ImagePrior.from_pretrained("tokenizer/vqq"), "tokenizer/vqq on the Hub")
    refused(
        lambda: ImagePrior.from_pretrained(root / "artifacts/tokenizer/vq"),
        "another kind of artifact",
        "prior v1",
    )
    for given in ("", None, 3):
        with pytest.raises(ArtifactError, match="does not name a prior"):
            ImagePrior.from_pretrained(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "condition"),
    [("gpt", {"classes": "circle", "guidance": 2.0}), ("texts", {"text": "a boat"}), ("latents", {})],
)
def test_an_exported_prior_draws_the_same_bytes(
    load: Any, tmp_path: Path, name: str, condition: dict[str, Any]
) -> None:
    prior = load(name)
    export_prior(prior, tmp_path / "one", license="mit")
    export_prior(prior, tmp_path / "two", license="mit")
    assert read_manifest(tmp_path / "one") == read_manifest(tmp_path / "two")
    again = ImagePrior.from_pretrained(tmp_path / "one")
    assert torch.equal(again.sample(3, **condition, seed=2), prior.sample(3, **condition, seed=2))
    assert (again.prior.config, again.prior.space) == (prior.prior.config, prior.prior.space)
    assert not verify([tmp_path / "one"]).problems
    (tmp_path / "one/README.md").write_text("a card that was edited on the Hub")
    (
        tmp_path / "one/manifest.json"
    ).unlink()  # of the files on the Hub, only those that are needed are loaded
    assert torch.equal(
        ImagePrior.from_pretrained(tmp_path / "one").sample(3, **condition), prior.sample(3, **condition)
    )
    export_prior(again, tmp_path / "three", license="mit")
    assert read_manifest(tmp_path / "three") == read_manifest(tmp_path / "two")


@pytest.mark.parametrize("kind", PRIORS._places)
def test_every_prior_of_the_table_is_drawn_from_completed_and_exported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = PRIORS[kind]
    given: dict[str, dict[str, Any]] = {
        "none": {}, "class": {"classes": ["circle", None]}, "text": {"text": ["a boat", None]},
        "label_map": {"label_map": [square_map(1), None]},
    }  # fmt: skip
    for condition in own.conditions:
        prior = ImagePrior.from_pretrained(write_prior(tmp_path, condition, kind=kind, condition=condition))
        guidance = {} if condition == "none" else {"guidance": 2.0}
        images = prior.sample(2, **given[condition], **guidance, seed=1)
        assert images.shape == (2, 3, 16, 16)
        assert bool(images.isfinite().all())
        if own.known_tokens != "none":
            filled = prior.complete(picture(0, True), keep="top", n=2, **{
                name: value[0] for name, value in given[condition].items()
            })  # fmt: skip
            assert filled.shape == (2, 3, 16, 16)
    export_prior(prior, tmp_path / "out")
    again = ImagePrior.from_pretrained(tmp_path / "out")
    assert torch.equal(again.sample(2, **given[condition], **guidance, seed=1), images)
    monkeypatch.chdir(tmp_path)
    picture(0, True).save("photo.jpg")
    Image.fromarray(np.ones((16, 16), dtype=np.uint8)).save("map.png")
    snippet = (tmp_path / "out/README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(snippet.replace("OWNER/NAME", str(tmp_path / "out")), {})
    assert Path("sample.png").is_file()


def test_an_exported_folder_that_was_changed_is_refused(load: Any, tmp_path: Path) -> None:
    export_prior(load("gpt"), tmp_path / "gpt")
    path = tmp_path / "gpt/config.json"
    config = json.loads(path.read_text())
    for changed, message in (
        ({"model_type": "clip"}, "another library's model"),
        ({"model_type": "clip"}, "model_type: clip"),
        ({**config, "version": 9}, "exported-prior v9"),
        ({**config, "spec": "tokenizer"}, "another kind of artifact"),
        ({**config, "facts": {**config["facts"], "grid": [2, 2]}}, "differ"),
    ):  # fmt: skip
        path.write_text(json.dumps(changed))
        refused(lambda: ImagePrior.from_pretrained(tmp_path / "gpt"), message)
    path.write_text("{")
    refused(lambda: ImagePrior.from_pretrained(tmp_path / "gpt"), "cannot be read as JSON")
    assert PLACE.is_one(tmp_path / "gpt"), "the manifest says so"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years")
    refused(lambda: export_prior(load("gpt"), tmp_path / "mine"), "would be lost", "thesis.tex")


@pytest.mark.parametrize("damaged", [False, True])
def test_what_was_put_in_an_exported_folder_is_not_lost(load: Any, tmp_path: Path, damaged: bool) -> None:
    out = tmp_path / "shared"
    export_prior(load("texts"), out)
    whole = read_manifest(out)
    if damaged:
        text = (out / "manifest.json").read_text()
        (out / "manifest.json").write_text(text.replace('"bytes"', '"size"'))
    (out / "NOTES.txt").write_text("mine")
    (out / "figures").mkdir()
    refused(lambda: export_prior(load("texts"), out), "found:    NOTES.txt, figures", "would be lost")
    assert (out / "NOTES.txt").read_text() == "mine"
    (out / "NOTES.txt").unlink()
    (out / "figures").rmdir()
    export_prior(load("texts"), out)
    assert read_manifest(out) == whole


def test_the_card_names_what_it_is_and_what_was_measured(load: Any, tmp_path: Path) -> None:
    export_prior(load("texts"), tmp_path / "texts", license="mit")
    text = (tmp_path / "texts/README.md").read_text()
    assert "license: mit\n" in text
    assert "pipeline_tag: text-to-image\n" in text
    assert "| codes | 16 |" in text
    assert "Not measured here" in text
    assert "at most 6 tokens" in text
    assert "The features of texts come from the weights `tiny:fresh:" in text
    export_prior(load("gpt"), tmp_path / "gpt")
    text = (tmp_path / "gpt/README.md").read_text()
    assert "Classes: circle, square, star." in text
    assert "classes='circle'" in text
    export_prior(load("maps"), tmp_path / "maps")
    assert (
        "from value 1 of a map's PNG on (0 is none): sky, sea." in (tmp_path / "maps/README.md").read_text()
    )


@pytest.mark.parametrize("model", ["./mini", "mini"])
def test_a_sentence_model_is_named_and_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    text = {"encoder": "sentence_transformer", "max_tokens": 6, "model": model}
    folder = write_prior(tmp_path, "sentences", kind="palette", condition="text", text=text)
    clip = tmp_path / "artifacts/clip"
    encoder = ClipText(Clip.load(clip), 6)  # in place of a model that need not be installed
    monkeypatch.setattr("vqpipe.library.priors.SentenceText", lambda model, length: encoder)
    refused(lambda: ImagePrior.from_pretrained(folder, clip=clip), "does not use a CLIP")
    prior = ImagePrior.from_pretrained(folder)
    if model == "./mini":
        refused(lambda: export_prior(prior, tmp_path / "out"), "a folder of this machine", "./mini")
        return
    export_prior(prior, tmp_path / "out")
    assert not (tmp_path / "out/clip").exists()
    assert "is not in this folder: install it" in (tmp_path / "out/README.md").read_text()
    assert torch.equal(
        ImagePrior.from_pretrained(tmp_path / "out").sample(2, text="sky"), prior.sample(2, text="sky")
    )


class Remote:
    """A Hub of one repository that lies in a folder; counts what was asked of it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache / "snapshots/c0ffee"
        self.asked: list[tuple[str, str | None]] = []

    def download(self, repo_id: str, filename: str, *, revision: str | None = None, **_: Any) -> str:
        self.asked.append((filename, revision))
        if not (self.folder / filename).is_file():
            raise hub.EntryNotFoundError("404: no such file")
        target = self.cache / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / filename, target)
        return str(target)


def test_a_prior_on_the_hub_is_read_from_one_commit(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_prior(load("texts"), tmp_path / "remote")
    remote = Remote(tmp_path / "remote", tmp_path / "cache")
    monkeypatch.setattr(hub, "hf_hub_download", remote.download)
    again = ImagePrior.from_pretrained("some/one", revision="main")
    assert torch.equal(again.sample(2, text="a boat"), load("texts").sample(2, text="a boat"))
    assert remote.asked[0] == ("config.json", "main")
    assert {revision for _, revision in remote.asked[1:]} == {"c0ffee"}
    assert {name.split("/")[0] for name, _ in remote.asked} == {
        "config.json", "model.safetensors", "tokenizer", "clip",
    }  # fmt: skip
    remote.asked.clear()
    (tmp_path / "remote/config.json").write_text('{"model_type": "clip"}')
    refused(lambda: ImagePrior.from_pretrained("some/one"), "some/one on the Hub", "another library's model")
    assert [name for name, _ in remote.asked] == ["config.json"], "no weights of another library are loaded"
    (tmp_path / "remote/config.json").unlink()
    refused(lambda: ImagePrior.from_pretrained("some/one"), "has no prior of this library", "vqpipe export")


def test_classes_are_found_by_name_and_index(load: Any) -> None:
    assert [load("gpt").class_index(name) for name in (*CLASSES, "1", 2)] == [0, 1, 2, 1, 2]
    with pytest.raises(MismatchError):
        load("gpt").class_index(-1)
    with pytest.raises(ParamsError):
        load("gpt").sample(guidance=1.0, n=True)
