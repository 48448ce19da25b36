"""Markdown pages from templates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

MARK = "Written by `vqpipe boards`"
"""What every page of the boards contains, by which an older one is known that is no longer written."""


def render(template: str, **content: Any) -> str:
    """A page as Markdown text, with a link back and `MARK` where the template has them."""
    text = _environment().get_template(template).render(mark=MARK, **content)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown text; a `|` within a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vqpipe.boards", "templates"),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.globals["table_of"] = table
    return environment
