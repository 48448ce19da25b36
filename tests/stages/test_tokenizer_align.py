"""The tokenizer stage with alignment: what it adds, what it refuses, and that nothing of it is in the tokenizer."""

from __future__ import annotations

import csv
import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from stages import tokenizer as stage
from tests.recipes import LC, every_recipe
from tests.small_training import merged
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.alignment.aligner import TextBatch
from vqpipe.alignment.text_sides import ClipSide
from vqpipe.artifacts.publish import read_manifest, tree_digest, write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.artifacts.specs.tokenizer import TOKENIZER as SPEC
from vqpipe.artifacts.tensors import read_tensor_header
from vqpipe.codebooks.patches import PatchesCodebook
from vqpipe.codebooks.words import WordsCodebook
from vqpipe.data.loader import ImageSplit
from vqpipe.errors import ArtifactError, MismatchError, ParamsError
from vqpipe.params.base import validate
from vqpipe.tokenizers.captions import Captions
from vqpipe.tokenizers.stored import load_aligner
from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
from vqpipe.tokenizers.train import ForeignCodebook, check_codebook, train_tokenizer
from vqpipe.vision.byte_pairs import tokenizer
from vqpipe.vision.clip import Clip

ALIGN: dict[str, Any] = {
    "width": 8, "num_layers": 1, "num_heads": 1, "max_tokens": 7,
    "global": {
        "weight": 0.1, "directions": "image_to_text", "temperature": {"kind": "fixed", "value": 1.0}, "gather": False,
    },
    "masked": {
        "weight": 0.1, "mean": 0.5, "std": 0.1, "low": 0.1, "high": 0.3, "num_layers": 1, "width": 8, "dropout": 0.1,
        "label_smoothing": 0.1,
    },
    "relationship": {"weight": 0.1, "projection": "mlp"},
}  # fmt: skip
FSQ = {"kind": "fsq", "dim": 4, "levels": [5, 5, 3, 3], "margin": 0.001, "shift": "atanh"}
REFUSED = {"bsq", "ema", "fsq", "lfq"}
TEMPLATES = ["a {} picture", "a rather {} picture of nothing at all, painted on a wall", "{}"]
CHANGES = {
    "training": {"num_steps": 8, "batch_size": 4, "log_every": 4, "checkpoint_every": 2, "ema_decay": 0.9},
    "losses": {"adversarial": {"weight": 0.5, "start": 0.5}},
}


def section(**changes: Any) -> dict[str, Any]:
    return merged(merged(merged(deepcopy(TOKENIZER), CHANGES), {"align": deepcopy(ALIGN)}), changes)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("align")
    write_dataset(root, {"train": 12, "validation": 4, "test": 4}, templates=TEMPLATES)
    sided = ["the left of a {} picture", "a {} picture"]
    write_dataset(root / "sided", {"train": 12, "validation": 4, "test": 4}, templates=sided[:1])
    write_dataset(root / "mixed", {"train": 12, "validation": 4, "test": 4}, templates=sided)
    write_dataset(root / "bare", {"train": 4, "validation": 2, "test": 2}, "none", templates=[])
    write_tiny_clip(root / "clip")
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    return root


def run(inputs: Path, work: Path, variant: dict[str, Any], **changes: Any) -> Result:
    work.mkdir(exist_ok=True)
    params = {"tokenizer": {"common": {}, "variants": {"v": variant}}}
    (work / "params.yaml").write_text(json.dumps(params))
    options: dict[str, Any] = {
        "variant": "v", "codebook": inputs / "none", "out": work / "out", "metrics": work / "m.json",
        "curves": work / "c.csv", "dataset": inputs / "dataset", "clip": inputs / "clip",
        "params": work / "params.yaml", **changes,
    }  # fmt: skip
    given = [w for name, value in options.items() for w in (f"--{name}", str(value))]
    return CliRunner().invoke(stage.app, given)


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def whole(inputs: Path) -> Path:
    """The outputs of a run that nothing interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_SCRATCH", str(inputs / "scratch"))
        done = run(inputs, inputs / "whole", section())
    assert done.exit_code == 0, done.output
    return inputs / "whole"


def test_the_losses_are_in_the_curves_and_the_captions_in_the_metrics(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "c.csv").open()))
    for name in ("align", "align_global", "align_masked", "align_relationship"):
        assert all(float(row[f"ae/{name}"]) > 0 for row in rows), name
    last = {name: float(value) for name, value in rows[-1].items() if value}
    parts = [last[f"ae/align_{name}"] for name in ("global", "masked", "relationship")]
    assert last["ae/align"] == pytest.approx(0.1 * sum(parts), rel=1e-4)
    assert "ae/adaptive_weight" in last
    metrics = json.loads((whole / "m.json").read_text())
    captions = metrics["captions"]
    assert captions["num_captions"] == 36
    assert captions["num_texts"] == 6
    assert captions["num_cut"] == 12
    assert captions["num_tokens_of_all_splits"] >= captions["num_tokens"]
    assert metrics["parameters"]["aligner"] > 0
    assert not list((whole.parent / "scratch").rglob("*.npy"))


def test_the_aligner_is_in_the_tokenizers_folder_and_not_in_its_weights(whole: Path, tmp_path: Path) -> None:
    tensors = read_tensor_header(whole / "out/model.safetensors")[1]
    parts = {name.split(".")[0] for name in tensors}
    assert parts == {"encoder", "quant_conv", "quantizer", "post_quant_conv", "decoder", "latent_scale"}
    trained = Tokenizer.from_pretrained(whole / "out")
    assert trained.config.align is not None
    assert set(read_manifest(whole / "out", SPEC).files) == {"model.safetensors", "aligner.safetensors"}
    stored = load_aligner(whole / "out")
    assert stored is not None
    assert stored.aligner.config.model_dump(mode="json") == {**ALIGN, "text": {"kind": "clip"}}
    assert stored.text.startswith("tiny:fresh:")
    assert not stored.aligner.training
    assert not any(p.requires_grad for p in stored.aligner.parameters())
    with pytest.raises(ArtifactError, match="does not exist"):
        load_aligner(whole / "nothing")
    with pytest.raises(ArtifactError, match="is not a tokenizer"):
        load_aligner(whole)
    shutil.copytree(whole / "out", tmp_path / "damaged")
    weights = tmp_path / "damaged/aligner.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match=r"aligner\.safetensors"):
        load_aligner(tmp_path / "damaged")
    Tokenizer.from_pretrained(tmp_path / "damaged")
    weights.unlink()
    with pytest.raises(ArtifactError, match="no file"):
        load_aligner(tmp_path / "damaged")


def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(
    whole: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Captions.drawn

    def killed(self: Captions, images: Any, step: int, share: slice) -> tuple[TextBatch, Any]:
        if step == 5:
            raise KeyboardInterrupt
        return drawn(self, images, step, share)

    with monkeypatch.context() as patch:
        patch.setattr(Captions, "drawn", killed)
        assert run(inputs, tmp_path / "again", section()).exit_code != 0
    assert not (tmp_path / "again/out").exists()
    left = {path.name.split("-")[0] for path in (tmp_path / "scratch").rglob("*.*") if path.is_file()}
    assert {"checkpoint.safetensors", "captions"} <= left
    done = run(inputs, tmp_path / "again", section())
    assert done.exit_code == 0, done.output
    assert tree_digest(tmp_path / "again/out") == tree_digest(whole / "out")
    for name in ("m.json", "c.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (whole / name).read_bytes(), name


def test_without_align_nothing_is_made_or_said_of_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("an object of alignment was made")

    monkeypatch.setattr(Captions, "__init__", never)
    digests = []
    for name, variant in (("null", section(align=None)), ("absent", merged(TOKENIZER, CHANGES))):
        done = run(inputs, tmp_path / name, variant)
        assert done.exit_code == 0, done.output
        digests.append(tree_digest(tmp_path / name / "out"))
        assert "align" not in (tmp_path / name / "out/manifest.json").read_text()
        assert "align" not in (tmp_path / name / "c.csv").read_text()
        metrics = json.loads((tmp_path / name / "m.json").read_text())
        assert "captions" not in metrics
        assert "aligner" not in metrics["parameters"]
        assert load_aligner(tmp_path / name / "out") is None
    assert digests[0] == digests[1]


def test_it_starts_with_the_weights_and_images_of_the_plain_variant(
    whole: Path, inputs: Path, tmp_path: Path
) -> None:
    run(inputs, tmp_path / "plain", section(align=None, training={"log_every": 1}))
    run(inputs, tmp_path / "lg", section(training={"log_every": 1}))
    plain, aligned = (next(csv.DictReader((tmp_path / name / "c.csv").open())) for name in ("plain", "lg"))
    assert aligned["ae/l1"] == plain["ae/l1"]
    assert aligned["ae/quantizer"] == plain["ae/quantizer"]
    assert aligned["ae/loss"] != plain["ae/loss"]


def test_images_whose_caption_names_a_side_are_not_mirrored(inputs: Path, tmp_path: Path) -> None:
    def first(name: str, align: dict[str, Any] | None, flip: bool) -> float:
        changes = {"align": align, "augment": {"flip": flip}, "training": {"num_steps": 3, "log_every": 3}}
        options: dict[str, Any] = {"dataset": inputs / name / "dataset"}
        done = run(inputs, tmp_path / f"{name}-{bool(align)}-{flip}", section(**changes), **options)
        assert done.exit_code == 0, done.output
        with (tmp_path / f"{name}-{bool(align)}-{flip}" / "c.csv").open() as stream:
            return float(next(csv.DictReader(stream))["ae/l1"])

    # A weight of next to nothing: the tokenizer sees what the plain one sees.
    align = merged(
        deepcopy(ALIGN), {name: {"weight": 1e-30} for name in ("global", "masked", "relationship")}
    )
    upright, mirrored = first("sided", None, False), first("sided", None, True)
    assert upright != mirrored
    assert first("sided", align, True) == pytest.approx(upright, rel=1e-5)
    # The others are mirrored as without captions: neither all nor none.
    assert first("mixed", align, True) not in (upright, pytest.approx(upright, rel=1e-5))


@pytest.mark.parametrize(
    ("variant", "options", "says"),
    [
        ({}, {"dataset": "bare/dataset"}, "has no captions, and align and the tasks on captions need them"),
        ({"align": {"max_tokens": 9}}, {}, "9 tokens, and tiny:fresh"),
        ({"align": {"widht": 3}}, {}, "widht is not a field; did you mean width?"),
        (
            {"quantizer": FSQ}, {},
            "align.relationship trains code vectors, and quantizer fsq has none that take a gradient",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_aligned_is_refused_before_training(
    inputs: Path, tmp_path: Path, variant: dict[str, Any], options: dict[str, Any], says: str
) -> None:
    given = {n: inputs / value if isinstance(value, str) else value for n, value in options.items()}
    done = run(inputs, tmp_path / "a", section(**variant), **given)
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.output.split())
    assert not (tmp_path / "a/out").exists()
    assert not list((tmp_path / "scratch").rglob("*.safetensors"))


def test_every_quantizer_takes_the_losses_that_need_no_code_vectors(inputs: Path, tmp_path: Path) -> None:
    refused = set()
    for recipe in every_recipe().values():
        codebook = (
            "none"
            if recipe.codebook is None
            else "words"
            if isinstance(recipe.codebook, WordsCodebook)
            else "patches"
        )
        whole = section(codebook=codebook) | {"quantizer": recipe.params}
        whole["trunk"] = merged(whole["trunk"], {"latent_channels": 8})
        kind = recipe.params["base"]["kind"] if "base" in recipe.params else recipe.params["kind"]
        if kind in REFUSED:
            with pytest.raises(
                ParamsError, match=rf"align.relationship .* quantizer {recipe.params['kind']} "
            ):
                validate(whole, "v", TokenizerParams)
            refused.add(kind)
        for relationship in (None, {"weight": 0.0, "projection": "mlp"}):
            config = validate(merged(whole, {"align": {"relationship": relationship}}), "v", TokenizerParams)
            assert config.align is not None
    assert refused == REFUSED
    fsq = {"quantizer": FSQ, "align": {"relationship": None}}
    done = run(inputs, tmp_path / "fsq", section(**fsq))
    assert done.exit_code == 0, done.output


def test_what_only_other_splits_say_is_in_the_vocabulary_and_never_drawn(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, {"train": 1, "validation": 1, "test": 1}, templates=["a {} one"])
    write_tiny_clip(tmp_path / "clip")
    split = ImageSplit.open(dataset, "train", 16)
    side = ClipSide(Clip.load(tmp_path / "clip"))
    captions = Captions(split, dataset, side, max_tokens=7, seed=0, folder=tmp_path)
    only = set(captions.vocabulary.tolist()) - set(captions.text.vocabulary.tolist())
    assert only == {tokenizer().encode("light")[0]}
    assert captions.vocabulary.tolist() == sorted(captions.vocabulary.tolist())
    assert captions.metrics().num_tokens_of_all_splits == captions.metrics().num_tokens + 1
    for step in range(4):
        batch, _ = captions.drawn(np.array([0]), step, slice(None))
        assert tokenizer().decode(batch.tokens[0, 1:-1].tolist()).strip() == "a dark one"


def test_the_runs_clip_reads_the_captions_so_it_must_be_there_and_that_of_the_codebook(
    inputs: Path, tmp_path: Path
) -> None:
    config = validate(section(), "v", TokenizerParams)
    where: dict[str, Any] = {
        "scratch": tmp_path,
        "curves": tmp_path / "c.csv",
        "device": torch.device("cpu"),
        "title": "v",
    }
    with pytest.raises(MismatchError, match="an align whose text is of kind clip needs a CLIP"):
        train_tokenizer(config, None, inputs / "dataset", None, **where)
    clip = Clip.load(inputs / "clip")
    codebook = PatchesCodebook(torch.randn(40, 8), torch.ones(40, dtype=torch.int64), {"clip_id": "another"})
    lc = {"codebook": "patches", "quantizer": {**LC, "dim": 4}}
    plain = validate(section(**lc, align=None), "v", TokenizerParams)
    assert check_codebook(plain, codebook, clip.id) == ForeignCodebook(clip="another", run_clip=clip.id)
    with pytest.raises(MismatchError, match="made with another CLIP"):
        check_codebook(validate(section(**lc), "v", TokenizerParams), codebook, clip.id)
