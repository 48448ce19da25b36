"""Names that people give: variants, pairs, tasks, rows and runs. They become file names and words of commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from vqpipe.errors import ParamsError

NAMED = {"tokenizer": "variants", "prior": "pairs", "task": "pairs"}
"""Sections of a params file with named entries, and where those are. Their stages run once for each entry."""
PER_TOKENIZER = ("tokens", "evaluate")
"""Stages that run once for each of `tokenizer.variants`."""
MAX_LENGTH = 100
RULE = f"letters from A to Z, digits, `.`, `_`, `-` and `+`, at most {MAX_LENGTH}; the first is neither `.` nor `-`"
_NAME = re.compile(rf"[A-Za-z0-9_+][A-Za-z0-9._+-]{{0,{MAX_LENGTH - 1}}}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"not a name: a name has {RULE}")
    return text


def _path(text: str) -> str:
    for part in text.split("/"):
        _name(part)
    return text


Name = Annotated[str, AfterValidator(_name)]
"""A name; as a file name it leads out of no folder, and in a command it is one word and no option."""
NamePath = Annotated[str, AfterValidator(_path)]
"""Names with `/` between them: a path below a folder."""


def check_name(value: object, what: str, path: bool = False) -> str:
    """A name as text.

    Args:
        value: the name.
        what: what it names, for the message, such as `params.yaml: a name in tokenizer.variants`.
        path: take names with `/` between them.

    Raises:
        ParamsError: it has other characters than a name may have.
    """
    try:
        return (_path if path else _name)(str(value))
    except ValueError:
        shown = str(value)[:MAX_LENGTH]
        raise ParamsError(f"{what} cannot be used", found=repr(shown), expected=RULE) from None


def check_names(params: Mapping[str, Any], source: str) -> None:
    """Check the names of all entries of a params file, and those that name another section's entry.

    Raises:
        ParamsError: one has other characters than a name may have.
    """
    for section, entries in NAMED.items():
        content = params.get(section)
        own = content.get(entries) if isinstance(content, Mapping) else None
        for name, entry in own.items() if isinstance(own, Mapping) else ():
            check_name(name, f"{source}: a name in {section}.{entries}")
            if section != "tokenizer" and isinstance(entry, Mapping) and "tokenizer" in entry:
                check_name(entry["tokenizer"], f"{source}: {section}.{entries}.{name}.tokenizer")
