"""Large JSON files with long arrays at the top level (COCO), one element at a time, in bounded memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, BinaryIO

from vqpipe.data.streams import open_bytes
from vqpipe.errors import DataError

BLOCK = 1 << 20
"""Bytes that are read at once, at least."""
MAX_ELEMENT = 1 << 28
"""Characters of one element; what does not end within these is damaged."""
NUM_KEYS = 8
"""Keys of a file that are remembered, for messages."""
TOP, EVERY = "", "*"
"""In place of a key: the array that is the whole file; the values of all keys, arrays or not."""


class JsonArrays:
    """A JSON file that holds an object; its arrays are decoded element by element.

    Only a window of the file is in memory: a block, or an element where that is longer. Bytes that are no UTF-8
    become lone surrogates, so that one bad caption does not cost the file.

    Args:
        path: the file, in any form that `vqpipe.data.streams.open_bytes` reads.
        encoding: as there, and so is `option`.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: Path, encoding: str | None = None, option: str | None = None) -> None:
        self.path = path
        self._coding = encoding, option
        with open_bytes(path):
            pass
        self.keys: list[str] = []
        """Keys of the object, the first of them, in the order of the file."""
        self.text = ""
        """The window."""
        self._from = self._at = 0
        self._passed = 0
        self._ended = False
        self._json = json.JSONDecoder()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._stream: BinaryIO | None = None

    def elements(self, *keys: str) -> Iterator[tuple[str, Any, int, int]]:
        """Yield (key, element, start, end) for each element of the arrays under `keys`, in file order.

        Until the next element is asked for, `self.text[start:end]` is this one's own JSON. Keys that are
        missing yield nothing. With `TOP` among the keys the file may be an array too; with `EVERY` values that are
        no arrays come as their key's one element.

        Raises:
            DataError: not a JSON object, damaged, followed by more, or a key of `keys` does not hold an array.
        """
        try:
            with open_bytes(self.path, *self._coding) as stream:
                self._start(stream)
                if TOP in keys and self._peek() == "[":
                    yield from self._array(TOP, True)
                else:
                    yield from self._walk(keys)
                if self._peek():
                    raise json.JSONDecodeError("more behind its end (JSON Lines?)", self.text, self._at)
        except (ValueError, RecursionError) as error:
            told = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            if type(error) is ValueError:
                told = "a number that is too long"
            raise DataError(
                f"{self.path} is not a JSON object of arrays: {told} near character {self._passed + self._at}"
            ) from error

    def _walk(self, keys: tuple[str, ...]) -> Iterator[tuple[str, Any, int, int]]:
        self._expect("{")
        while self._peek() != "}":
            key = self._value()
            self._expect(":")
            if len(self.keys) < NUM_KEYS:
                self.keys.append(str(key))
            if key in keys or self._peek() == "[":
                yield from self._array(key, key in keys or EVERY in keys)
            else:
                value = self._value()
                if EVERY in keys:
                    yield key, value, self._from, self._at
            self._after("}")
        self._expect("}")

    def _array(self, key: str, wanted: bool) -> Iterator[tuple[str, Any, int, int]]:
        self._expect("[")
        while self._peek() != "]":
            element = self._value()
            if wanted:
                yield key, element, self._from, self._at
            self._after("]")
        self._expect("]")

    def _start(self, stream: BinaryIO) -> None:
        self.keys.clear()
        self._stream, self.text, self._at, self._passed, self._ended = stream, "", 0, 0, False
        self._utf8.reset()

    def _more(self) -> None:
        """Move the window on: drop what has been decoded, and read as much again as is left, or a block."""
        assert self._stream is not None
        if len(self.text) - self._at > MAX_ELEMENT:
            raise json.JSONDecodeError(f"an element does not end within {MAX_ELEMENT} characters", "", 0)
        data = self._stream.read(max(BLOCK, len(self.text) - self._at))
        self._ended = not data
        self.text = self.text[self._at :] + self._utf8.decode(data, final=self._ended)
        self._passed, self._at = self._passed + self._at, 0

    def _peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            self._at = int(WHITESPACE.match(self.text, self._at).end())
            if self._at < len(self.text) or self._ended:
                return self.text[self._at : self._at + 1]
            self._more()

    def _value(self) -> Any:
        """Decode the value at hand and move behind it."""
        self._peek()
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self._at)
                behind = 3 if isinstance(value, int | float) else 1  # "1" may go on as "1e+5"
                if end + behind <= len(self.text) or self._ended:
                    self._from, self._at = self._at, end
                    return value
            except json.JSONDecodeError:
                if self._ended:
                    raise
            self._more()  # what ends with the window, or fails there, may go on behind it

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            raise json.JSONDecodeError(f"expecting {char!r}", self.text, self._at)
        self._at += 1

    def _after(self, closing: str) -> None:
        """Pass the comma behind a member, unless the closing bracket follows."""
        if self._peek() != closing:
            self._expect(",")
