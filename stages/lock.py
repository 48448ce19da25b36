"""Compare dvc.lock with the working tree: were its results made by this code with this params.yaml?

`dvc status` cannot answer that in a clone without data. This check reads only what git tracks: every stage's command,
params, code and raw inputs, and the metrics and curves. A changed comment or doc string passes it.
"""

from __future__ import annotations

import hashlib
import json
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stages.cli import stage_app
from vqpipe.errors import ParamsError
from vqpipe.runtime.terminal import say

if TYPE_CHECKING:
    from stages.dvcfile import Stage
    from vqpipe.runtime.code import Code

LISTINGS = Path("artifacts/code")
"""The folder of the listings of code that the stage `code` writes."""
SHOWN = 4
"""Most files that a message names."""


def stale_stages(root: Path) -> dict[str, list[str]]:
    """How dvc.lock differs from the working tree, by stage; empty where it does not. Absent data is not checked.

    Raises:
        ParamsError: dvc.yaml or params.yaml cannot be read.
    """
    from stages.dvcfile import read_stages
    from vqpipe.params.base import read_yaml
    from vqpipe.params.bounded_yaml import GENERATED
    from vqpipe.runtime.code import Code

    path, code = root / "dvc.lock", Code(root)
    entries = read_yaml(path, GENERATED).get("stages", {}) if path.is_file() else {}
    found = {
        name: _reasons(stage, entries.get(name), root, code) for name, stage in read_stages(root).items()
    }
    code.keep()
    return {name: reasons for name, reasons in found.items() if reasons}


def _reasons(stage: Stage, entry: dict[str, Any] | None, root: Path, code: Code) -> list[str]:
    from vqpipe.params.base import read_yaml

    if entry is None:
        return ["it has never run"]
    reasons = []
    if entry["cmd"].split() != stage.cmd.split():
        reasons.append("its command changed")
    if LISTINGS.as_posix() in stage.outs:  # the stage `code`, whose result is compared, not its inputs
        if not (root / LISTINGS).is_dir():
            return [*reasons, f"{LISTINGS.as_posix()} is not there"]
        old = [path for path in sorted((root / LISTINGS).iterdir()) if _is_old(path, code)]
        return [*reasons, *(f"{path.relative_to(root).as_posix()} is out of date" for path in old)]
    context = read_yaml(root / "params.yaml")
    reasons += [f"params {name} differ" for name in changed_params(stage, entry, context, root)]
    recorded = {item["path"]: item.get("md5") for item in [*entry.get("deps", []), *entry.get("outs", [])]}
    for path in stage.deps:
        if path not in recorded:
            reasons.append(f"{path} is a new dep")
    for path in (*stage.deps, *stage.outs):
        if path not in recorded:
            continue
        if Path(path).parent == LISTINGS:
            reasons += _changed_code(root / path, recorded[path], code)
        elif _is_tracked(root, path) and md5(root / path) != recorded[path]:
            reasons.append(f"{path} changed")
    if gone := sorted(set(recorded) - {*stage.deps, *stage.outs}):
        reasons.append(f"no longer of this stage: {_few(gone)}")
    return reasons


def changed_params(stage: Stage, entry: dict[str, Any], context: dict[str, Any], root: Path) -> list[str]:
    """The params of a stage that differ from those in its entry of dvc.lock; `context` is params.yaml."""
    from vqpipe.params.base import section_of

    known = entry.get("params", {}).get("params.yaml", {})
    found = {name: section_of(context, name, root / "params.yaml") for name in stage.params}
    return [name for name, value in found.items() if name not in known or known[name] != value]


def _is_tracked(root: Path, path: str) -> bool:
    """Whether git tracks a file or folder, judged by its path: a clone has no folders of artifacts."""
    return (root / path).is_file() or ((root / path).is_dir() and not path.startswith("artifacts"))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _is_old(listing: Path, code: Code) -> bool:
    try:
        return listing.read_text(encoding="utf-8") != code.listing(listing.stem)
    except ParamsError:
        return True


def _changed_code(listing: Path, recorded: str, code: Code) -> list[str]:
    """One reason if a stage's code is not that of its recorded listing; it names files if the listing is still here."""
    try:
        now = code.listing(listing.stem)
    except ParamsError:
        return [f"stages/{listing.stem}.py is gone"]
    if hashlib.md5(now.encode(), usedforsecurity=False).hexdigest() == recorded:
        return []
    if not listing.is_file() or md5(listing) != recorded:
        return ["its code changed"]
    lines = set(now.splitlines()) ^ set(listing.read_text(encoding="utf-8").splitlines())
    return [f"its code changed: {_few(sorted({line.split(maxsplit=1)[1] for line in lines}))}"]


def md5(path: Path) -> str:
    """DVC's hash of a file, or of a folder: that of the list of its files and their hashes, followed by `.dir`."""
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        rows = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
        listing = json.dumps(sorted(rows, key=itemgetter("relpath")), sort_keys=True)
        return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def main() -> None:
    """List the stages that were run with other code or params than the working tree has.

    Example: python -m stages.lock
    """
    problems = stale_stages(Path.cwd())
    for name, reasons in problems.items():
        say(f"{name}: {'; '.join(reasons)}")
    if problems:
        say(
            f"stages in which dvc.lock differs from the working tree: {len(problems)}\n"
            "  run:      dvc repro, and commit dvc.lock; or restore params.yaml and the code"
        )
        raise typer.Exit(1)
    say("dvc.lock matches the working tree: commands, params, code, metrics and curves")


app = stage_app(main)

if __name__ == "__main__":
    app()
