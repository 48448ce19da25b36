"""Nested mappings as paths and values."""

from __future__ import annotations

from vqpipe.params.leaves import leaves

NESTED = {"b": {"x": 1, "empty": {}}, "a": [2, {"y": None}], 3: "z"}


def test_values_have_the_keys_that_lead_to_them_in_order() -> None:
    assert list(leaves(NESTED)) == [(("b", "x"), 1), (("a",), [2, {"y": None}]), (("3",), "z")]


def test_items_of_lists_have_their_index() -> None:
    assert list(leaves(NESTED, lists=True)) == [
        (("b", "x"), 1), (("a", "0"), 2), (("a", "1", "y"), None), (("3",), "z"),
    ]  # fmt: skip


def test_a_value_is_a_leaf_itself() -> None:
    assert list(leaves(1.5)) == [((), 1.5)]
    assert list(leaves({})) == []
