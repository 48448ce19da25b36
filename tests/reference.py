"""The parts of the documentation that are made from the tables of plug-ins.

`python -m tests.reference` writes them, each between its two markers; a test compares them with what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqpipe.params.base import validate
from vqpipe.quantizers import QUANTIZERS, AnyQuantizer

ROOT = Path(__file__).parents[1]


def quantizers() -> str:
    """A table of the methods, and small valid params of each."""
    lines = [
        "| kind | method | pretrained codebook | where its codes come from | what moves the codes | paper |",
        "|---|---|---|---|---|---|",
    ]
    for kind in QUANTIZERS:
        about = QUANTIZERS[kind].about
        config: Any = validate(dict(about.example), "example", AnyQuantizer)
        needed = "the base's" if "base" in about.example else config.codebook
        lines.append(
            f"| `{kind}` | {about.title} | {needed} | {about.codes} | {about.moved_by} | {about.papers} |"
        )
    lines += [
        "",
        "Small valid params of each method; the params model in its file documents the fields.",
        "",
        "```yaml",
    ]
    lines += ["- " + flow(QUANTIZERS[kind].about.example) for kind in QUANTIZERS]
    return "\n".join([*lines, "```"])


def flow(value: Any) -> str:
    """Plain data as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


PARTS: dict[str, tuple[str, Callable[[], str]]] = {"quantizers": ("docs/quantizers.md", quantizers)}
"""By the name in the markers: the file, and the function that makes the part."""


def updated(name: str) -> tuple[Path, str]:
    """The file of a part, and its text with the part made anew."""
    place, make = PARTS[name]
    text = (ROOT / place).read_text()
    start, end = f"<!-- {name}: made by python -m tests.reference -->\n", f"<!-- end of {name} -->"
    head, _, rest = text.partition(start)
    _, found, tail = rest.partition(end)
    assert found, f"{place} has no markers for {name}"
    return ROOT / place, f"{head}{start}{make()}\n{end}{tail}"


if __name__ == "__main__":
    for part in PARTS:
        path, text = updated(part)
        path.write_text(text)
