"""`vqpipe sample`, `complete` and the export of a prior: grids, what is never overwritten, messages."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vqpipe.library.prior_export as prior_export
import vqpipe.priors as priors
from tests.prior_folders import write_prior
from tests.tiny import picture
from tests.toy_priors import PLACES
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import publish_sealed
from vqpipe.cli.app import app
from vqpipe.cli.tokenizers import _is_prior
from vqpipe.data.loader import to_uint8
from vqpipe.library.choices import KEPT
from vqpipe.library.priors import ImagePrior
from vqpipe.priors import PRIORS
from vqpipe.priors.artifact import prior_digest


@pytest.fixture(scope="module", autouse=True)
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of every test: artifacts of a few priors, a photo and a label map; toys in the table."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        for kind, place in PLACES.items():
            patch.setitem(PRIORS._places, kind, place)
        patch.setattr(priors, "AnyPrior", PRIORS.params())
        patch.setenv("VQPIPE_DEVICE", "cpu")
        patch.chdir(root)
        write_prior(root, "gpt")
        write_prior(root, "texts", kind="palette", condition="text")
        write_prior(root, "maps", kind="palette", condition="label_map")
        picture(1, True).resize((24, 16)).save(root / "photo.png")
        Image.fromarray(np.full((16, 16), 2, dtype=np.uint8)).save(root / "map.png")
        yield root


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def test_a_grid_has_the_images_of_the_library(tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    arguments = (
        "--prior",
        "gpt",
        "--class",
        "circle",
        "--class",
        "2",
        "--n",
        5,
        "--guidance",
        2,
        "--seed",
        7,
    )
    code, output = run("sample", *arguments, "--set", "top_k=4", "--out", out)
    assert code == 0, output
    assert f"wrote {out}: 5 images of a prior gpt (condition class) on the tokenizer vq, seed 7" in output
    images = ImagePrior.from_pretrained("gpt").sample(5, classes=["circle", 2], guidance=2.0, seed=7, top_k=4)
    sheet = pixels(out)
    assert sheet.shape == (2 * 18 - 2, 3 * 18 - 2, 3)
    assert np.array_equal(sheet[18:34, :16], to_uint8(images[3]).permute(1, 2, 0).numpy())
    stated = json.loads(Image.open(out).info["vqpipe"])
    assert (stated["class"], stated["seed"]) == (["circle", "2"], 7)
    drawn_by = ImagePrior.from_pretrained("gpt")
    stored = drawn_by.prior.config.sampling.model_dump(mode="json")
    assert stated["sampling"] == {**stored, "top_k": 4, "guidance": 2.0}
    assert stated["sha256"] == prior_digest(drawn_by.prior, drawn_by.stored.facts)
    before = out.read_bytes()
    assert run("sample", *arguments, "--set", "top_k=4", "--out", out)[0] == 0, "its own grid is replaced"
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--prior", "texts", "--text", "a red boat", "--guidance", 3),
        ("--prior", "maps", "--map", "map.png"),
        ("--prior", "artifacts/prior/gpt"),
    ],
)
def test_texts_maps_and_no_condition_are_drawn(tmp_path: Path, options: tuple[object, ...]) -> None:
    code, output = run("sample", *options, "--n", 4, "--out", tmp_path / "grid.png")
    assert code == 0, output
    assert pixels(tmp_path / "grid.png").shape == (34, 34, 3)


def test_a_completion_shows_what_is_kept_then_the_completions_then_the_image(tmp_path: Path) -> None:
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[16:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "grid.png"
    options = ("photo.png", "--prior", "gpt", "--class", "star", "--n", 3, "--seed", 1)
    code, output = run("complete", *options, "--mask", tmp_path / "mask.png", "--out", out)
    assert code == 0, output
    assert "3 completions of photo.png by a prior gpt (condition class)" in output
    assert "8 of 16 positions drawn" in output
    sheet = pixels(out)
    kept, *filled, original = (sheet[:, at * 18 : at * 18 + 16] for at in range(5))
    prior = ImagePrior.from_pretrained("gpt")
    assert np.array_equal(original, to_uint8(prior.preprocess(Image.open("photo.png")))[0].permute(1, 2, 0))
    assert np.array_equal(kept[:8], original[:8])
    assert (kept[8:] == 128).all()
    drawn = prior.complete(Image.open("photo.png"), keep="top", n=3, classes="star", seed=1)
    assert np.array_equal(np.stack(filled), to_uint8(drawn).permute(0, 2, 3, 1).numpy())
    code, _ = run("complete", *options, "--keep", "top", "--out", tmp_path / "keep.png")
    assert code == 0
    assert np.array_equal(pixels(tmp_path / "keep.png"), sheet)


def test_a_completion_states_its_condition(tmp_path: Path) -> None:
    for options, stated in (
        (("gpt", "--class", "star"), {"class": ["star"]}), (("texts", "--text", "sky"), {"text": ["sky"]}),
        (("maps", "--map", "map.png"), {"map": ["map.png"]}), (("gpt",), {}),
    ):  # fmt: skip
        out = tmp_path / "grid.png"
        for command in (("sample", "--n", 1), ("complete", "photo.png", "--keep", "top", "--n", 1)):
            code, output = run(*command, "--prior", *options, "--out", out)
            assert code == 0, output
            found = json.loads(Image.open(out).info["vqpipe"])
            assert {key: found[key] for key in ("class", "text", "map") if key in found} == stated
            assert len(found["sha256"]) == 64
            assert "guidance" in found["sampling"], "as used, not only what was changed"


@pytest.mark.parametrize("turned", [False, True])
def test_the_transparent_part_of_a_mask_is_kept(tmp_path: Path, turned: bool) -> None:
    white = np.full((16, 24, 4), 255, dtype=np.uint8)
    white[:8, :, 3] = 0
    mask, exif = Image.fromarray(white), Image.Exif()
    if turned:
        exif[0x0112] = 3  # upside down
        mask = mask.rotate(180)
    mask.save(tmp_path / "mask.png", exif=exif)
    options = ("complete", "photo.png", "--prior", "gpt", "--n", 2)
    code, output = run(*options, "--mask", tmp_path / "mask.png", "--out", tmp_path / "a.png")
    assert code == 0, output
    assert run(*options, "--keep", "top", "--out", tmp_path / "b.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_the_parts_that_can_be_kept_are_those_of_the_library() -> None:
    code, output = run("complete", "photo.png", "--prior", "gpt", "--keep", "tops", "--out", "a.png")
    assert code == 2
    assert ", ".join(map(repr, KEPT)) in output


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("sample", "--prior", "gpt", "--text", "a boat"), ("condition: class", "text (--text)", "(--class)")),
        (("sample", "--prior", "texts", "--text", "a red boat on a green lake"), ("9 tokens", "at most 6")),
        (("sample", "--prior", "gpt", "--class", "stat"), ("did you mean star?", "choices:  circle")),
        (("sample", "--prior", "gpt", "--class", ""), ("the prior has no class", "choices:  circle")),
        (("sample", "--prior", "gtp"), ("no prior gtp; did you mean gpt?",)),
        (("sample", "--prior", "artifacts/prior/gtp"), ("gtp; did you mean gpt?", "choices:  gpt, maps, texts")),
        (("sample", "--prior", "texts", "--text", "sky", "--text", ""), ("an empty text", "no --text")),
        (("complete", "photo.png", "--prior", "texts", "--keep", "top", "--text", " "), ("an empty text",)),
        (("sample", "--prior", "gpt", "--set", "topk=3"), ("did you mean top_k?",)),
        (("sample", "--prior", "gpt", "--set", "top_k"), ("--set changes one param", "key=value")),
        (("sample", "--prior", "gpt", "--set", "guidance=2", "--guidance", 3), ("guidance=2", "each once")),
        (("sample", "--prior", "gpt", "--set", "n=3"), ("sampling has no param n", "temperature")),
        (("sample", "--prior", "gpt", "--n", 0), ("--n",)),
        (("sample", "--prior", "maps", "--map", "photo.png"), ("mode RGB", "one number for each")),
        (("complete", "photo.png", "--prior", "gpt", "--keep", "right"), ("takes a prefix", "palette")),
        (("complete", "photo.png", "--prior", "gpt", "--mask", "map.png"), ("aspect", "16 x 16", "24 x 16")),
        (("complete", "photo.png", "--prior", "gpt"), ("neither", "--mask", "--keep")),
        (("complete", "none.png", "--prior", "gpt", "--keep", "top"), ("none.png is not a file",)),
        (("complete", "artifacts/prior/gpt/manifest.json", "--prior", "gpt", "--keep", "top"), ("usable image",)),
    ],
)  # fmt: skip
def test_mistakes_exit_2_before_anything_is_written(
    tmp_path: Path, arguments: tuple[object, ...], parts: tuple[str, ...]
) -> None:
    code, output = run(*arguments, "--out", tmp_path / "grid.png")
    assert code == 2, output
    for part in parts:
        assert part in output, output
    assert not (tmp_path / "grid.png").exists()


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(Path("photo.png").read_bytes())
    for out, message in (
        (photo, "another picture"), (tmp_path, "is a folder"), (tmp_path / "grid.jpg", "ends in .png"),
    ):  # fmt: skip
        code, output = run("sample", "--prior", "gpt", "--out", out)
        assert code == 2
        assert message in output
    code, output = run("complete", photo, "--prior", "gpt", "--keep", "top", "--out", photo)
    assert code == 2
    assert "would replace the other" in output
    assert photo.read_bytes() == Path("photo.png").read_bytes()


class Part(Metrics):
    """Numbers of one set."""

    fd_clip: float | None = None
    """Frechet distance of CLIP embeddings. Lower is better."""
    copies: int
    """How many are copies."""


class Record(Metrics):
    """What was measured."""

    protocol: dict[str, str]


class Few(Metrics):
    """A part of what the stage measures."""

    condition: str
    num_parameters: int
    num_samples: int
    sha256: str
    samples: dict[str, Part]
    """Sets of samples."""
    measured: Record


def test_a_prior_is_exported_with_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_export, "PriorMetrics", Few)
    stored = ImagePrior.from_pretrained("gpt").stored
    own = prior_digest(stored.prior, stored.facts)

    def write(**changes: Any) -> Path:
        part = {"plain": {"fd_clip": 1.5, "copies": 2}, "floor": {"copies": 0}}
        content = {
            "condition": "class", "num_parameters": 9, "num_samples": 64, "samples": part, "sha256": own,
            "measured": {"protocol": {"features": "clip x"}}, **changes,
        }  # fmt: skip
        publish_sealed(tmp_path / "metrics.json", content)
        return tmp_path / "metrics.json"

    out = tmp_path / "shared"
    code, output = run("export", "gpt", "--out", out, "--metrics", write(), "--license", "mit")
    assert code == 0, output
    assert f"wrote {out}: a prior with all that it needs" in output
    text = (out / "README.md").read_text()
    assert "license: mit\n" in text
    assert "64 samples and as many test images" in text
    assert "| samples.plain.fd\\_clip | 1.5 | Frechet distance of CLIP embeddings |" in text
    assert "| samples.floor.copies | 0 | How many are copies |" in text
    assert "measured" not in text.split("| metric |")[1].split("##")[0]
    code, output = run("export", "gpt", "--out", out, "--metrics", write(sha256="0" * 64))
    assert code == 2
    assert "numbers of another prior" in output
    assert "found:    sha256 000000000000…, condition class, 9 parameters" in output
    assert f"expected: sha256 {own[:12]}…" in output
    shared = ImagePrior.from_pretrained(out).stored
    assert prior_digest(shared.prior, shared.facts) == own, "an exported prior is the same one"
    code, output = run("sample", "--prior", out, "--class", "star", "--out", tmp_path / "a.png")
    assert code == 0, output
    assert run("sample", "--prior", "gpt", "--class", "star", "--out", tmp_path / "b.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_command_that_an_export_proposes_has_the_condition_that_the_prior_needs(tmp_path: Path) -> None:
    write_prior(Path(), "undropped", drop=0.0)
    for name, options in (("gpt", ""), ("undropped", " --class NAME")):
        out = tmp_path / f"of {name}"
        code, output = run("export", name, "--out", out)
        assert code == 0, output
        assert f"draw with it: vqpipe sample --prior '{out}'{options} --out grid.png" in output


def test_a_prior_is_named_from_within_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("artifacts/prior/gpt")
    code, output = run("sample", "--prior", ".", "--n", 1, "--out", tmp_path / "grid.png")
    assert code == 0, output


def test_options_of_priors_are_refused_for_tokenizers(tmp_path: Path) -> None:
    code, output = run("export", "artifacts/tokenizer/vq", "--license", "mit", "--out", tmp_path / "onnx")
    assert code == 2
    assert "is no prior" in output
    assert "--license" in output
    assert _is_prior("gpt")
    assert not _is_prior("artifacts/tokenizer/vq")


def test_a_name_of_a_prior_and_a_tokenizer_is_asked_for_by_its_path(tmp_path: Path) -> None:
    copy = shutil.copytree("artifacts/tokenizer/vq", "artifacts/tokenizer/gpt")
    code, output = run("export", "gpt", "--out", tmp_path / "out")
    assert code == 2
    assert "gpt is the name of a prior and of a tokenizer" in output
    assert "artifacts/prior/gpt, artifacts/tokenizer/gpt" in output
    assert _is_prior("artifacts/prior/gpt")
    assert not _is_prior("artifacts/tokenizer/gpt")
    shutil.rmtree(copy)


@pytest.mark.parametrize("given", ["gtp", "artifacts/prior/gtp"])
def test_a_mistyped_prior_to_export_is_looked_for_among_priors(given: str, tmp_path: Path) -> None:
    code, output = run("export", given, "--out", tmp_path / "out")
    assert code == 2
    assert re.search(rf"there is no prior( or tokenizer)? {given}; did you mean gpt\?", output), output


def test_a_prior_on_the_hub_is_known_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.json"
    monkeypatch.setattr("vqpipe.library.hub.download", lambda name, file, what: config)
    for spec, is_prior in (("exported-prior", True), ("tokenizer", False)):
        config.write_text(json.dumps({"spec": spec}))
        assert _is_prior("owner/name") is is_prior


def test_a_mask_of_zeros_and_ones_is_explained(tmp_path: Path) -> None:
    ones = np.zeros((16, 24), dtype=np.uint8)
    ones[8:] = 1
    Image.fromarray(ones).save(tmp_path / "mask.png")
    code, output = run(
        "complete",
        "photo.png",
        "--prior",
        "gpt",
        "--mask",
        tmp_path / "mask.png",
        "--out",
        tmp_path / "g.png",
    )
    assert code == 2
    assert "the mask hides nothing" in output
    assert "white (above 127)" in output
