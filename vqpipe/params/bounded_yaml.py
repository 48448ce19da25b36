"""YAML of bounded size: what a file may contain is checked while it is parsed, before anything is built from it.

A few kilobytes of YAML can expand to gigabytes: `*name` repeats a block for nothing, and blocks of repeats repeat. So
each value is counted as often as the aliases repeat it, and the sum and the depth have limits. A block that contains
itself has no size and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from vqpipe.errors import ParamsError


@dataclass(frozen=True)
class Limits:
    """The most that a YAML file may contain."""

    num_bytes: int
    """Bytes of the file. The parser reads about half a megabyte a second, so they are counted before it starts."""
    num_values: int
    """Keys, values and blocks once every alias is written out; comments do not count."""
    depth: int = 50
    """Blocks within blocks once every alias is written out."""


PARAMS = Limits(num_bytes=256 << 10, num_values=20_000)
"""For files that people write. The largest params file of this repository has 18 kB and 2,300 values."""
GENERATED = Limits(num_bytes=16 << 20, num_values=1_000_000)
"""For the files of DVC, which grow with the number of runs."""


def read_text(path: Path, limits: Limits = PARAMS) -> str:
    """A file's text, where it is not longer than YAML may be.

    Raises:
        ParamsError: it is longer, or not UTF-8.
    """
    with path.open("rb") as stream:
        data = stream.read(limits.num_bytes + 1)
        if len(data) > limits.num_bytes:
            raise ParamsError(
                f"{path} is too long for YAML: it is not parsed", found=f"{path.stat().st_size:,} bytes",
                expected=f"at most {limits.num_bytes:,} bytes; larger tables belong in files of their own",
            )  # fmt: skip
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not valid YAML: it is not UTF-8", found=str(error)) from error


def parse_yaml(text: str, source: str, limits: Limits = PARAMS, yaml: YAML | None = None) -> Any:
    """The content of a YAML 1.2 text (`1e-4` is a number there, a string in YAML 1.1).

    Args:
        text: the text; `read_text` has checked its length.
        source: what messages call it.
        limits: the most that it may contain.
        yaml: another loader than the one for plain data, which is changed to keep to the limits.

    Raises:
        ParamsError: not YAML, too much of it once the aliases are written out, too deep, or a block that contains
            itself.
    """
    loader = YAML(typ="safe", pure=True) if yaml is None else yaml
    loader.Parser = _counting(loader.Parser, _Count(source, limits).add)
    try:
        return loader.load(text)
    except YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            raise ParamsError([f"{source} is not valid YAML:", *str(error).splitlines()]) from error
        about = [getattr(error, name, None) for name in ("context", "problem")]
        shown = (mark.get_snippet() or "").removesuffix(f" (line: {mark.line + 1})").splitlines()
        raise ParamsError(
            [f"{source} is not valid YAML: {', '.join(filter(None, about))}; line {mark.line + 1}, column "
             f"{mark.column + 1}", *shown]
        ) from error  # fmt: skip
    except (
        ValueError,
        OverflowError,
    ) as error:  # such as a number of 5,000 digits or a date of the 40th of May
        raise ParamsError(f"{source} has a value that is not valid YAML: {error}") from error


def _counting(parser: Any, add: Callable[[Any], None]) -> Any:
    """A parser class that shows each of its events to `add` before it is used."""

    class Counting(parser):  # type: ignore[misc]
        def get_event(self) -> Any:
            event = super().get_event()
            add(event)
            return event

    return Counting


@dataclass
class _Block:
    """A value, and what it contains once its aliases are written out: values, itself included, and nested blocks."""

    anchor: str | None
    num_values: int = 1
    depth: int = 1
    """0 for a scalar."""
    is_open: bool = False


class _Count:
    """Counts values from a parser's events; the work grows with the file, not with what it expands to."""

    def __init__(self, source: str, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.open: list[_Block] = [_Block(None, num_values=0)]
        self.anchors: dict[str, _Block] = {}

    def add(self, event: Any) -> None:
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            block = _Block(event.anchor, is_open=True)
            self.open.append(block)
            self._remember(block)
            self._check(0, len(self.open) - 1)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            block = self.open.pop()
            block.is_open = False
            self._hold(block)
        elif isinstance(event, ScalarEvent):
            value = _Block(event.anchor, depth=0)
            self._remember(value)
            self._hold(value)
        elif isinstance(event, AliasEvent):
            self._alias(event)

    def _alias(self, event: Any) -> None:
        block = self.anchors.get(event.anchor)
        if block is None:
            return  # the loader says that there is no such anchor
        if block.is_open:
            raise ParamsError(
                f"{self.source}: a block contains itself",
                found=f"*{event.anchor} within &{event.anchor}, line {event.start_mark.line + 1}",
                expected="aliases of blocks that end before them",
            )
        self._hold(block)

    def _remember(self, block: _Block) -> None:
        if block.anchor is not None:
            self.anchors[block.anchor] = block

    def _hold(self, block: _Block) -> None:
        above = self.open[-1]
        above.num_values += block.num_values
        above.depth = max(above.depth, block.depth + 1)
        self._check(above.num_values, len(self.open) - 1 + block.depth)

    def _check(self, num_values: int, depth: int) -> None:
        if depth > self.limits.depth:
            raise ParamsError(
                f"{self.source} is nested too deeply", found=f"{depth:,} blocks or more within each other",
                expected=f"at most {self.limits.depth}, with the aliases (*name) written out",
            )  # fmt: skip
        if num_values > self.limits.num_values:
            raise ParamsError(
                f"{self.source} is too large", found=f"{num_values:,} values or more",
                expected=f"at most {self.limits.num_values:,}, with the aliases (*name) written out",
            )  # fmt: skip
