"""Reading dvc.yaml without DVC: its stages with `foreach` unrolled and `${…}` filled in from params.yaml."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.params.base import read_yaml, section_of

PLACE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Stage:
    """One stage as DVC would run it. `deps`, `outs` are paths; `params` dotted names in params.yaml."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]


def read_stages(folder: Path) -> dict[str, Stage]:
    """All stages of `folder/dvc.yaml` by name (`graph`, `tokenizer@vq`), in the file's order.

    Raises:
        ParamsError: a file is missing, or a `${…}` names nothing in params.yaml.
    """
    context = read_yaml(folder / "params.yaml")
    stages: dict[str, Stage] = {}
    for name, entry in read_yaml(folder / "dvc.yaml")["stages"].items():
        if "foreach" not in entry:
            stages[name] = _stage(name, entry, context)
            continue
        items = section_of(context, PLACE.fullmatch(entry["foreach"]).group(1), folder / "params.yaml")  # type: ignore[union-attr]
        for key, item in items.items():
            full = f"{name}@{key}"
            stages[full] = _stage(full, entry["do"], {**context, "key": key, "item": item})
    return stages


def find_stage(stages: dict[str, Stage], name: str) -> Stage:
    """The stage called `name`.

    Raises:
        ParamsError: there is none; the message lists those there are.
    """
    if name not in stages:
        raise ParamsError(
            f"dvc.yaml has no stage {name}{did_you_mean(name, list(stages))}", choices=list(stages)
        )
    return stages[name]


def _stage(name: str, entry: dict[str, Any], context: dict[str, Any]) -> Stage:
    def fill(text: str) -> str:
        return PLACE.sub(lambda m: str(section_of(context, m.group(1), Path("params.yaml"))), text)

    def paths(*keys: str) -> tuple[str, ...]:
        found = []
        for key in keys:
            found += [next(iter(e)) if isinstance(e, dict) else e for e in entry.get(key, [])]
        return tuple(fill(path) for path in found)

    return Stage(
        name,
        " ".join(fill(entry["cmd"]).split()),
        paths("deps"),
        paths("params"),
        paths("outs", "metrics", "plots"),
    )


def stale(stage: Stage, root: Path) -> list[str]:
    """Why dvc.lock's entry for a stage is not of this tree; empty when it is. Data that is not here is not judged."""
    lock_path = root / "dvc.lock"
    locked = (read_yaml(lock_path).get("stages", {}) if lock_path.is_file() else {}).get(stage.name)
    if locked is None:
        return ["it has never run"]
    reasons = []
    if " ".join(locked["cmd"].split()) != stage.cmd:
        reasons.append("its command changed")
    context = read_yaml(root / "params.yaml")
    known = locked.get("params", {}).get("params.yaml", {})
    for name in stage.params:
        if name not in known or known[name] != section_of(context, name, root / "params.yaml"):
            reasons.append(f"params {name} changed")
    recorded = {
        entry["path"]: entry.get("md5") for entry in [*locked.get("deps", []), *locked.get("outs", [])]
    }
    for path in stage.deps:
        if path not in recorded:
            reasons.append(f"{path} is a new dep")
    for path in (*stage.deps, *stage.outs):
        known_here = (root / path).is_file() or ((root / path).is_dir() and not path.startswith("artifacts"))
        if known_here and path in recorded and md5(root / path) != recorded[path]:
            reasons.append(f"{path} changed")
    for path in set(recorded) - {*stage.deps, *stage.outs}:
        reasons.append(f"{path} is no longer of this stage")
    return reasons


def md5(path: Path) -> str:
    """DVC's hash of a file, or of a folder: that of the list of its files and their hashes, with `.dir` after it."""
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        rows = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
        listing = json.dumps(sorted(rows, key=itemgetter("relpath")), sort_keys=True)
        return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
