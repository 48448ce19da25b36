"""Tables of plug-ins: one line per kind, loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, TypeVar, Union

from pydantic import Field

from vqpipe.errors import ParamsError, did_you_mean, printable
from vqpipe.params.base import merged

T = TypeVar("T")


class Table(Mapping[str, type[T]]):
    """Plug-ins of one sort by the `kind` that params name them with.

    A plug-in is a class with two class attributes: `kind`, its key here, and `Params`, the model of its params, whose
    field `kind` is the literal of the same name. A value of the table is `module:Class`; the module is imported when
    the entry is first read.

    Args:
        what: what the plug-ins are called in messages, such as `quantizer`.
        places: `module:Class` by kind.
    """

    def __init__(self, what: str, places: Mapping[str, str]) -> None:
        self.what = what
        self._places = dict(places)
        self._loaded: dict[str, type[T]] = {}

    def __getitem__(self, kind: str) -> type[T]:
        """The class of a kind.

        Raises:
            ParamsError: there is no such kind; the message lists those there are.
        """
        if kind not in self._loaded:
            if kind not in self._places:
                raise ParamsError(
                    f"there is no {self.what} {kind}{did_you_mean(kind, list(self._places))}",
                    found=kind, choices=list(self._places),
                )  # fmt: skip
            module, name = self._places[kind].split(":")
            found: Any = getattr(import_module(module), name)
            assert found.kind == kind, (
                f"{self._places[kind]} is of kind {found.kind}, and in the table {kind}"
            )
            self._loaded[kind] = found
        return self._loaded[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def params(self) -> Any:
        """The union of the params of all plug-ins, distinguished by `kind`: a type for a field of a params model."""
        models: list[Any] = [self[kind].Params for kind in self]  # type: ignore[attr-defined]
        if len(models) == 1:
            return models[0]
        return Annotated[Union[tuple(models)], Field(discriminator="kind")]  # noqa: UP007

    def entry(self, section: str, common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """The plain params of one entry of a section that may have entries of several kinds.

        Args:
            section: what a message calls the section.
            common: what all its entries share, and under the name of a kind what the entries of this kind share.
            own: the entry. It is merged over the block of its kind, and that over the rest of `common`.

        Raises:
            ParamsError: the entry names no kind, or one that is not in the table; or a part is not a block of fields.
        """
        for name, part in ((f"an entry of {section}", own), (f"common of {section}", common)):
            _need_block(name, part, self)
        kind = printable(str(own.get("kind"))[:100])
        if kind not in self:
            unknown = f"no {self.what} {kind}{did_you_mean(kind, list(self))}"
            raise ParamsError(
                f"there is {unknown if 'kind' in own else 'an entry without its kind'}, in {section}",
                found=str(dict(own))[:200], expected="kind, in each entry", choices=list(self),
            )  # fmt: skip
        of_kind = common.get(kind, {})
        _need_block(f"common.{kind} of {section}", of_kind, self)
        shared = {name: value for name, value in common.items() if name not in self}
        return dict(merged(merged(shared, of_kind), own))


def _need_block(name: str, part: Any, kinds: Iterable[str]) -> None:
    if not isinstance(part, Mapping):
        raise ParamsError(
            f"{name} is not a block of fields", found=printable(repr(part)[:200]),
            expected=f"{{kind: {' | '.join(kinds)}, …}}",
        )  # fmt: skip
