"""Large JSON files with long arrays at the top level (COCO), one element at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from vqpipe.errors import DataError


class JsonArrays:
    """A JSON file that holds an object; its arrays are decoded element by element.

    Bytes that are no UTF-8 become lone surrogates, so that one bad caption does not cost the file.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", expected="a json file") from error
        self._decoder = json.JSONDecoder()

    def elements(self, *keys: str) -> Iterator[tuple[str, Any, int, int]]:
        """Yield (key, element, start, end) for each element of the arrays under `keys`, in file order.

        `self.text[start:end]` is the element's own JSON. Keys that are missing yield nothing.

        Raises:
            DataError: not a JSON object, damaged, or a key of `keys` does not hold an array.
        """
        text, decoder = self.text, self._decoder
        try:
            at = self._expect(self._skip(0), "{")
            while text[at : at + 1] != "}":
                key, at = decoder.raw_decode(text, at)
                at = self._skip(self._expect(self._skip(at), ":"))
                if key not in keys:
                    _, at = decoder.raw_decode(text, at)
                else:
                    at = self._expect(at, "[")
                    while text[at : at + 1] != "]":
                        element, end = decoder.raw_decode(text, at)
                        yield key, element, at, end
                        at = self._after(end, "]")
                    at += 1
                at = self._after(self._skip(at), "}")
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{self.path} is not a JSON object of arrays: {error}") from error

    def _skip(self, at: int) -> int:
        return int(WHITESPACE.match(self.text, at).end())

    def _expect(self, at: int, char: str) -> int:
        if self.text[at : at + 1] != char:
            raise json.JSONDecodeError(f"expecting {char!r}", self.text, at)
        return self._skip(at + 1)

    def _after(self, at: int, closing: str) -> int:
        at = self._skip(at)
        return at if self.text[at : at + 1] == closing else self._expect(at, ",")
