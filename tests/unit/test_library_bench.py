"""`vqpipe bench-tokenizers`: the numbers of `vqpipe evaluate` for each tokenizer, at one resolution, in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from skimage.color import rgb2ycbcr
from typer.testing import CliRunner

from tests.recipes import every_recipe, make_tokenizer
from tests.tiny import TOKENIZER, picture, write_tiny_clip, write_tokenizer
from vqpipe.cli.app import app
from vqpipe.errors import ArtifactError, DataError, MismatchError, ParamsError, SetupError
from vqpipe.evaluation import damage
from vqpipe.evaluation.bench import PartSizes, TokenizersBench, psnr_y
from vqpipe.evaluation.evaluate import evaluate_folder
from vqpipe.library import bench as library_bench
from vqpipe.library.bench import bench_tokenizers, cells, common_resolution, markdown_page, names_of, notes
from vqpipe.library.hub import Tokenizer
from vqpipe.metrics.images import PSNR_IDENTICAL
from vqpipe.params.base import validate
from vqpipe.quantizers import build
from vqpipe.tokenizers.tokenizer import TokenizerParams

pytestmark = pytest.mark.slow

COUNT = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers `a` (K = 16) and `b` (K = 64) of 16 pixels, `coarse` of 32 pixels and 8 per token; images; a CLIP."""
    root = tmp_path_factory.mktemp("bench")
    write_tokenizer(root / "a")
    write_tokenizer(root / "b", seed=1, num_codes=64)
    section = {**TOKENIZER, "resolution": 32, "trunk": {**TOKENIZER["trunk"], "patch": 8}}
    config = validate(section, "tokenizer", TokenizerParams)
    Tokenizer(config, build(config.quantizer, None)).save(root / "coarse", {})
    write_tiny_clip(root / "clip")
    (root / "photos").mkdir()
    for index in range(COUNT):
        picture(index, bool(index % 2)).save(root / f"photos/{index:02d}.png")
    (root / "photos/notes.txt").write_text("no image")
    return root


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, the CPU, and no optional package, whether or not one is installed."""
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_DEVICE", "cpu")
    monkeypatch.setattr(damage, "find_spec", lambda name: None)


def measure(place: Path, *names: str, **options: Any) -> TokenizersBench:
    options = {"repeats": 1, "clip": place / "clip", **options}
    return bench_tokenizers(place / "photos", [str(place / name) for name in names or ("a", "b")], **options)


def timeless(found: TokenizersBench) -> dict[str, Any]:
    content = found.plain()
    for one in content["tokenizers"]:
        del one["speed"]
    return content


def test_the_numbers_are_those_of_evaluate(place: Path) -> None:
    found = measure(place)
    assert [one.name for one in found.tokenizers] == ["a", "b"]
    for one in found.tokenizers:
        alone = evaluate_folder(place / "photos", Tokenizer.from_pretrained(place / one.name), place / "clip")
        own = one.plain()
        for name in ("psnr", "ssim", "l1", "l2", "clip_distance", "fd_clip", "kd_clip", "bits_per_image"):
            assert own[name] == alone[name], name
        for name, value in own["codes"]["code"].items():
            assert value == alone["codes"]["code"][name], name
        assert found.left_out_files == alone["left_out"] == {"other_file": 1}
        assert found.measured.images.plain() == alone["measured"]["images"]
    first, second = found.tokenizers
    assert (first.bits_per_image, second.bits_per_image, first.bits_per_pixel) == (64, 96, 0.25)
    assert first.codes["code"].num_tokens == COUNT * 16
    assert first.sha256 != second.sha256
    assert first.sizes.quantizer == 16 * 4
    assert (first.text, first.faces) == (None, None)
    model = Tokenizer.from_pretrained(place / "a")
    sizes = first.sizes
    assert sizes.encoder + sizes.quantizer + sizes.decoder == sum(p.numel() for p in model.parameters())


def test_evaluate_takes_a_name_below_artifacts_as_the_other_tools_do(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "a", tmp_path / "artifacts/tokenizer/lc")
    words = ["evaluate", str(place / "photos"), "--tokenizer"]
    done = CliRunner().invoke(app, [*words, "lc"])
    assert done.exit_code == 0, done.output
    folder = CliRunner().invoke(app, [*words, str(place / "a")])
    assert json.loads(done.stdout) == json.loads(folder.stdout)
    wrong = CliRunner().invoke(app, [*words, "lcc"])
    assert wrong.exit_code == 2
    assert "there is no tokenizer lcc; did you mean lc?" in wrong.output


def test_two_runs_differ_in_speed_alone(place: Path) -> None:
    found = measure(place)
    assert timeless(found) == timeless(measure(place))
    reverse = measure(place, "b", "a")
    assert timeless(reverse)["tokenizers"] == timeless(found)["tokenizers"][::-1]
    assert found.tokenizers[0].speed.batch_size == COUNT
    assert measure(place, "a", batch_size=5).tokenizers[0].speed.batch_size == 5


def test_one_image_has_no_interval(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "photos/00.png", tmp_path)
    options: dict[str, Any] = {"features": "none", "perceptual": "none", "repeats": 1}
    found = bench_tokenizers(tmp_path, [str(place / "a")], **options)
    mean = found.tokenizers[0].psnr.mean
    assert f"| {mean:.2f} |" in library_bench.markdown_page(found)
    alone = evaluate_folder(tmp_path, Tokenizer.from_pretrained(place / "a"), None)
    assert alone["psnr"] == {"mean": mean}


def test_codes_that_are_averaged_count_as_buffers() -> None:
    model = make_tokenizer(every_recipe()["ema-data"])
    sizes, (codes,) = PartSizes.count(model), [book.vectors for book in model.codebooks()]
    assert sizes.quantizer == 0
    assert sizes.quantizer_buffers == 2 * codes.numel() + len(codes)  # codes, sums, cluster sizes


def test_psnr_of_y_is_bt601_in_full_range() -> None:
    generator = torch.Generator().manual_seed(0)
    images, again = torch.randint(0, 256, (2, 3, 3, 12, 12), dtype=torch.uint8, generator=generator)
    studio = [rgb2ycbcr(one.permute(0, 2, 3, 1).numpy())[..., 0] for one in (images, again)]
    mse = ((studio[0] - studio[1]) ** 2).mean(axis=(1, 2))
    expected = 10 * np.log10(255**2 / mse) - 20 * np.log10(255 / 219)
    assert psnr_y(images, again) == pytest.approx(expected, abs=1e-3)
    assert psnr_y(images, images).tolist() == [PSNR_IDENTICAL] * 3


def test_other_resolutions_need_one_that_is_asked_for(place: Path) -> None:
    with pytest.raises(MismatchError, match=r"a: 16, coarse: 32\n.*multiple of 8(.|\n)*--resolution 32"):
        measure(place, "a", "coarse")
    found = measure(place, "a", "coarse", resolution=32)
    assert [one.grid for one in found.tokenizers] == ["8 x 8", "4 x 4"]
    assert [one.bits_per_image for one in found.tokenizers] == [256, 64]
    assert [one.trained_resolution for one in found.tokenizers] == [16, 32]
    assert found.tokenizers[0].codes["code"].num_tokens == COUNT * 64
    assert found.protocol.resolution == 32
    assert found.measured.images.pixels == "3 x 32 x 32"
    assert any(line.startswith("Trained at another resolution: a;") for line in notes(found))
    models = {name: Tokenizer.from_pretrained(place / name) for name in ("a", "coarse")}
    with pytest.raises(ParamsError, match="coarse takes multiples of 8"):
        common_resolution(models, 20)
    with pytest.raises(ParamsError, match="coarse takes multiples of 8"):
        common_resolution(models, 4)


def test_names_are_short_where_they_can_be(place: Path) -> None:
    (place / "more").mkdir(exist_ok=True)
    (place / "more/a").mkdir(exist_ok=True)
    one, other = str(place / "a"), str(place / "more/a")
    assert names_of([one, "owner/name"]) == ["a", "owner/name"]
    assert names_of([one, other]) == [one, other]
    with pytest.raises(ArtifactError, match="given twice"):
        names_of([one, one])
    with pytest.raises(ArtifactError, match=r"given twice\n  found: .*more/\.\./a"):
        names_of([one, str(place / "more/../a")])
    with pytest.raises(ArtifactError, match="no tokenizer"):
        names_of([])


def test_what_is_left_out_is_named_with_what_adds_it(place: Path) -> None:
    without = measure(place, "a", clip=None).left_out
    for start in ("FID: --features inception", "distances between sets", "LPIPS: ", "a perceptual distance: --clip",
                  "damage to text: rapidocr", "damage to faces: facenet-pytorch"):  # fmt: skip
        assert sum(reason.startswith(start) for reason in without) == 1, start
    assert len(without) == 6
    assert measure(place, "a", damage=False).left_out[-1] == "damage to text and faces: --no-damage"
    few = place / "few"
    few.mkdir(exist_ok=True)
    for index in range(3):
        picture(index, True).save(few / f"{index}.png")
    found = bench_tokenizers(few, [str(place / "a")], clip=place / "clip", repeats=1)
    assert found.tokenizers[0].fd_clip is None
    assert any(
        reason.startswith("fd_clip, kd_clip, precision_clip, recall_clip: 3 images")
        for reason in found.left_out
    )
    assert found.protocol.features == "none"
    for option in ("features", "perceptual"):
        with pytest.raises(MismatchError, match=f"--{option} is clip"):
            measure(place, "a", clip=None, **{option: "clip"})


def test_weights_that_are_asked_for_must_be_on_disk(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for option, choice, message in (
        ("features", "inception", "needs torch-fidelity's Inception weights"),
        ("perceptual", "lpips_alex", r"LPIPS needs the ImageNet weights of its trunk \(alex\)"),
        ("perceptual", "lpips_vgg", r"LPIPS needs the ImageNet weights of its trunk \(vgg\)"),
    ):
        with pytest.raises(SetupError, match=message):
            measure(place, "a", **{option: choice})
    none = measure(place, "a", features="none", perceptual="none").tokenizers[0]
    assert (none.fd_clip, none.clip_distance) == (None, None)


class Reader:
    """Reads the brightness of an image."""

    name = "brightness"

    def find(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        return [(0, 0, 16, 16)] if image.mean() > 128 else []

    def read(self, image: np.ndarray) -> tuple[str, float]:
        return f"{image.mean():03.0f}", 1.0


class Finder:
    """A face that fills the image, in every original."""

    name, embedding = "all", None

    def find(self, image: np.ndarray) -> torch.Tensor:
        return torch.tensor([[0.0, 0.0, 16.0, 16.0]])

    def embed(self, image: np.ndarray, boxes: torch.Tensor) -> torch.Tensor:
        raise AssertionError("there is no network")


def test_damage_is_measured_where_it_can_be(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes = (damage.TextProbe(Reader()), damage.FaceProbe(Finder()), ["similarity of faces: none"])
    monkeypatch.setattr(library_bench, "load_probes", lambda where: probes)
    found = measure(place)
    text = found.tokenizers[0].text
    assert text is not None
    assert (text.num_images, text.num_lines, text.num_characters) == (COUNT // 2, COUNT // 2, 3 * COUNT // 2)
    assert text.character_error_rate is not None
    assert 0 < text.character_error_rate <= 1
    faces = found.tokenizers[1].faces
    assert faces is not None
    assert (faces.num_faces, faces.detection_recall) == (COUNT, 1.0)
    rows = {row[0]: row[1:] for row in cells(found)}
    assert rows["lines of text"] == ["6", "6"]
    assert rows["face detection recall ↑"] == ["1.000", "1.000"]
    assert "face embedding cosine ↑" not in rows
    assert found.measured.protocol["digest"] != measure(place, damage=False).measured.protocol["digest"]


def test_an_error_names_its_tokenizer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Tokenizer.decode

    def broken(self: Tokenizer, indices: torch.Tensor) -> torch.Tensor:
        images = decode(self, indices)
        return images * torch.nan if self.num_codes == (64,) else images

    monkeypatch.setattr(Tokenizer, "decode", broken)
    with pytest.raises(DataError, match=r"^b: the tokenizer decodes to values that are not finite"):
        measure(place)


def invoke(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench-tokenizers", *map(str, words)])
    return done.exit_code, done.output


def test_the_command_prints_and_writes(place: Path, tmp_path: Path) -> None:
    words = [place / "photos", "--tokenizer", place / "a", "--tokenizer", place / "b", "--repeats", 1]
    words += ["--clip", place / "clip"]
    code, output = invoke(*words, "--out", tmp_path / "bench.json")
    assert code == 0, output
    assert "PSNR RGB, dB ↑" in output
    assert "12 images of photos at 16 x 16 pixels for every tokenizer" in output
    found = TokenizersBench.read(tmp_path / "bench.json")
    assert timeless(found) == timeless(measure(place))
    first = found.tokenizers[0]
    assert f"{first.psnr.mean:.2f} ({first.psnr.low:.2f} to {first.psnr.high:.2f})" in output
    code, _ = invoke(*words, "--out", tmp_path / "bench.md")
    page = (tmp_path / "bench.md").read_text()
    assert code == 0
    assert page.startswith("# Tokenizers on the same images\n\n|  | a | b |\n|---|---|---|\n")
    assert f"| bits per image | 64 | 96 |\n| bits per pixel | {first.bits_per_pixel} |" in page
    assert "| clip\\_distance, not LPIPS ↓ |" in page
    assert "- Left out: LPIPS: " in page
    assert "FID ↓" not in page
    assert page.split("| encode")[0] == markdown_page(found).split("| encode")[0]
    code, output = invoke(*words, "--out", tmp_path / "bench.txt")
    assert code == 2
    assert "choices:  .json, .md" in output


def test_the_card_carries_the_numbers(place: Path, tmp_path: Path) -> None:
    words = [place / "photos", "--tokenizer", place / "a", "--clip", place / "clip", "--repeats", 1]
    assert invoke(*words, "--out", tmp_path / "bench.json")[0] == 0
    own = TokenizersBench.read(tmp_path / "bench.json").tokenizers[0]
    metrics = {"metrics": tmp_path / "bench.json"}
    Tokenizer.from_pretrained(place / "a").save_pretrained(tmp_path / "a", model_card_kwargs=metrics)
    data = ModelCard.load(tmp_path / "a/README.md").data
    assert data.model_name == "vq image tokenizer"
    by_type = {one.metric_type: one for one in data.eval_results}
    for name in ("psnr", "psnr_y", "ssim", "clip_distance"):
        assert by_type[name].metric_value == getattr(own, name).mean, name
    for name in ("fd_clip", "bits_per_image", "bits_per_pixel"):
        assert by_type[name].metric_value == getattr(own, name), name
    assert by_type["utilisation"].metric_value == own.codes["code"].utilisation
    psnr = by_type["psnr"]
    assert (psnr.task_type, psnr.dataset_type, psnr.dataset_split) == ("image-to-image", "photos", "images")
    assert psnr.dataset_name == "photos, 12 images at 16 pixels"
    assert psnr.dataset_args is not None
    assert psnr.dataset_args["num_images"] == COUNT
    text = (tmp_path / "a/README.md").read_text()
    assert f"| PSNR of Y, dB | {own.psnr_y.mean:.4g} |" in text
    assert "decode, ms per image (cpu, batch of 12)" in text
    with pytest.raises(MismatchError, match=r"no numbers of this tokenizer\n  found: +a: [0-9a-f]{12}"):
        Tokenizer.from_pretrained(place / "b").generate_model_card(**metrics)


def test_the_card_takes_what_evaluate_wrote(place: Path, tmp_path: Path) -> None:
    for name, clip in (("with", place / "clip"), ("without", None)):
        content = evaluate_folder(place / "photos", Tokenizer.from_pretrained(place / "a"), clip)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        card = Tokenizer.from_pretrained(place / "a").generate_model_card(
            metrics=tmp_path / f"{name}.json", dataset="owner/birds"
        )
        found = {one.metric_type: one for one in card.data.eval_results}
        assert ("fd_clip" in found, "clip_distance" in found) == (clip is not None,) * 2
        assert found["psnr"].metric_value == content["psnr"]["mean"]
        assert found["psnr"].dataset_type == "owner/birds"
        assert "ms per image" not in card.content
