"""Data in the layouts of COCO and ADE20K through every stage to samples, completions and the report."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.conftest import ROOT, Checkout
from tests.small_sources import DATA, write_ade20k, write_coco
from vqpipe.cli.presets import load_preset
from vqpipe.data.annotations import LabelMaps

pytestmark = pytest.mark.pipeline

COMMON = "dataset clip patches cluster tokenizer@lc tokens@lc judges"
TEXT = "a red kite over a green lake"


def training(key: str, batch_size: int) -> dict[str, Any]:
    """Four steps of a training."""
    return {
        f"{key}.num_steps": 4, f"{key}.batch_size": batch_size, f"{key}.log_every": 2, f"{key}.checkpoint_every": 2,
    }  # fmt: skip


def folder_of(path: Path, preset: str, changes: dict[str, Any]) -> Checkout:
    """A working folder with dvc.yaml, the preset's params with some changed, and this tree's code."""
    path.mkdir()
    shutil.copy(ROOT / "dvc.yaml", path)
    shutil.copytree(ROOT / "artifacts/codebook/none", path / "artifacts/codebook/none")
    own = Checkout(path)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    words = [word for key, text in texts.items() for word in ("--set", f"{key}={text}")]
    run(own, "vqpipe.cli.app", "preset", preset, *words, "--out", "params.yaml")
    return own


def run(own: Checkout, *words: str) -> str:
    done = own.run(
        *words, PYTHONPATH=str(ROOT), VQPIPE_SCRATCH=str(own.folder / "scratch"), VQPIPE_WORKERS="1"
    )
    return done.stdout + done.stderr


def tool(own: Checkout, command: str) -> str:
    """A command of `vqpipe`."""
    return run(own, "vqpipe.cli.app", *shlex.split(command))


def page(own: Checkout) -> str:
    """The report."""
    return html.unescape((own.folder / "artifacts/report/index.html").read_text(encoding="utf-8"))


def metrics(own: Checkout, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((own.folder / f"artifacts/metrics/{name}.json").read_text())
    return found


def grid(path: Path) -> tuple[int, int]:
    """The size of a picture that a tool wrote; it is not of one colour."""
    with Image.open(path) as image:
        assert len(np.unique(np.asarray(image))) > 10
        return image.size


@pytest.mark.parametrize("sample", [
    pytest.param(None, id="made"),
    pytest.param("coco", id="coco", marks=pytest.mark.skipif(
        not (DATA / "coco").is_dir(), reason="no ../shared/data/coco on this machine")),
])  # fmt: skip
def test_coco_to_images_of_a_text(tmp_path: Path, sample: str | None) -> None:
    """Preset coco; an image without captions and captions without an image are counted."""
    data = tmp_path / "data"
    if sample is None:
        write_coco(data, num_images=60)
    else:
        shutil.copytree(DATA / sample, data, copy_function=shutil.copyfile)
    listing = data / "annotations/captions_train2017.json"
    content = json.loads(listing.read_text(encoding="utf-8"))
    ids = [image["id"] for image in content["images"]]
    kept = [one for one in content["annotations"] if one["image_id"] != ids[0]]
    orphans = [{"id": 10**9 + n, "image_id": 10**9, "caption": "a boat"} for n in range(2)]
    listing.write_text(json.dumps(content | {"annotations": kept + orphans}), encoding="utf-8")
    own = folder_of(tmp_path / "own", "coco", {
        "dataset.source.path": str(data), **training("clip.fit.training", 16),
        **training("tokenizer.common.training", 4), **training("judges.training", 4),
        **training("prior.common.training", 4), "prior.common.vq_diffusion.training.num_steps": 4,
        "cluster.num_clusters": 32, "cluster.prefixes": [8], "tokenizer.variants.lc.quantizer.num_codes": 32,
    })  # fmt: skip
    printed = run(own, "stages.run", *f"{COMMON} vocabulary graph prior@lc-vq_diffusion report".split())
    assert "annotations were left out (2 orphan_annotation)" in printed
    found = metrics(own, "dataset")
    assert found["quarantined"] == {"no_caption": 1, "orphan_annotation": 1}
    assert sum(found["images"].values()) == len(ids) - 1
    assert metrics(own, "prior/lc-vq_diffusion")["num_without_condition"] == 0
    prior = "--prior lc-vq_diffusion --seed 0"
    tool(own, f"sample {prior} --text '{TEXT}' --n 4 --guidance 2 --out grid.png")
    assert grid(own.folder / "grid.png") == (2 * 64 + 2, 2 * 64 + 2)
    photo = sorted((data / "train2017").glob("*.jpg"))[-1]
    tool(own, f"complete '{photo}' {prior} --keep left --n 2 --out filled.png")
    assert grid(own.folder / "filled.png")[1] == 64
    text = page(own)
    assert 'id="samples"' in text
    assert 'id="completions"' in text
    assert re.search(r"1 orphan annotation \(.*% of the source's images, .*% of its .* captions", text)


def test_ade20k_to_images_of_a_map(tmp_path: Path) -> None:
    """The source of preset ade20k, on a network that a CPU trains in seconds."""
    data = write_ade20k(tmp_path / "data", num_train=40, num_test=12)
    holdout = {"validation": 0.2, "test": 0.0, "seed": 0}
    source = load_preset("ade20k")["dataset"]["source"] | {"path": str(data), "holdout": holdout}
    text = check_maps(tmp_path / "own", source, num_images=52)
    assert re.search(r">\W*(wall, thing 150|thing 150, wall)\W*<", text)


@pytest.mark.skipif(not (DATA / "ade20k").is_dir(), reason="no ../shared/data/ade20k on this machine")
def test_the_samples_of_ade20k_to_images_of_a_map(tmp_path: Path) -> None:
    source = load_preset("ade20k")["dataset"]["source"] | {
        "path": str(DATA / "ade20k"), "splits": {"train": {"images": "images", "masks": "annotations"}},
        "holdout": {"validation": 0.3, "test": 0.4, "seed": 0}, "class_names": None,
    }  # fmt: skip
    check_maps(tmp_path / "own", source, num_images=10)


def check_maps(path: Path, source: dict[str, Any], num_images: int) -> str:
    """From a source of masks to a sample of a test image's map; the text of the report."""
    own = folder_of(path, "pico", {
        "dataset.source": source, "dataset.resize.short_side": 32, **training("clip.fit.training", 2),
        **training("tokenizer.common.training", 2), **training("judges.training", 2),
        **training("prior.common.training", 2),
        "cluster.num_clusters": 16, "cluster.prefixes": [8], "tokenizer.variants.lc.quantizer.num_codes": 16,
    })  # fmt: skip
    run(own, "stages.run", *f"{COMMON} prior@lc-gpt-map report".split())
    assert metrics(own, "dataset")["quarantined"] == {}
    assert sum(metrics(own, "dataset")["images"].values()) == num_images
    found = metrics(own, "prior/lc-gpt-map")
    assert (found["condition"], found["num_without_condition"]) == ("label_map", 0)
    assert set(found["agreement"]["samples"]) == {"mean_iou", "pixel_accuracy"}
    maps = LabelMaps.open(path / "artifacts/dataset", "test", 32)
    asked = (maps.get([0])[0] + 1).numpy().astype(np.uint8)
    assert asked.max() > 0
    Image.fromarray(asked).save(path / "map.png")
    tool(own, "sample --prior lc-gpt-map --map map.png --n 4 --out grid.png")
    assert grid(path / "grid.png") == (2 * 32 + 2, 2 * 32 + 2)
    text = page(own)
    assert "Each label map" in text
    assert "150 classes of pixels" in text
    return text
