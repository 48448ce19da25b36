"""Segmentations as polygons and run-length codes."""

from __future__ import annotations

import numpy as np
import pytest

from vqpipe.data.masks import BadMask, polygons_to_mask, runs_to_mask, to_mask, unpack_counts

MASK = np.zeros((5, 7), bool)
MASK[1:4, 2:5] = True
MASK[4, 6] = True


def runs_of(mask: np.ndarray) -> list[int]:
    counts, value = [0], False
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            counts.append(0)
            value = bool(pixel)
        counts[-1] += 1
    return counts


def pack(counts: list[int]) -> str:
    """The packed form, written out from its description."""
    text = ""
    for at, count in enumerate(counts):
        rest = count - (counts[at - 2] if at > 2 else 0)
        while True:
            group, rest = rest & 0x1F, rest >> 5
            more = rest != (-1 if group & 0x10 else 0)
            text += chr(48 + group + (0x20 if more else 0))
            if not more:
                break
    return text


def test_runs_go_down_the_columns() -> None:
    assert np.array_equal(runs_to_mask(runs_of(MASK), 5, 7), MASK)
    assert runs_to_mask([1, 2, 32], 5, 7)[:3, 0].tolist() == [False, True, True]


@pytest.mark.parametrize(
    "counts", [[35], [0, 35], [1, 2, 3, 4], [100000, 1, 7, 99999, 1, 15, 16, 17], [3, 40, 1, 2]]
)
def test_packed_runs(counts: list[int]) -> None:
    assert unpack_counts(pack(counts)) == counts


def test_a_known_packed_string() -> None:
    assert unpack_counts("61X13mN000`0") == [6, 1, 40, 4, 5, 4, 5, 4, 21]


def test_both_codes_and_polygons_agree() -> None:
    runs = runs_of(MASK)
    packed = {"size": [5, 7], "counts": pack(runs)}
    assert np.array_equal(to_mask(packed, 5, 7), to_mask({"size": [5, 7], "counts": runs}, 5, 7))
    square = np.zeros((20, 20), bool)
    square[5:16, 3:9] = True
    drawn = polygons_to_mask([[3, 5, 8, 5, 8, 15, 3, 15]], 20, 20)
    assert np.array_equal(drawn, square)


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [7, 5], "counts": [35]}, {"size": [5, 7], "counts": [34]}, {"size": [5, 7], "counts": [-1, 36]},
     {"size": [5, 7], "counts": "~~~"}, {"size": [5, 7], "counts": "P"}, {"size": [5, 7]}, [[1, 2, 3, 4]],
     [[1, 2, 3, 4, 5, "x"]], [[1, 2, 3, 4, 5, float("nan")]], "text", {"size": [5, 7], "counts": ["a"]}],
)  # fmt: skip
def test_nonsense_is_refused(segmentation: object) -> None:
    with pytest.raises(BadMask):
        to_mask(segmentation, 5, 7)
