"""docs/extending.md, followed word for word: its files and lines in a copy of the tree, and its commands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/extending.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w./-]+\.\w+)`")
NONE = Path("artifacts/codebook/none")
"""The artifact that is in git: a stage takes it where a tokenizer needs no codebook."""
KINDS = {"python", "diff", "bash", "yaml"}


@dataclass(frozen=True)
class Step:
    """A fenced block, and the last file that the text before it names."""

    kind: str
    text: str
    file: str | None


def steps(page: str) -> Iterator[Step]:
    last = 0
    for found in FENCE.finditer(page):
        named = NAMED.findall(page[last : found.start()])
        last = found.end()
        yield Step(found.group(1), found.group(2), named[-1] if named else None)


def not_copied(folder: str, names: list[str]) -> set[str]:
    """What is made from the tree, and not a part of it: caches everywhere, artifacts and boards at the top."""
    made = shutil.ignore_patterns("__pycache__", ".venv", ".git", ".dvc", ".scratch", ".*_cache")(
        folder, names
    )
    return made | ({"artifacts", "boards", "data"} & set(names) if Path(folder) == ROOT else set())


def with_lines(text: str, diff: str) -> str:
    """The text with the `+` lines of a diff after its ` ` lines, which must be in it once and in this order."""
    before = "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] == " ")
    after = "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in " +")
    assert text.count(before) == 1, f"not once in the file:\n{before}"
    return text.replace(before, after)


@pytest.mark.pipeline
def test_the_page_adds_one_plug_in_of_each_kind(tmp_path: Path) -> None:
    copy = tmp_path / "vqpipe"
    shutil.copytree(ROOT, copy, ignore=not_copied)
    shutil.copytree(ROOT / NONE, copy / NONE)
    env = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PATH": f"{forked.python().parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    found = list(steps(PAGE.read_text(encoding="utf-8")))
    assert {step.kind for step in found} <= KINDS
    added = []
    for step in found:
        if step.kind == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", step.text],
                cwd=copy,
                env=env,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{step.text}\n{done.stdout}\n{done.stderr}"
            continue
        assert step.file is not None, f"no file is named before\n{step.text}"
        path = copy / step.file
        if step.kind == "diff":
            path.write_text(with_lines(path.read_text(encoding="utf-8"), step.text), encoding="utf-8")
        else:
            assert not path.exists(), f"{step.file} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            added.append(step.file)
    for package in ("quantizers", "priors", "tasks", "data/adapters"):
        assert any(file.startswith(f"vqpipe/{package}/") for file in added), f"no {package} in {added}"


def test_the_reader_of_the_page_sees_files_lines_and_commands() -> None:
    page = "In `a/b.py`:\n\n```python\nx = 1\n```\n\nand in `c.py`\n\n```diff\n one\n+two\n```\n\n```bash\ntrue\n```\n"
    assert [(s.kind, s.file) for s in steps(page)] == [("python", "a/b.py"), ("diff", "c.py"), ("bash", None)]
    assert with_lines("zero\none\n", " one\n+two\n") == "zero\none\ntwo\n"
    with pytest.raises(AssertionError):
        with_lines("zero\n", " one\n+two\n")
