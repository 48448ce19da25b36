"""Every artifact spec by name, and the command that brings back an output that is damaged or lost.

The command takes it from DVC's or git's store, or runs its stage.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from vqpipe.artifacts import specs
from vqpipe.artifacts.publish import MANIFEST, SIDECARS
from vqpipe.artifacts.seal import PARQUET, SAFETENSORS, parse_object
from vqpipe.artifacts.spec import (
    FolderSpec,
    Header,
    Spec,
    TableSpec,
    TensorSpec,
    make_command,
    repair_command,
)
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.errors import ArtifactError
from vqpipe.params.entries import PARAMS, repro_command
from vqpipe.params.names import NAMED, PER_TOKENIZER


@cache
def all_specs() -> dict[str, Spec]:
    """The specs of all artifacts by name, sorted.

    They are all the `Spec` objects in the modules of `vqpipe.artifacts.specs`.
    """
    found: dict[str, Spec] = {}
    for module in sorted(item.name for item in iter_modules(specs.__path__)):
        content = vars(import_module(f"{specs.__name__}.{module}"))
        for value in content.values():
            if isinstance(value, TableSpec | TensorSpec | FolderSpec):
                assert found.setdefault(value.name, value) == value, f"two specs are called {value.name}"
    return dict(sorted(found.items()))


def spec_of(header: Header) -> Spec | None:
    """The current spec that a header names, or None for a name this version of vqpipe does not know."""
    return all_specs().get(header.spec)


def not_there(path: Path) -> ArtifactError:
    """The error for a path where nothing is: the nearest that is there, and the command where a stage makes it."""
    around = path.parent if path.parent.is_dir() else Path()
    names = [name for own in around.iterdir() if not (name := own.name).startswith(".")]
    names = sorted(name for name in names if not name.endswith(SIDECARS))
    run = _maker(path)
    below = sorted(Path("artifacts").glob(f"*/{path.name}")) if path.name == str(path) else []
    alike = [around / name for name in get_close_matches(path.name, names, 1, 0.5)]
    near = below[:1] or ([] if run else alike)
    return ArtifactError(
        f"{path} does not exist" + (f"; did you mean {near[0]}?" if near else ""),
        choices=below or (names if around == path.parent and path.name != str(path) else None) or None,
        expected="a path that is there, from this folder", run=run,
    )  # fmt: skip


def _maker(path: Path) -> str | None:
    """The command that makes what belongs to a path below artifacts; None where no stage of the pipeline here does."""
    if path.is_absolute() or path.parts[:1] != ("artifacts",) or not PARAMS.is_file():
        return None
    names, stages = path.parts[1:], {spec.stage for spec in all_specs().values()}
    if names == ("codebook", "words") or names == ("codebook", "patches"):
        return {"words": "dvc repro graph", "patches": "dvc repro cluster"}[names[1]]
    if len(names) == 1 and names[0] in stages and names[0] not in (*NAMED, *PER_TOKENIZER):
        return f"dvc repro {names[0]}"
    stage = "evaluate" if names[:1] == ("evaluation",) else "".join(names[:1])
    return repro_command(stage, names[1]) if len(names) == 2 and stage in (*NAMED, *PER_TOKENIZER) else None


METRICS, CURVES = "metrics", "curves"
"""Folders of the same layout: `metrics/PART.json` belongs to `curves/PART.csv`."""
TOOLS = {PARQUET: "vqpipe tokenize", SAFETENSORS: "save_pretrained, or download it"}
"""What writes a file that carries a checksum of itself."""


def quoted(path: Path) -> str:
    """A path as one word of a command line."""
    return shlex.quote(str(path))


def repair_folder(folder: Path) -> str:
    """The command for a published folder, from what can be read of its manifest."""
    spec = None
    with suppress(ArtifactError, OSError):
        spec = all_specs().get(str(parse_object((folder / MANIFEST).read_bytes(), folder).get("spec")))
    if spec == NO_CODEBOOK:
        return f"git checkout {quoted(folder)}"
    if spec is None:
        return repair_command(folder)
    return make_command(spec) if spec.stage.startswith("vqpipe ") else repair_output(folder, spec.stage)


def repair_output(output: Path, stage: str) -> str:
    """The command for an output of a stage that DVC keeps."""
    is_repeated = stage in NAMED or stage in PER_TOKENIZER  # once for each variant or pair
    name = f"{stage}@{output.name}" if is_repeated else stage
    return repair_command(output, f"dvc repro -s -f {shlex.quote(name)}")


def repair_metrics(path: Path) -> str:
    """The command for metrics, which git keeps: their path in the folder of metrics is the name of their stage."""
    below = path_below(path, METRICS)
    if below is None:
        return f"git checkout {quoted(path)}, or the stage that made it"
    stage = "@".join(below[1].with_suffix("").parts)
    return f"git checkout {quoted(path)}, or dvc repro -s -f {shlex.quote(stage)}"


def path_below(path: Path, folder: str) -> tuple[Path, Path] | None:
    """For a file under a folder of that name: the parent of the folder, and the path of the file in it; or None."""
    for parent in path.parents:
        if parent.name == folder:
            return parent.parent, path.relative_to(parent)
    return None


def counterpart(path: Path, folder: str, other: str, ending: str) -> Path | None:
    """The file of the same name in the other of the folders `metrics` and `curves`, or None for a file in neither."""
    below = path_below(path, folder)
    return None if below is None else (below[0] / other / below[1]).with_name(below[1].stem + ending)
