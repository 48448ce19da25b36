"""The stages that run once for each entry of a params file, and the commands that run one of them."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from vqpipe.errors import ParamsError
from vqpipe.params.base import read_yaml
from vqpipe.params.names import NAMED, PER_TOKENIZER

PARAMS = Path("params.yaml")
"""Where the params of `dvc.yaml` are, from the pipeline's folder."""


def entries_of(stage: str, params: Path = PARAMS) -> list[str] | None:
    """The names of a stage's entries; None for a stage that runs once, and where no params file can be read."""
    section = "tokenizer" if stage in PER_TOKENIZER else stage
    if section not in NAMED:
        return None
    with suppress(ParamsError):
        found: Any = read_yaml(params).get(section)
        found = found.get(NAMED[section]) if isinstance(found, dict) else None
        return list(found) if isinstance(found, dict) else []
    return None


def repro_command(stage: str, name: str) -> str | None:
    """The command that makes an artifact of a stage.

    Args:
        name: of the artifact, which is the entry's where the stage has entries.

    Returns:
        Such as `dvc repro graph` or `dvc repro tokenizer@lc`; None where the params file has no entry of that name. Of
        a stage with entries, all of them where there is no params file to look in.
    """
    known = entries_of(stage)
    if known is None:
        return f"dvc repro {stage}"
    return f"dvc repro {shlex.quote(f'{stage}@{name}')}" if name in known else None
