"""What a family of foreign checkpoints says: classes, fields of their config, and a plan of the same network here.

To add a family, write a file with its `Family` and add a line to the table in `vqpipe.library.foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vqpipe.params.base import Params
from vqpipe.quantizers.contract import Names


@dataclass(frozen=True)
class Source:
    """Which tensors of a checkpoint one of ours is made of, and how."""

    keys: tuple[str, ...]
    how: Literal["join", "centre", "fold", "zero"] = "join"
    """`join`: one after the other along the first axis. `centre`: the kernel of a 1x1 convolution, as the middle of a
    3x3 one. `fold`: the first axis, ordered (row, column, channel) by the layout, as (channel, row, column), which is
    what `pixel_shuffle` takes. `zero`: no tensor; the layout has no bias there."""
    shape: tuple[int, ...] | None = None
    """Of ours; None where the trunk knows it."""


Sources = dict[str, Source]
"""By the name of our tensor."""


@dataclass(frozen=True)
class Options:
    """What a caller says that neither checkpoint nor config does."""

    resolution: int | None = None
    """Side of the images in pixels, for families whose config does not state it or states another."""
    words: Path | None = None
    """The file of words of a VQCT checkpoint."""


@dataclass(frozen=True)
class Plan:
    """The same network here, and where each tensor of it comes from."""

    resolution: int
    """Side of the images in pixels."""
    trunk: dict[str, Any]
    """`TrunkParams`, as in YAML."""
    quantizer: dict[str, Any]
    """The params of the quantizer, as in YAML."""
    sources: Sources
    constants: dict[str, Tensor] = field(default_factory=dict)
    """Our tensors that are not copies of the checkpoint's, by name."""
    codebook: Literal["none", "words", "patches"] = "none"
    """The pretrained codebook that the quantizer is built on."""
    names: Names | None = None
    """Per group, the codes' names."""
    used: tuple[str, ...] = ()
    """Keys of the checkpoint that `constants` are computed from."""
    frozen: tuple[str, ...] = ()
    """Keys of the checkpoint that no optimiser moves: averaged weights have no copy of them."""
    unused: tuple[str, ...] = ()
    """Beginnings of keys that the layout has and reconstruction does not use."""
    note: str = ""
    """What a reader of the result must know."""


@dataclass(frozen=True)
class Family:
    """Checkpoints of one layout."""

    title: str
    """The project and what it is, for messages."""
    targets: tuple[str, ...]
    """Classes as configs name them under `model.target` or `model.class_path`."""
    Config: type[Params]
    """The fields of `model.params` (or `model.init_args`) that decide what the network computes."""
    training: tuple[str, ...]
    """Fields that do not change which indices an image gets, nor which image indices give."""
    plan: Callable[[Any, Mapping[str, Tensor], Options, str], Plan]
    """From the config, the state dict, what the caller says, and the file's name for messages."""
    training_trunk: tuple[str, ...] = ()
    """The same in `ddconfig`."""
    left_out: tuple[str, ...] = ("loss", "discriminator", "perceptual_loss", "colorize")
    """First parts of the keys that encoding and decoding do not need."""
    averaged: bool = False
    """Whether the project's own evaluation uses averaged weights where the file has them. Where it does not, the caller
    must choose."""
    reads: tuple[str, ...] = ()
    """Classes of other families that `--layout` may read as this one: their projects put other quantizers into them."""
    flat: bool = False
    """Whether the config is the fields alone, without a section `model`."""
