"""What is said of a scene."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[str, str]
"""(adjective, noun)"""


@dataclass(frozen=True, slots=True)
class Caption:
    """A lowercase sentence and the pairs that it says, in order."""

    text: str
    pairs: tuple[Pair, ...]
