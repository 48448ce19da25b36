"""Reads dvc.yaml without DVC: its stages, with `foreach` unrolled and `${…}` filled in from params.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqpipe.errors import ParamsError, did_you_mean
from vqpipe.params.base import read_yaml, section_of
from vqpipe.params.bounded_yaml import GENERATED
from vqpipe.params.names import check_name

REMOTE = {
    *("remote", "ds", "s3", "gs", "gcs", "azure", "adl", "abfs", "oss", "ssh", "sftp", "hdfs", "webhdfs"),
    *("http", "https", "gdrive", "webdav", "webdavs", "memory"),
}
"""Prefixes, up to a colon, of paths that DVC does not look for on this machine."""
PLACE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Stage:
    """One stage as DVC would run it. `deps`, `outs` are paths; `params` dotted names in params.yaml; `seconds` are from
    `meta`, which DVC does not use: what the stage took in the recorded run."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]
    seconds: float | None = None


def makers_of(stages: Mapping[str, Stage]) -> dict[str, list[tuple[str, str, str]]]:
    """Of each stage, what other stages make of what it reads: the stage that makes it, its output, and the path read,
    which is that output or a folder around it."""
    makers = {out: name for name, stage in stages.items() for out in stage.outs}
    return {
        name: [
            (maker, out, dep)
            for dep in stage.deps
            for out, maker in makers.items()
            if maker != name and (out == dep or out.startswith(f"{dep}/"))
        ]
        for name, stage in stages.items()
    }


def read_stages(folder: Path) -> dict[str, Stage]:
    """All stages of `folder/dvc.yaml` by name (`graph`, `tokenizer@vq`), in the file's order.

    Raises:
        ParamsError: a file is missing, a `${…}` names nothing in params.yaml, a name there cannot be part of a command,
            or DVC would not take a path there for a local file.
    """
    context = read_yaml(folder / "params.yaml")
    stages: dict[str, Stage] = {}
    for name, entry in read_yaml(folder / "dvc.yaml", GENERATED)["stages"].items():
        if "foreach" not in entry:
            stages[name] = _stage(name, entry, context)
            continue
        items = section_of(context, PLACE.fullmatch(entry["foreach"]).group(1), folder / "params.yaml")  # type: ignore[union-attr]
        for key, item in items.items():
            full = f"{name}@{check_name(key, f'params.yaml: a name of the stage {name}')}"
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
        return PLACE.sub(lambda m: value(m.group(1)), text)

    def value(place: str) -> str:
        found = section_of(context, place, Path("params.yaml"))
        if not place.startswith("item."):
            return str(found)
        return check_name(found, f"params.yaml: {place.removeprefix('item.')} of {name}", path=True)

    def paths(*keys: str) -> tuple[str, ...]:
        found = []
        for key in keys:
            found += [next(iter(e)) if isinstance(e, dict) else e for e in entry.get(key, [])]
        return tuple(fill(path) for path in found)

    cmd = " ".join(entry["cmd"].split())
    filled = fill(cmd)
    if "'" in cmd and any("'" in fill(match.group()) for match in PLACE.finditer(cmd)):
        raise ParamsError(
            f"params.yaml: a name cannot be part of the command of {name}", found=filled,
            expected="names without a single quote",
        )  # fmt: skip
    for path in paths("deps"):
        _check_local(path, name)
    seconds = entry.get("meta", {}).get("seconds")
    return Stage(name, filled, paths("deps"), paths("params"), paths("outs", "metrics", "plots"), seconds)


def _check_local(path: str, stage: str) -> None:
    """Raise `ParamsError` for a dep that DVC does not take for a file or folder of this machine."""
    scheme, colon, _ = path.partition(":")
    if colon and scheme.lower() in REMOTE:
        raise ParamsError(
            f"{stage}: DVC takes the path {path} for a place elsewhere ({scheme})", found=path,
            expected=f"a file or folder of this machine; in params.yaml, a name like this one as ./{path}",
        )  # fmt: skip
    if path.endswith(".dvc"):
        raise ParamsError(
            f"{stage}: DVC takes the path {path} for a file of its own", expected="another ending"
        )
