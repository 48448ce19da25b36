"""The documentation's parts that are made from the tables of plug-ins are up to date."""

from __future__ import annotations

import pytest

from tests.reference import PARTS, updated


@pytest.mark.parametrize("name", PARTS)
def test_the_documentation_has_what_the_tables_say(name: str) -> None:
    path, text = updated(name)
    assert path.read_text() == text, "run: python -m tests.reference"
