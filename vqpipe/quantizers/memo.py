"""A value that is remembered as long as the tensors it was made from do not change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Memo(Generic[T]):
    """Remembers one value, keyed on the identity and version of its source tensors.

    An optimiser's step, `load_state_dict`, `.to(device)` or an in-place copy of averaged weights all change
    the key. Not part of a module's state.
    """

    def __init__(self) -> None:
        self._key: tuple[tuple[int, int, str], ...] | None = None
        self._value: T | None = None

    def get(self, sources: Iterable[Tensor], make: Callable[[], T]) -> T:
        """The remembered value, or `make()` where a source is another tensor or has been written to.

        Under `torch.export` the sources are symbols: the value that is remembered is taken, as a constant.
        """
        if self._value is not None and torch.compiler.is_exporting():
            return self._value
        key = tuple((s.data_ptr(), -1 if s.is_inference() else s._version, str(s.device)) for s in sources)
        if self._key != key or self._value is None:
            self._value = make()
            self._key = key
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self._key = self._value = None

    def __deepcopy__(self, memo: dict[int, object]) -> Memo[T]:
        return Memo()
