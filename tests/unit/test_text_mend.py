"""Tags that two neighbours correct, rule by rule."""

from __future__ import annotations

import pytest

from vqpipe.text.mend import mend, mend_before_nouns

LETTERS = {
    "J": "adjective", "N": "noun", "V": "verb", "D": "determiner", "I": "preposition", "C": "conjunction",
    "Z": "sign", "X": "auxiliary",
}  # fmt: skip


def mended(caption: str, tags: str) -> str:
    names = [LETTERS[tag] for tag in tags]
    mend(caption.split(), names)
    return "".join(letter for name in names for letter, own in LETTERS.items() if own == name)


@pytest.mark.parametrize(
    ("caption", "before", "after"),
    [
        ("a living room", "DJN", "DNN"),
        ("the dining area", "DVN", "DNN"),
        ("a man riding horses", "DNVN", "DNVN"),
        ("for making love", "IVN", "IVN"),
        ("a smiling woman", "DJN", "DJN"),
        ("in the wild .", "IDJZ", "IDNZ"),
        ("the wild and old", "DJCJ", "DJCJ"),
        ("a girl in blue", "DNIJ", "DNIN"),
        ("in short", "IJ", "IJ"),
        ("the best .", "DJZ", "DJZ"),
        ("the beautiful .", "DJZ", "DJZ"),
        ("a red and white plane", "DNCJN", "DJCJN"),
        ("a dog and white cat", "DNCJN", "DNCJN"),
        ("is calm and grey .", "XJCNZ", "XJCJZ"),
        ("see small and grey .", "VJCNZ", "VJCNZ"),
        ("a black bear", "DNV", "DJN"),
        ("a man bear", "DNV", "DNV"),
        ("the black died", "DNV", "DNV"),
    ],
)
def test_rules(caption: str, before: str, after: str) -> None:
    assert mended(caption, before) == after


def test_nouns_before_nouns_that_are_oftener_adjectives() -> None:
    words = ["a", "large", "blue", "living", "room", "with", "a", "stone", "wall", "and", "a", "zorp"]
    names = ["determiner", "adjective", "noun", "noun", "noun", "preposition", "determiner", "noun", "noun"]
    names += ["conjunction", "determiner", "noun"]
    mend_before_nouns(words, names)
    assert names[1:5] == ["adjective", "adjective", "noun", "noun"]
    assert names[7:9] == ["noun", "noun"]
