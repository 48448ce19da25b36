"""One run of a stage: preflight, timing, and the lineage and cost sidecars beside what it publishes.

    with stage_run("vocabulary", config, inputs=[captions]) as run:
        run.publish_table(path, ADJECTIVES, table)

The sidecars are `<output>.lineage.json` (hashes of the params and inputs, package versions) and
`<output>.cost.json` (seconds, peak memory). Nothing downstream depends on either.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vqpipe.artifacts.places import SIDECARS, Input, Output, need_apart, need_input, need_output
from vqpipe.artifacts.publish import publish_json, tree_digest
from vqpipe.errors import ArtifactError
from vqpipe.runtime.env import is_main_process

PACKAGES = ("vqpipe", "torch", "open_clip_torch", "numpy", "pyarrow", "faiss-cpu", "nltk", "torch-fidelity")


class StageRun:
    """Collects what a stage published; use it through `stage_run`."""

    def __init__(self, stage: str, params: dict[str, Any], inputs: Sequence[Path]) -> None:
        self.stage, self.params, self.inputs = stage, params, list(inputs)
        self.outputs: list[Path] = []
        self.cost: dict[str, float] = {}
        """Further measured costs for the cost sidecar, such as tokens per second."""
        self.started = time.perf_counter()
        self._known: dict[str, Any] | None = None

    def published(self, path: Path) -> Path:
        """Note an output; its sidecars are written when the run ends well."""
        self.outputs.append(path)
        return path

    def metrics(self, path: Path, content: Mapping[str, Any]) -> None:
        """Publish a small metrics file: nested JSON of finite numbers and short strings."""
        publish_json(path, content)

    def key(self) -> str:
        """Hash of the params and inputs: names this run's scratch folder."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """The stage, its params, and the hashes of its inputs: what the key is a hash of."""
        if self._known is None:
            self._known = {
                "stage": self.stage,
                "params": self.params,
                "inputs": {_shown(path): tree_digest(path) for path in self.inputs},
            }
        return self._known

    def _finish(self) -> None:
        lineage = {**self.identity(), "packages": _versions(), "python": platform.python_version()}
        usage = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024
        cost = {
            "stage": self.stage,
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_memory_bytes": max(u.ru_maxrss for u in usage) * unit,
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
            "cores": os.cpu_count(),
            **self.cost,
        }
        for output in self.outputs:
            own = {"output": tree_digest(output)}
            publish_json(output.with_name(output.name + ".lineage.json"), {**lineage, **own})
            publish_json(output.with_name(output.name + ".cost.json"), {**cost, **own})


def _shown(path: Path) -> str:
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.name


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def stage_run(
    stage: str,
    params: BaseModel | Mapping[str, Any],
    inputs: Sequence[Input] = (),
    outputs: Sequence[Output] = (),
) -> Iterator[StageRun]:
    """Check the inputs and the places of the outputs, time the block, and write the sidecars of what it published.

    Raises:
        ArtifactError: an input that is not there or of another kind, or an output that would replace something else.
        SetupError: an output that cannot be written.
    """
    paths = [given if isinstance(given, Path) else given[0] for given in inputs]
    for given in inputs:
        if not isinstance(given, Path):
            need_input(*given)
        elif not given.exists():
            raise ArtifactError(f"{stage}: input {given} does not exist", run=f"dvc repro {stage}")
    for path, kind in outputs:
        need_output(path, kind, SIDECARS)
    need_apart(paths, outputs)
    plain = (
        params.model_dump(mode="json") if isinstance(params, BaseModel) else json.loads(json.dumps(params))
    )
    run = StageRun(stage, plain, paths)
    yield run
    if is_main_process():
        run._finish()
