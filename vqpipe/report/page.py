"""The page: sections rendered by one autoescaping template into one file that opens from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vqpipe.report.blocks import Section
from vqpipe.runtime.terminal import harmless


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """One HTML document without scripts or external references; equal sections give equal text. Control
    characters of file names and captions are shown as backslash escapes."""
    environment = Environment(
        loader=PackageLoader("vqpipe.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["leaf"] = _leaf
    page = environment.get_template("page.html.j2").render(title=title, lead=lead, sections=list(sections))
    return harmless(page)


def _leaf(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
