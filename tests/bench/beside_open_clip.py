"""Images/s of the patches stage beside a plain open_clip loop over the same images; `tests.bench.patches` runs it.

The loop is what one writes first: Pillow decodes, open_clip's transform prepares, `encode_image` runs on a batch.
The stage does the same work for every patch, pools, and writes shards. Weights are random; both run in this process,
by turns; ratios are what counts.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from PIL import Image
from ruamel.yaml import YAML

from stages.patches import main as patches_stage
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.dataset import DATASET, IMAGES
from vqpipe.artifacts.tables import ShardWriter, to_table
from vqpipe.data.images import Preprocess, decode_squares, encode_png
from vqpipe.data.read import open_split
from vqpipe.params.base import load_params, read_yaml
from vqpipe.training.clip import ClipParams, open_clip_config
from vqpipe.vision.clip import Clip, write_clip
from vqpipe.vision.towers import build_model

ROOT = Path(__file__).parents[2]
ROUNDS = 3
MEAN = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
PREPROCESS = MEAN | {"interpolation": "bicubic", "resize_mode": "shortest"}


def pictures(num: int, height: int, width: int) -> list[np.ndarray]:
    """Smooth colours with noise over them: PNG files of about the size that photographs have."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = smooth + rng.normal(0, 6, smooth.shape).astype(np.int16)
        found.append(noisy.clip(0, 255).astype(np.uint8))
    return found


def write_dataset(folder: Path, images: list[np.ndarray]) -> None:
    facts: dict[str, Any] = {"splits": {}, "classes": []}
    with publish_folder(folder, DATASET, facts) as partial:
        (partial / "quarantine.parquet").touch()
        writer = ShardWriter(partial, "train", IMAGES)
        for at in range(0, len(images), 64):
            rows = [
                dict.fromkeys(IMAGES.columns)
                | {"image_id": str(at + n), "image": encode_png(image)}
                | {"height": image.shape[0], "width": image.shape[1]}
                for n, image in enumerate(images[at : at + 64])
            ]
            writer.write(to_table(IMAGES, rows))
        writer.close()
        facts["splits"]["train"] = {"images": len(images), "shards": writer.shards}


def plain_loop(model: torch.nn.Module, side: int, encoded: list[bytes], batch_size: int) -> None:
    transform = image_transform(side, False, **MEAN)
    with torch.no_grad():
        for at in range(0, len(encoded), batch_size):
            batch = [transform(Image.open(io.BytesIO(data))) for data in encoded[at : at + batch_size]]
            model.encode_image(torch.stack(batch))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, config: dict[str, Any], images: list[np.ndarray], params: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["VQPIPE_SCRATCH"] = str(root / "scratch")
        write_dataset(root / "dataset", images)
        torch.manual_seed(0)
        model = build_model(config, name)
        both = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
        write_clip(root / "clip", model, both, name=name, tag="random", fitted_on=None)
        with (root / "params.yaml").open("w") as stream:
            YAML().dump({"patches": params}, stream)
        clip = Clip.load(root / "clip")
        split = open_split(root / "dataset", "train")
        encoded = [data for batch in split.batches(["image"]) for data in batch.column("image").to_pylist()]
        fit = Preprocess(clip.image_size, clip.interpolation, clip.resize_mode)
        rows = [(d, *image.shape[:2]) for d, image in zip(encoded, images, strict=True)]
        plain_loop(clip.model, clip.image_size, encoded[: params["batch_size"]], params["batch_size"])

        def stage() -> None:
            out = root / "patches"
            patches_stage(root / "dataset", root / "clip", out, root / "patches.json", root / "params.yaml")

        ours, theirs, decoding = [], [], []
        for _ in range(ROUNDS):
            theirs.append(
                seconds(lambda: plain_loop(clip.model, clip.image_size, encoded, params["batch_size"]))
            )
            ours.append(seconds(stage))
            decoding.append(seconds(lambda: decode_squares(fit, rows)))
        rate, other, alone = (len(images) / statistics.median(t) for t in (ours, theirs, decoding))
        shape = f"{images[0].shape[1]} x {images[0].shape[0]} to {clip.image_size}"
        print(f"\n{name}: {len(images)} images of {shape} px, batches of {params['batch_size']}")
        print(f"  stage, whole run           {rate:8.1f} images/s")
        print(f"  plain open_clip loop       {other:8.1f} images/s")
        print(f"  decoding alone, one core   {alone:8.1f} images/s")
        print(f"  stage / loop               {rate / other:8.2f}", flush=True)


def run() -> None:
    """Print the comparison for the embedded CLIP and for a ViT-B-32."""
    workers = os.environ.get("VQPIPE_WORKERS", "one a core")
    print(f"images/s; {torch.get_num_threads()} threads, workers: {workers}")
    params = read_yaml(ROOT / "params.yaml")["patches"]
    fitted = load_params(ROOT / "params.yaml", "clip", ClipParams).fit
    assert fitted is not None, "the bench takes the CLIP that params.yaml says how to fit"
    compare("the embedded CLIP", open_clip_config(fitted)["model_cfg"], pictures(4000, 64, 64), params)
    large = dict(open_clip.get_model_config("ViT-B-32"))
    compare("ViT-B-32", large, pictures(320, 256, 341), params | {"grid": 7, "batch_size": 32})
