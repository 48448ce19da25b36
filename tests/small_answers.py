"""Small pictures of boxes whose class, captions, questions and referring expressions can be learned from their codes.

A picture has a place (its class: the colour of the ground) and one or two boxes, each with a colour and a quadrant. A
cell of the 4 x 4 token grid has one colour, so that the codes of a small tokenizer show all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from tests.tiny import write_tiny_clip, write_tokenizer
from vqpipe.data.adapters import ADAPTERS
from vqpipe.data.adapters.base import Adapter
from vqpipe.data.build import DatasetParams, Resize, build_dataset
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.data.records import Bad, Question, Record, Referring, Thing
from vqpipe.params.base import Params
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.train import whiten
from vqpipe.vision.clip import Clip

PLACES = {"sea": (20, 40, 150), "snow": (230, 230, 240), "night": (10, 10, 10)}
COLORS = {"red": (220, 20, 20), "green": (30, 200, 40), "gold": (230, 190, 20)}
CORNERS = {"top left": (0, 0), "bottom right": (8, 8), "top right": (8, 0), "bottom left": (0, 8)}
SIDE, BOX = 16, 8
"""Sides of a picture and of a box in pixels."""
NUM_DIFFERENT = len(PLACES) * len(COLORS) * len(CORNERS)
"""Pictures before they repeat."""


class BoxesSource(Params):
    """What `Boxes` draws."""

    kind: Literal["boxes"]
    """Names this source."""
    num_images: dict[str, int]
    """Pictures by split; each split begins with the same ones."""
    leave_out: tuple[str, ...] = ()
    """Fields of `Record` that stay empty: captions, questions, referring, label_name."""


class Boxes(Adapter):
    """Drawn pictures; picture i of every split is the same."""

    kind = "boxes"
    Params = BoxesSource
    layout = "nothing on disk"

    def inputs(self, source: BoxesSource) -> list[Path]:
        return []

    def records(self, source: BoxesSource) -> Iterator[Record | Bad]:
        for split, count in source.num_images.items():
            for index in range(count):
                known = {key: value for key, value in facts(index).items() if key not in source.leave_out}
                yield Record(f"{split}-{index:03d}", split=split, **known)  # type: ignore[arg-type]


def facts(index: int) -> dict[str, Any]:
    """The picture of a number and all that is known of it, as fields of `Record`."""
    place = list(PLACES)[index % 3]
    first = list(COLORS)[index // 3 % 3]
    corner = index // 9 % 4
    pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:] = PLACES[place]
    boxes = [(first, corner)]
    if (index // 3 + index) % 2:  # a second box of the next colour in the next corner
        boxes.append((list(COLORS)[(index // 3 + 1) % 3], (corner + 1) % 4))
    things = []
    for color, at in boxes:
        left, top = list(CORNERS.values())[at]
        pixels[top : top + BOX, left : left + BOX] = COLORS[color]
        things.append(Thing("box", (left, top, BOX, BOX), (color,)))
    return {
        "image": pixels,
        "label_name": place,
        "captions": (f"a {first} box at {place}",),
        "things": tuple(things),
        "referring": tuple(Referring(at, f"the {color} box") for at, (color, _) in enumerate(boxes)),
        "questions": (
            Question("where is the box?", place, "location"),
            Question("how many boxes are there?", ("one", "two")[len(boxes) - 1], "number"),
            *([Question("what color is the box?", first, "color")] if len(boxes) == 1 else []),
        ),
    }


def write_boxes(root: Path, num_images: Mapping[str, int], leave_out: tuple[str, ...] = ()) -> Path:
    """Publish `root/dataset`."""
    config = DatasetParams.model_construct(
        source=BoxesSource(kind="boxes", num_images=dict(num_images), leave_out=leave_out),
        resize=Resize(short_side=None, filter="box", too_small="upscale"), max_bad_fraction=0.0,
        max_bad_annotation_fraction=None, max_pixels=4096, shard_bytes=1 << 20,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQPIPE_WORKERS", "1")
        patch.setitem(ADAPTERS._places, Boxes.kind, f"{__name__}:Boxes")
        patch.setitem(ADAPTERS._loaded, Boxes.kind, Boxes)
        build_dataset(config, root / "dataset")
    return root / "dataset"


def write_all(root: Path, num_images: int = 32) -> Path:
    """The dataset with `num_images` to train on and the same to test, `root/clip`, and `root/vq`, whose 64 codes are
    latents of the pictures."""
    dataset = write_boxes(root, {"train": num_images, "validation": 2, "test": num_images})
    write_tiny_clip(root / "clip")
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(root / "start", num_codes=64))
    images = to_float(ImageSplit.open(dataset, "train", SIDE).images(0, num_images))
    with torch.no_grad():
        whiten(tokenizer.quant_conv, tokenizer.encoder(images), torch.Generator().manual_seed(0))
        latents = tokenizer.encode_latent(images).movedim(1, -1).reshape(-1, 4)
        order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(0))
        tokenizer.get_parameter("quantizer.codes").copy_(latents[order[:64]])
    tokenizer.save(root / "vq", {})
    return root


def read_all(root: Path) -> tuple[Path, Clip, Tokenizer]:
    """What `write_all` wrote; the CLIP's token embeddings have a trained one's length."""
    clip = Clip.load(root / "clip")
    with torch.no_grad():
        clip.token_embeddings().mul_(20)
    return root / "dataset", clip, Tokenizer.from_pretrained(root / "vq")
