"""Params of the `dataset` stage: where the images come from, how they are stored, and how much may be bad."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vqpipe.params.base import Params
from vqpipe.params.corpus import known_encoding
from vqpipe.params.scenes import ScenesSource

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Holdout(Params):
    """Shares of the `train` images that become other splits, by a hash of image id and seed.

    An image's split depends on its own id alone, so that adding images moves none of the others.
    """

    validation: float = Field(ge=0, lt=1)
    """Share of the train images that become the validation split, 0 to 1."""
    test: float = Field(ge=0, lt=1)
    """Share of the train images that become the test split, 0 to 1."""
    seed: int = Field(ge=0)
    """Seed of the hash."""

    @model_validator(mode="after")
    def _leaves_train(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must be below 1, or nothing is left for train")
        return self


class CocoSplit(Params):
    """Where one split of a COCO layout lies, relative to the source's path."""

    images: str = Field(min_length=1)
    """Folder with the image files."""
    captions: str | None = None
    """The captions json; null when the images have none."""
    instances: str | None = None
    """The instances json (boxes, segmentation); null when the images have none."""

    @model_validator(mode="after")
    def _has_annotations(self) -> Self:
        if self.captions is None and self.instances is None:
            raise ValueError("give captions or instances: a COCO split is listed by its json")
        return self


def _check_splits(given: set[SplitName], holdout: Holdout) -> None:
    """Each split comes from one place."""
    if "train" not in given:
        raise ValueError("splits.train is missing")
    for name in ("validation", "test"):
        share = getattr(holdout, name)
        if name in given and share > 0:
            raise ValueError(f"{name} comes from two places: set holdout.{name} to 0 or remove splits.{name}")
        if name not in given and share == 0:
            raise ValueError(f"{name} comes from nowhere: give splits.{name} or a holdout.{name} above 0")


class CocoSource(Params):
    """COCO layout: image folders and captions and instances json files."""

    kind: Literal["coco"]
    """Names this source."""
    path: str = Field(min_length=1)
    """Root folder of the data."""
    splits: dict[SplitName, CocoSplit]
    """Folder and json files of each split that exists as such; `train` must be there."""
    holdout: Holdout
    """Shares of train that become the splits that do not exist as such."""

    @model_validator(mode="after")
    def _one_origin_each(self) -> Self:
        _check_splits(set(self.splits), self.holdout)
        return self


class ImageFolderSource(Params):
    """A folder, or a tar of one (plain, gz, bz2 or xz), that holds class folders of images."""

    kind: Literal["image_folder"]
    """Names this source."""
    path: str = Field(min_length=1)
    """The folder or the tar."""
    splits: dict[SplitName, str]
    """Folder of each split that exists as such, relative to the root of the folder or tar, which is `.`."""
    holdout: Holdout
    """Shares of train that become the splits that do not exist as such."""
    classes: Literal["folders", "none"]
    """`folders`: the first folder below a split is the class. `none`: images have no class, at any depth."""
    class_names: str | None = None
    """Table of class folder, tab, name, relative to the root; null: folder names with `_` as a space."""
    templates: tuple[str, ...]
    """Captions of every image; `{}` is the class name, `{a}` is a or an. Without classes, plain sentences."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_splits(set(self.splits), self.holdout)
        for template in self.templates:
            if not template.strip():
                raise ValueError("templates: an empty caption")
            if (template.count("{}") == 1) != (self.classes == "folders"):
                rule = "exactly one {}" if self.classes == "folders" else "no {} when classes is none"
                raise ValueError(f"templates: {template!r} must hold {rule}")
        if self.class_names is not None and self.classes == "none":
            raise ValueError("class_names needs classes: folders")
        return self


Layout = Literal["folder", "webdataset", "metadata", "table", "karpathy", "json"]


class PairsSource(Params):
    """Images with captions: x.jpg + x.txt, WebDataset shards, or images that a table or json lists (docs/data.md)."""

    kind: Literal["pairs"]
    """Names this source."""
    path: str = Field(min_length=1)
    """The folder of the images and what lists them; or of shards; or one shard."""
    layout: Layout | None = None
    """How the pairs lie there; null: recognised, and asked for where several layouts are seen."""
    own_splits: bool = True
    """Whether splits that the layout states are kept; false: all images are one pool, for the holdout."""
    holdout: Holdout
    """Shares of train that become the splits that the layout does not state."""
    listing: str | None = Field(default=None, min_length=1)
    """The table or json, relative to `path`, or a pattern of several (`*/metadata.csv`); null: those that are found."""
    images: str | None = Field(default=None, min_length=1)
    """Folder, relative to `path`, that a listing's file names are relative to; null: where they are found."""
    image_field: str | None = Field(default=None, min_length=1)
    """Column or key of the image's file name; a number from 0 in a table without header; null: the usual names."""
    caption_field: str | None = Field(default=None, min_length=1)
    """Column or key of the caption, `a.b` for a key within a key; null: `caption`, `text` and other usual names."""
    label_field: str | None = Field(default=None, min_length=1)
    """Column or key of the class in a listing; null: the listing states no class."""
    encoding: str | None = Field(default=None, min_length=1)
    """What text without a byte order mark is in, such as cp1252; null: UTF-8 or UTF-16, whichever it is."""
    classes: Literal["own", "folders", "none"] = "own"
    """`own`: of x.cls or `label_field`, if any. `folders`: the first folder below a split. `none`: no class."""

    _known = field_validator("encoding")(known_encoding)

    @field_validator("listing", "images")
    @classmethod
    def _inside(cls, path: str | None) -> str | None:
        if path is not None and (PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts):
            raise ValueError("must be relative to path, and lie in it")
        return path


Source = Annotated[ScenesSource | CocoSource | ImageFolderSource | PairsSource, Field(discriminator="kind")]


class Resize(Params):
    """How images are scaled before they are stored."""

    short_side: int | None = Field(ge=8, le=4096)
    """Length of the shorter side of the stored images, pixels; null stores them as they are."""
    filter: Literal["box", "bilinear", "bicubic", "lanczos"]
    """Resampling filter; all are antialiased."""
    too_small: Literal["upscale", "quarantine"]
    """What happens to images whose shorter side is below `short_side`."""


class DatasetParams(Params):
    """Params of the `dataset` stage."""

    source: Source
    """Where the images come from."""
    resize: Resize
    """How images are scaled before they are stored."""
    max_bad_fraction: float = Field(ge=0, le=1)
    """Highest share of the source's images that may be quarantined before the stage fails, 0 to 1."""
    max_bad_annotation_fraction: float | None = Field(default=None, ge=0, le=1)
    """Highest share of its captions and objects that may be left out, 0 to 1; null: as `max_bad_fraction`."""
    max_pixels: int = Field(ge=1024)
    """Images of more pixels than this are quarantined unopened (decompression bombs)."""
    shard_bytes: int = Field(ge=1 << 20)
    """About how large a Parquet shard grows, bytes."""
