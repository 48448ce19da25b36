"""The table of data sources. A new one: a file with a subclass of `base.Adapter`, and a line here."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import AfterValidator, Discriminator, Tag

from vqpipe.data.adapters.base import Adapter, Gives
from vqpipe.errors import did_you_mean
from vqpipe.params.plugins import Table

ADAPTERS: Table[Adapter] = Table("data source", {
    "scenes": "vqpipe.data.adapters.scenes:Scenes",
    "coco": "vqpipe.data.adapters.coco:Coco",
    "image_folder": "vqpipe.data.adapters.image_folder:ImageFolder",
    "pairs": "vqpipe.data.adapters.pairs:Pairs",
    "image_masks": "vqpipe.data.adapters.image_masks:ImageMasks",
    "dataset": "vqpipe.data.adapters.caption_files:PublishedDataset",
    "jsonl": "vqpipe.data.adapters.caption_files:JsonLines",
    "text": "vqpipe.data.adapters.caption_files:TextLines",
    "tsv": "vqpipe.data.adapters.caption_files:Tables",
    "parquet": "vqpipe.data.adapters.caption_files:Parquet",
})  # fmt: skip
"""One line per `kind` of `dataset.source` and `corpus`."""

_SECTIONS: dict[Gives, tuple[str, str]] = {
    "images": ("images", "dataset.source"), "captions": ("captions alone", "corpus"),
}  # fmt: skip
"""What adapters give, in words, and the params that name them for it."""
_REFUSED = "kind"
"""The tag of a `kind` that is refused; it is shown as the place of the mistake."""


def source_params(gives: Gives, **more: type[Any]) -> Any:
    """The union of the params of the adapters that give images, or captions alone: a type for a field of params.

    Another `kind` is refused with the choices, and with the section that it belongs to.

    Args:
        gives: what is wanted.
        more: further members by `kind`.
    """
    models: dict[str, Any] = {kind: ADAPTERS[kind].params_of(gives) for kind in ADAPTERS}
    models = {kind: model for kind, model in models.items() if model is not None} | more

    def tag(value: Any) -> str:
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        return kind if isinstance(kind, str) and kind in models else _REFUSED

    def refuse(value: Any) -> None:
        choices = f"one of {', '.join(models)}"
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is not a block of fields with a kind, {choices}")
        if "kind" not in value:
            raise ValueError(f"is missing; it is {choices}")
        kind = str(value["kind"])
        if kind in ADAPTERS:
            given, section = _SECTIONS["captions" if gives == "images" else "images"]
            raise ValueError(f"{kind} gives {given}, for {section}; this is {choices}")
        raise ValueError(f"there is no {kind}{did_you_mean(kind, list(models))}; it is {choices}")

    members = [Annotated[model, Tag(kind)] for kind, model in models.items()]
    refused = Annotated[Any, AfterValidator(refuse), Tag(_REFUSED)]
    return Annotated[Union[(*members, refused)], Discriminator(tag)]
