"""Comparing everything under a path with its checksums: what is wrong, and the command that mends it.

Checked are published folders, metrics and the curves and artifacts that their seal names, lineage and cost sidecars,
and tables and tensors that carry a checksum of themselves. Files of other kinds have none; they are counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vqpipe.artifacts.intact import SMALL, read_whole
from vqpipe.artifacts.lineage import LINEAGE, need_own_lineage, read_lineage
from vqpipe.artifacts.publish import MANIFEST, SIDECARS, file_digest, is_leftover, listed_files
from vqpipe.artifacts.remedies import (
    CURVES,
    METRICS,
    TOOLS,
    counterpart,
    not_there,
    path_below,
    quoted,
    repair_folder,
    repair_metrics,
    repair_output,
    spec_of,
)
from vqpipe.artifacts.seal import (
    MARK,
    PARQUET,
    check_seal,
    need_equal,
    parse_sealed,
    read_sealed_json,
)
from vqpipe.artifacts.spec import Header, check_header
from vqpipe.artifacts.tables import read_header
from vqpipe.artifacts.tensors import read_tensor_header
from vqpipe.artifacts.ties import need_tied
from vqpipe.errors import ArtifactError, MismatchError, human_bytes
from vqpipe.runtime.terminal import progress_bar

MAX_LINES = 40
"""Most problems that are printed."""
MAX_KINDS = 4
"""Most kinds of files without a checksum that are named."""


@dataclass
class Verified:
    """What was compared, and what is wrong.

    Attributes:
        artifacts: published folders.
        files: files that were compared, in folders and out of them.
        bytes: of these files.
        unsealed: files without a checksum.
        problems: one for each thing that is wrong.
    """

    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    unsealed: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[ArtifactError | MismatchError] = field(default_factory=list)

    def add(self, other: Verified) -> None:
        """Count what another part of the work found; a problem that is known is not counted twice."""
        self.artifacts += other.artifacts
        self.files += other.files
        self.bytes += other.bytes
        self.unsealed += other.unsealed
        known = {str(problem) for problem in self.problems}
        self.problems += [problem for problem in other.problems if str(problem) not in known]

    @contextmanager
    def noting(self, path: Path, run: str | None) -> Iterator[None]:
        """Keep an error of the block as a problem.

        Args:
            run: the command that mends `path`, where the system cannot read it.
        """
        try:
            yield
        except (ArtifactError, MismatchError) as error:
            self.problems.append(error)
        except OSError as error:
            self.problems.append(ArtifactError(f"{path}: cannot be read", found=error.strerror, run=run))

    def text(self) -> str:
        """One line for each of the first problems, and a summary."""
        shown = [str(problem).splitlines() for problem in self.problems[:MAX_LINES]]
        lines = [" | ".join(" ".join(part.split()) for part in parts) for parts in shown]
        if len(self.problems) > MAX_LINES:
            lines.append(f"… and {len(self.problems) - MAX_LINES:,} more")
        speed = f" ({human_bytes(self.bytes / self.seconds)}/s)" if self.seconds > 0 else ""
        wrong = f"{len(self.problems):,} wrong" if self.problems else "all as written"
        lines.append(
            f"{self.artifacts:,} artifact{'s'[: self.artifacts != 1]}, {self.files:,} file{'s'[: self.files != 1]}, "
            f"{human_bytes(self.bytes)} in "
            f"{self.seconds:.1f} s{speed}: {wrong}{_not_compared(self.unsealed)}"
        )
        return "\n".join(lines)


def _not_compared(paths: Sequence[Path]) -> str:
    """The number of files without a checksum, and the most frequent kinds of them, each with an example."""
    if not paths:
        return ""
    files = "1 file has" if len(paths) == 1 else f"{len(paths):,} files have"
    kinds = Counter(path.suffix for path in paths)
    examples = {path.suffix: path for path in reversed(paths)}
    shown = [
        f"{count:,} {kind or 'without ending'}, such as {examples[kind].parent.name}/{examples[kind].name}"
        for kind, count in kinds.most_common(MAX_KINDS)
    ]
    if len(kinds) > MAX_KINDS:
        shown.append("…")
    return f"; {files} no checksum ({'; '.join(shown)})"


def verify(paths: Iterable[Path]) -> Verified:
    """Compare everything under the paths with its checksums; reads all of it.

    Raises:
        ArtifactError: a path where nothing is, or nothing that carries a checksum.
    """
    start, found, given = time.perf_counter(), Verified(), list(paths)
    _folders.cache_clear()
    for path in given:
        if not path.exists():
            raise not_there(path)
    items = list(dict.fromkeys(item for path in given for item in _items(path, found)))
    total = sum(_bytes(item) for item in items)
    with progress_bar("verify (MB)", total // 10**6) as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            bar.advance((done + count) // 10**6 - done // 10**6)
            done += count

        for item in items:
            found.add(_checked(item, advance))
    found.seconds = time.perf_counter() - start
    if not found.files and not found.problems and not found.artifacts:
        raise ArtifactError(
            f"nothing in {', '.join(map(str, given))} carries a checksum",
            expected="a published folder, a folder of some, or a file that vqpipe wrote",
        )
    return found


def _items(path: Path, found: Verified) -> Iterator[Path]:
    """The published folders and the other files at and under a path; what dead processes left is noted."""
    if path.is_file():
        yield path.parent if path.name == MANIFEST else path
        return
    if (path / MANIFEST).is_file():
        for ending in SIDECARS:
            if (sidecar := path.with_name(path.name + ending)).is_file():
                yield sidecar
        for child in sorted(path.parent.iterdir()):
            if child.name.startswith(f".{path.name}.") and is_leftover(child):
                found.problems.append(_left(child))
    yield from _walk(path, found, set())


def _left(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} was left by a process that was killed", run=f"rm -r {quoted(path)}, or its stage again"
    )


def _walk(folder: Path, found: Verified, seen: set[Path]) -> Iterator[Path]:
    if (folder / MANIFEST).is_file():
        yield folder
        return
    if (real := folder.resolve()) in seen:
        return  # a link to a folder that was visited
    seen.add(real)
    children: list[Path] = []
    with found.noting(folder, None):
        children = sorted(folder.iterdir())
    for child in children:
        if is_leftover(child):
            found.problems.append(_left(child))
        elif child.name.startswith("."):
            continue  # of a process that is at work, or no output
        elif child.is_dir():
            yield from _walk(child, found, seen)
        else:
            yield child


def _bytes(item: Path) -> int:
    try:
        files = item.rglob("*") if item.is_dir() else [item]
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def _checked(item: Path, advance: Callable[[int], None]) -> Verified:
    result = Verified()
    with result.noting(item, f"dvc checkout -f {quoted(item)}"):
        if item.is_dir():
            return read_whole(item, lambda: _folder(item, advance))
        folder = next((parent for parent in item.parents if (parent / MANIFEST).is_file()), None)
        if folder is not None:
            _file_of_a_folder(folder, item, result, advance)
        elif item.name.endswith(LINEAGE):
            _lineage(item, result)
        elif item.suffix == ".json":
            _json(item, result)
        elif item.suffix == ".csv" and (metrics := counterpart(item, CURVES, METRICS, ".json")) is not None:
            _curves(item, metrics, result)
        elif item.suffix in TOOLS:
            _sealed(item, result)
        elif (sidecar := item.with_name(item.name + LINEAGE)).is_file():
            _count(item, result)
            _lineage(sidecar, Verified())
        else:
            result.unsealed.append(item)
    return result


def _count(path: Path, result: Verified) -> None:
    result.files += 1
    result.bytes += path.stat().st_size


def _folder(folder: Path, advance: Callable[[int], None]) -> Verified:
    """A published folder: its manifest, its spec, and its files, those among them that the manifest does not list."""
    result, run = Verified(artifacts=1), repair_folder(folder)
    with result.noting(folder / MANIFEST, run):
        _count(folder / MANIFEST, result)
        content = read_sealed_json(folder / MANIFEST, run)
        files = listed_files(content, folder / MANIFEST, run)
        header = Header.of(content, folder / MANIFEST)
        with result.noting(folder, run):
            spec = spec_of(header)
            if spec is None:
                raise ArtifactError(
                    f"{folder}: this version of vqpipe does not know its spec",
                    found=f"{header.spec} v{header.version}",
                )
            check_header(header, spec, folder)
        for name, entry in files.items():
            with result.noting(folder / name, run):
                _entry(folder / name, entry, run, result, advance)
        for child in sorted(folder.rglob("*")):
            name = child.relative_to(folder).as_posix()
            if child.is_file() and name != MANIFEST and name not in files:
                result.problems.append(ArtifactError(f"{child} is not in its folder's manifest", run=run))
    return result


def _file_of_a_folder(folder: Path, path: Path, result: Verified, advance: Callable[[int], None]) -> None:
    run = repair_folder(folder)
    files = listed_files(read_sealed_json(folder / MANIFEST, run), folder / MANIFEST, run)
    entry = files.get(path.relative_to(folder).as_posix())
    if entry is None:
        raise ArtifactError(f"{path} is not in its folder's manifest", run=run)
    _entry(path, entry, run, result, advance)


def _entry(
    path: Path, entry: dict[str, Any], run: str, result: Verified, advance: Callable[[int], None]
) -> None:
    """A file of a folder against its line in the manifest."""
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not match its manifest", found="no file", expected="a file", run=run
        )
    _count(path, result)
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(
            f"{path} does not match its manifest",
            found=f"{size} bytes",
            expected=f"{entry['bytes']} bytes",
            run=run,
        )
    need_equal(path, file_digest(path), entry["sha256"], run)
    advance(size)


def _lineage(path: Path, result: Verified) -> None:
    """A lineage sidecar, and whether the output that is there is the one it describes."""
    output = path.with_name(path.name.removesuffix(LINEAGE))
    _count(path, result)
    lineage = read_lineage(output)
    if lineage is not None and not output.exists():
        run = repair_output(output, lineage.stage)
        raise ArtifactError(
            f"{path}: its output is not there", found=f"no {output}", expected=output, run=run
        )
    need_own_lineage(output)


def _json(path: Path, result: Verified) -> None:
    """Metrics, and any other JSON that carries a checksum."""
    raw = path.read_bytes() if path.stat().st_size <= SMALL else b""
    if MARK.encode() not in raw and b'"seal"' not in raw:
        result.unsealed.append(path)  # written by hand, by another program, or by an older version
        return
    run = repair_metrics(path)
    _count(path, result)
    for name, stated in _sealed_digests(path, run).items():
        with result.noting(path, run):
            curves = counterpart(path, METRICS, CURVES, ".csv")
            places = _artifacts(path, name) if name != CURVES else [curves] if curves is not None else []
            need_tied(path, name, stated, places, run)


def _sealed_digests(path: Path, run: str) -> dict[str, str]:
    """The digests of other files in the seal of a metrics file, 16 digits of each, by name."""
    return parse_sealed(path.read_bytes(), path, run)[1]


def _artifacts(path: Path, spec: str) -> list[Path]:
    """The artifacts of a spec that a metrics file may be of."""
    below = path_below(path, METRICS)
    if below is None:
        return []
    root, part = below
    known = _folders(root).get(spec, [])
    return [folder for folder in known if len(part.parts) == 1 or folder.name == part.stem]


@cache
def _folders(root: Path) -> dict[str, list[Path]]:
    """The published folders under a path by the name of their spec; damaged ones are left out."""
    found: dict[str, list[Path]] = {}
    for folder in _walk(root, Verified(), set()):
        ignored = Verified()
        with ignored.noting(folder, None):
            if folder.is_dir():
                spec = str(read_sealed_json(folder / MANIFEST).get("spec"))
                found.setdefault(spec, []).append(folder)
    return found


def _curves(path: Path, metrics: Path, result: Verified) -> None:
    """Curves against the seal of the metrics that were published with them."""
    run = repair_metrics(metrics)
    _count(path, result)
    if not metrics.is_file():
        raise ArtifactError(f"{path}: the metrics of its stage are not there", found=f"no {metrics}", run=run)
    stated = _sealed_digests(metrics, run).get(CURVES)
    if stated is None:
        raise ArtifactError(f"{path}: {metrics} does not name it, so it cannot be compared", run=run)
    need_tied(metrics, CURVES, stated, [path], run)


def _sealed(path: Path, result: Verified) -> None:
    """A table or tensors in no published folder; those that vqpipe did not write carry no checksum."""
    try:
        _count(path, result)
        check_seal(path, TOOLS[path.suffix])
    except ArtifactError:
        with result.noting(path, None):
            read_header(path) if path.suffix == PARQUET else read_tensor_header(path)
        foreign = "did not write" in "".join(map(str, result.problems))
        result.problems.clear()
        if not foreign:
            raise
        result.files, result.bytes, result.unsealed = 0, 0, [path]
