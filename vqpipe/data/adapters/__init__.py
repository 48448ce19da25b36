"""The table of data sources. A new one: a file with a subclass of `base.Adapter`, and a line here."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import Discriminator, Tag

from vqpipe.data.adapters.base import Adapter, Gives
from vqpipe.params.plugins import Table

ADAPTERS: Table[Adapter] = Table("data source", {
    "scenes": "vqpipe.data.adapters.scenes:Scenes",
    "coco": "vqpipe.data.adapters.coco:Coco",
    "image_folder": "vqpipe.data.adapters.image_folder:ImageFolder",
    "pairs": "vqpipe.data.adapters.pairs:Pairs",
    "dataset": "vqpipe.data.adapters.caption_files:PublishedDataset",
    "jsonl": "vqpipe.data.adapters.caption_files:JsonLines",
    "text": "vqpipe.data.adapters.caption_files:TextLines",
    "tsv": "vqpipe.data.adapters.caption_files:Tables",
    "parquet": "vqpipe.data.adapters.caption_files:Parquet",
})  # fmt: skip
"""One line per `kind` of `dataset.source` and `corpus`."""

_SECTION = {"images": "dataset.source", "captions": "corpus"}


def source_params(gives: Gives, **more: type[Any]) -> Any:
    """The union of the params of the adapters that give images, or captions alone: a type for a field of params.

    A `kind` that does not give them is refused with those that do, and with the section that it is for.

    Args:
        gives: what is wanted.
        more: further members by `kind`.
    """
    able: dict[str, Any] = {kind: ADAPTERS[kind].params_of(gives) for kind in ADAPTERS}
    able = {kind: model for kind, model in able.items() if model is not None} | more
    others = ", ".join(kind for kind in ADAPTERS if kind not in able)
    other: Gives = "captions" if gives == "images" else "images"
    give = {"images": "images", "captions": "captions alone"}
    message = f"kind must be one of {', '.join(able)}, which give {give[gives]}"
    if others:
        message += f"; {others} give {give[other]}, for {_SECTION[other]}"
    members = tuple(Annotated[model, Tag(kind)] for kind, model in able.items())
    chooser = Discriminator(_kind, custom_error_type="source_kind", custom_error_message=message)
    return Annotated[Union[members], chooser]  # noqa: UP007


def _kind(value: Any) -> Any:
    """The tag of the params' union: `kind` of a mapping or of a model."""
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
