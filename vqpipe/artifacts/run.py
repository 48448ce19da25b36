"""One run of a stage: checks before the work, then all of its outputs at once, with lineage and cost next to them.

    with stage_run("vocabulary", config, inputs, [(out, VOCABULARY), (metrics, JSON)]) as run:
        publish_vocabulary(run.staged(out), vocabulary)
        run.metrics(metrics, measured)

An output is written under a hidden name. When the block has ended well, all of them take their names, one rename
after another, and only then the scratch folder is removed. The metrics come last and contain the digests of the
others, so that a reader notices where a run was killed between two of these renames.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vqpipe.artifacts.inputs_outputs import (
    CURVES,
    JSON,
    FileKind,
    Input,
    Kind,
    Output,
    need_apart,
    need_input,
    need_output,
)
from vqpipe.artifacts.lineage import COST, LINEAGE, Lineage, need_fit, read_lineage
from vqpipe.artifacts.metrics import Metrics
from vqpipe.artifacts.publish import (
    MANIFEST,
    SIDECARS,
    hidden,
    publish_sealed,
    put_in_place,
    read_manifest,
    real,
    remove_leftovers,
    short_digest,
    tree_digest,
)
from vqpipe.errors import ArtifactError
from vqpipe.runtime.code import stage_code, words_in
from vqpipe.runtime.env import is_main_process
from vqpipe.runtime.scratch import scratch_folder
from vqpipe.runtime.signals import hold_signals

PACKAGES = ("vqpipe", "torch", "open_clip_torch", "numpy", "pyarrow", "faiss-cpu", "nltk", "torch-fidelity")


class StageRun:
    """What a stage reads and publishes; use it through `stage_run`."""

    def __init__(
        self,
        stage: str,
        params: dict[str, Any],
        inputs: Mapping[Path, str | None],
        outputs: Sequence[Output] = (),
        *,
        mixed: bool = False,
        roles: Mapping[Path, str | None] | None = None,
    ) -> None:
        self.stage, self.params, self.inputs, self.mixed = stage, params, inputs, mixed
        self.cost: dict[str, float] = {}
        """Further measured costs for the cost sidecar, such as tokens per second."""
        self.started = time.perf_counter()
        self._kinds: dict[Path, Kind] = dict(outputs)
        self._staged: dict[Path, Path] = {}
        self._metrics: dict[Path, Mapping[str, Any]] = {}
        self._known: dict[str, Any] | None = None
        self._digests = {path: tree_digest(path) for path, spec in inputs.items() if spec is not None}
        self._shown = _shown(inputs)
        self._roles = {**inputs, **(roles or {})}
        self._names, self._scratch = ExitStack(), ExitStack()

    def staged(self, path: Path) -> Path:
        """Where to write an output; it gets its name when the run ends well."""
        if path not in self._staged:
            at = real(path)
            at.parent.mkdir(parents=True, exist_ok=True)
            self._staged[path] = (
                self._names.enter_context(hidden(at, "staged"))
                if is_main_process()
                else at.with_name(f".{at.name}")
            )
        return self._staged[path]

    def metrics(self, path: Path, measured: Metrics | Mapping[str, Any]) -> None:
        """Publish a small metrics file with the other outputs: nested JSON of finite numbers and short strings."""
        content = measured.plain() if isinstance(measured, Metrics) else measured
        json.dumps(content, allow_nan=False)
        self._metrics[path] = content

    def scratch(self) -> Path:
        """The folder for checkpoints of a run with these params, inputs and code; removed after all outputs are there.
        A checkpoint of other code may not fit, or continue another computation. Of plug-ins, the code counts that the
        params or those of an input name.

        Raises:
            SetupError: as `vqpipe.runtime.scratch.scratch_folder`.
        """
        about = {**self.identity(), "code": stage_code(self.stage, kinds=self._kinds_named())}
        return self._scratch.enter_context(scratch_folder(self.stage, short_digest(about), about))

    @cached_property
    def code(self) -> str:
        """The digest of the stage's code, without plug-ins that the params do not name."""
        return stage_code(self.stage, kinds=words_in(self.params))

    def _kinds_named(self) -> set[str] | None:
        """What the params and those of the inputs name, of an imported artifact what its manifest does; None, for all
        plug-ins, with an artifact that has neither a lineage nor a manifest."""
        found = words_in(self.params)
        for path in (path for path, spec in self.inputs.items() if spec is not None):
            if (lineage := read_lineage(path)) is not None:
                found |= words_in(lineage.params)
            elif (path / MANIFEST).is_file():
                found |= words_in(read_manifest(path).facts)
            else:
                return None
        return found

    def identity(self) -> dict[str, Any]:
        """The stage, its params, and the hashes of its inputs."""
        if self._known is None:
            self._known = {
                "stage": self.stage,
                "params": self.params,
                "inputs": {
                    shown: self._digests.get(path) or tree_digest(path) for path, shown in self._shown.items()
                },
            }
        return self._known

    def _need_same_inputs(self) -> None:
        """Raise `ArtifactError` where an input was replaced while the stage read it: it may have read both versions."""
        for path, before in self._digests.items():
            if tree_digest(path) != before:
                raise ArtifactError(
                    f"{path} was replaced while {self.stage} read it; nothing is published",
                    expected="inputs that stay as they are", run="the same command again",
                )  # fmt: skip

    def _finish(self) -> None:
        """Give all outputs their names: artifacts and curves, then metrics, then sidecars."""
        self._need_same_inputs()
        specs = {
            self._shown[path]: role for path in self.inputs if (role := self._roles.get(path)) is not None
        }
        cost = self._cost()
        digests = {path: tree_digest(staged) for path, staged in self._staged.items() if staged.exists()}
        sealed = {name: digest for path, digest in digests.items() if (name := self._name(path)) is not None}
        moves = [(self._staged[path], path) for path in digests]
        for path, content in self._metrics.items():
            publish_sealed(self.staged(path), content, sealed)
            moves.append((self.staged(path), path))
        for path, digest in digests.items():
            if self._kinds.get(path) in (JSON, CURVES):
                continue
            lineage = Lineage(
                self.stage, self.params, self.identity()["inputs"], specs, digest, self.mixed, _versions()
            )
            for ending, content in ((LINEAGE, vars(lineage)), (COST, {**cost, "output": digest})):
                sidecar = path.with_name(path.name + ending)
                publish_sealed(self.staged(sidecar), content)
                moves.append((self.staged(sidecar), sidecar))
        with hold_signals():
            for staged, path in moves:
                put_in_place(staged, real(path))

    def _name(self, path: Path) -> str | None:
        """What the seal of the metrics calls an artifact or its curves; None for what depends on the time it took."""
        kind = self._kinds.get(path)
        if isinstance(kind, FileKind):
            return kind.name if kind is CURVES else None
        staged = self._staged[path]
        return read_manifest(staged).header.spec if (staged / MANIFEST).is_file() else path.name

    def _cost(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "stage": self.stage,
            "seconds": round(time.perf_counter() - self.started, 3),
            "peak_memory_bytes": max(u.ru_maxrss for u in usage) * unit,
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
            "cores": os.cpu_count(),
            **self.cost,
        }


def _shown(paths: Iterable[Path]) -> dict[Path, str]:
    """The name of each path in lineage: relative to the working folder, and outside of it as many last parts as
    distinguish it from the others; never an absolute path."""
    shown, outside = dict[Path, str](), list[Path]()
    for path in paths:
        try:
            shown[path] = Path(os.path.abspath(path)).relative_to(Path.cwd()).as_posix()
        except ValueError:
            outside.append(path)
    for path in outside:
        parts, others = path.resolve().parts, [other.resolve().parts for other in outside if other != path]
        count = 1
        while count < len(parts) and any(other[-count:] == parts[-count:] for other in others):
            count += 1
        shown[path] = "/".join(parts[-count:])
    return shown


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
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
    *,
    mixed: bool | None = None,
    roles: Mapping[Path, str | None] | None = None,
) -> Iterator[StageRun]:
    """Check the inputs and the places of the outputs, run the block, and publish what it staged.

    Args:
        mixed: take inputs that were not made from each other, such as a tokenizer of another data set; None where the
            stage has no option for it.
        roles: the spec that an input counts as when lineages are compared, where it is not its own: the dataset that
            captions come from need not be that of the images. None for an input that is not compared.

    Raises:
        ArtifactError: an input that is not there, damaged or of another kind, an output that would replace something
            else, or an input artifact that was replaced while the block ran.
        MismatchError: an input that was made from another version of another input.
        SetupError: an output that cannot be written.
    """
    known: dict[Path, str | None] = {}
    for given in inputs:
        if not isinstance(given, Path):
            known[given[0]] = need_input(*given)
        elif not given.exists():
            raise ArtifactError(f"{stage}: input {given} does not exist", run=f"dvc repro {stage}")
        else:
            known[given] = None
    if not mixed:
        remedy = None if mixed is None else "or the same command with --mixed, if this is intended"
        fitting = {**known, **(roles or {})}
        need_fit([(path, role) for path, role in fitting.items() if role], remedy)
    for path, kind in outputs:
        need_output(path, kind, SIDECARS)
    need_apart(list(known), outputs)
    plain = (
        params.model_dump(mode="json") if isinstance(params, BaseModel) else json.loads(json.dumps(params))
    )
    run = StageRun(stage, plain, known, outputs, mixed=bool(mixed), roles=roles)
    with run._scratch, run._names:
        if is_main_process():
            for path, _ in outputs:
                for name in (path.name, *(path.name + ending for ending in SIDECARS)):
                    remove_leftovers(path.parent, name)
        yield run
        if is_main_process():
            run._finish()
