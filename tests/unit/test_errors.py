"""What a user reads of an error: its length and signs, the system's errors in words, exit codes and no tracebacks."""

from __future__ import annotations

import ast
import copy
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from typer.testing import CliRunner

from stages.cli import MEMORY, stage_app
from vqpipe.data.records import Bad
from vqpipe.data.walk import images_below, read_image
from vqpipe.errors import (
    MAX_MESSAGE,
    ArtifactError,
    DataError,
    ParamsError,
    SetupError,
    VqpipeError,
    of_system,
    printable,
)
from vqpipe.params.base import read_yaml, section_of

ROOT = Path(__file__).parents[2]
CONTROLS = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x61C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
]


def chained(*errors: BaseException) -> BaseException:
    """The last of some errors, each raised while the one before it was handled."""
    for before, after in pairwise(errors):
        after.__context__ = before
    return errors[-1]


@pytest.mark.parametrize("code", [*CONTROLS, 0xD800, 0xDFFF])
def test_controls_are_escaped_wherever_they_are_put(code: int) -> None:
    raw = chr(code)
    text = str(VqpipeError(f"a{raw}b", found=f"c{raw}d", expected=[raw], choices=[raw, raw], run=f"e{raw}f"))
    assert raw not in text.replace("\n", "" if raw == "\n" else "\n")
    assert len(text.splitlines()) == 5
    assert printable(f"a{raw}b").encode("ascii").startswith(b"a\\")


def test_ordinary_text_of_any_script_stays() -> None:
    text = "naïve café 日本 עברית العربية 👩‍🚀 \\x1b a\u00a0b"
    assert printable(text) == text


def test_a_value_cannot_forge_a_part_of_the_message() -> None:
    text = str(ArtifactError("x\n  run:      rm -r /", found="y\n  run:      rm -r /"))
    assert "\n  run:" not in text


def test_what_is_expected_can_have_lines_below_one_another() -> None:
    error = DataError("x", expected=["folders such as", "train/a.jpg\x1b", "val/b.jpg"], run="y")
    assert str(error) == (
        "x\n  expected: folders such as\n            train/a.jpg\\x1b\n            val/b.jpg\n  run:      y"
    )
    assert "val\\n" in str(DataError("x", expected="val\n  run: rm")), "a text alone stays one line"
    assert len(str(DataError("x", expected=["y" * 500] * 9000)).splitlines()) < 30


@pytest.mark.parametrize("part", ["problem", "found", "expected", "choices", "run"])
def test_a_message_has_at_most_2000_characters_and_says_what_was_cut(part: str) -> None:
    parts: dict[str, object] = {"problem": "what", "found": "short", "run": "vqpipe", part: "x" * 10_000_000}
    if part == "choices":
        parts[part] = [f"choice-{at}" for at in range(5000)]
    error = VqpipeError(str(parts.pop("problem")), **parts)  # type: ignore[arg-type]
    assert len(str(error)) <= MAX_MESSAGE
    assert ("5,000 in all" if part == "choices" else "10,000,000 characters") in str(error)
    if part != "run":
        assert str(error).endswith("run:      vqpipe")


def test_many_lines_are_cut_and_counted() -> None:
    error = ParamsError(["x" * 500] * 9000, found="y" * 3000, choices=["z" * 3000])
    assert len(str(error)) <= MAX_MESSAGE
    assert "9,000 lines in all" in str(error)


def test_an_error_keeps_its_lines_on_its_way_out_of_a_worker() -> None:
    error = DataError("one", found="two", choices=["three"])
    again = copy.copy(error)
    assert (type(again), str(again)) == (DataError, str(error))


def raised(work: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        work()
    return caught.value


@pytest.mark.parametrize(
    ("error", "told"),
    [
        *(
            (OSError(number, os.strerror(number), "/place"), f"{told}.*: /place\n")
            for number, told in {
                errno.ENOSPC: "no space", errno.EDQUOT: "quota", errno.EROFS: "read-only", errno.EACCES: "permission",
                errno.EIO: "disk or its connection failed", errno.EMFILE: "too many files", errno.EFBIG: "limit",
                errno.ENAMETOOLONG: "too long", errno.ESTALE: "network file system lost", errno.EPERM: "not permitted",
            }.items()
        ),
        (OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"), "no space"),
        (OSError("100000 requested and 8176 written"), "no space"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "no space"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "read-only"),
        (SafetensorError("I/O error: File too large (os error 27)"), "limit"),
        (OSError("IOError: Input/output error"), "disk or its connection failed"),
        (MemoryError(), "memory ran out"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory ran out"),
        (RuntimeError("unable to mmap 512 bytes from file <x>: Cannot allocate memory (12)"), "memory ran out"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory ran out"),
        (RuntimeError("can't start new thread"), "no more processes or threads"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), "worker process ended"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (RuntimeError("could not create a primitive"), "memory ran out"),
        (raised(lambda: np.empty(10**15)), "memory ran out"),
        (raised(lambda: np.empty((10**10, 10**10))), "memory ran out"),
        (raised(lambda: torch.empty(10**15)), r"4.0 PB|4000.0 TB requested at once"),
        (raised(lambda: torch.empty(10**10, 10**10)), "memory ran out"),
        (raised(lambda: torch.empty(10**20)), "memory ran out"),
        (raised(lambda: pa.allocate_buffer(10**15)), "1000.0 TB requested at once"),
        (raised(lambda: bytearray(10**18)), "memory ran out"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", f"{type(value).__name__} {value}")[:50],
)  # fmt: skip
def test_the_system_s_errors_are_sentences(error: BaseException, told: str) -> None:
    found = of_system(error, "cluster.num_clusters")
    assert isinstance(found, VqpipeError)
    assert re.search(told, str(found))
    assert ("memory ran out" in str(found)) == ("a smaller cluster.num_clusters" in str(found))
    done = CliRunner().invoke(stage_app(failing(error)), [])
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
    assert done.output.startswith("error: ")


def failing(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("ours"), TypeError("ours"), KeyError("ours"), AttributeError("ours"), ValueError("ours"),
        OSError(errno.EBADF, "ours"), FileNotFoundError(errno.ENOENT, "ours"), RuntimeError("ours"),
        chained(MemoryError(), TypeError("ours")), chained(MemoryError(), AssertionError("ours")),
        chained(PermissionError(errno.EACCES, "no"), ValueError("ours")),
    ],
)  # fmt: skip
def test_a_bug_keeps_its_traceback(error: BaseException) -> None:
    assert of_system(error) is None
    assert CliRunner().invoke(stage_app(failing(error)), []).exception is error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (chained(copy.copy(FULL), ValueError("write to closed file")), "no space"),
        (chained(copy.copy(FULL), OSError(errno.EROFS, "ro")), "no space"),
        (chained(copy.copy(FULL), FileNotFoundError(errno.ENOENT, "gone")), "no space"),
        (chained(copy.copy(FULL), ArtifactError("lacks its files")), "no space"),
        (chained(OSError(errno.EPERM, "no link"), copy.copy(FULL)), "no space"),
        (chained(PermissionError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "gone")), "permission"),
        (chained(PermissionError(errno.EACCES, "no"), DataError("cannot be read")), None),
        (chained(MemoryError(), SetupError("the CLIP weights cannot be read")), "memory ran out"),
        (chained(copy.copy(FULL), SetupError("VQPIPE_SCRATCH cannot be written")), None),
    ],
)
def test_what_a_clean_up_raises_does_not_hide_the_first_error(error: BaseException, told: str | None) -> None:
    found = of_system(error)
    assert found is None if told is None else told in str(found)


@pytest.mark.parametrize(
    ("number", "kept"), [(errno.EMFILE, False), (errno.ENOMEM, False), (errno.EACCES, True)]
)
def test_a_file_is_left_out_only_for_a_reason_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kept: bool
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")

    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    if kept:
        assert isinstance(read_image("a", tmp_path / "a.png", 100), Bad)
        return
    for read in (lambda: read_image("a", tmp_path / "a.png", 100), lambda: list(images_below(tmp_path))):
        with pytest.raises(OSError, match=os.strerror(number)):
            read()


WRITERS = {
    "parquet": "from vqpipe.artifacts.tables import *; from vqpipe.artifacts.specs.dataset import QUARANTINE as S\n"
    "row = dict(split='a', item='b', reason='c', detail='d')\n"
    "write_table(out, S, to_table(S, [row | {'item': __import__('os').urandom(20).hex()} for _ in range(5000)]))",
    "safetensors": "import torch; from vqpipe.artifacts.tensors import *\n"
    "from vqpipe.artifacts.spec import TensorSpec\n"
    "write_tensors(out, TensorSpec('x', 1, {}, 's', True), {'a': torch.zeros(50000)})",
    "numpy": "import numpy as np; from vqpipe.artifacts.publish import publish_file\n"
    "with publish_file(out) as partial, partial.open('wb') as stream: np.save(stream, np.zeros(50000))",
    "text": "from vqpipe.artifacts.publish import publish_text\npublish_text(out, 'x' * 200000)",
}


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_write_that_fails_half_way_is_a_sentence_and_leaves_nothing(writer: str, tmp_path: Path) -> None:
    body = "\n".join(f"    {line}" for line in WRITERS[writer].splitlines()).replace("import *", "import %s")
    names = {"parquet": "to_table, write_table", "safetensors": "write_tensors"}.get(writer)
    script = (
        "import resource; from pathlib import Path; from stages.cli import stage_app\n"
        f"def main() -> None:\n    out = Path({str(tmp_path / 'out')!r})\n{body % names if names else body}\n"
        "import pyarrow, torch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\nstage_app(main)()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert done.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


PRINTING = (
    "from stages.cli import stage_app\n"
    "def main() -> None:\n    print('x' * int(input()), end='')\n"
    "stage_app(main)()\n"
)


@pytest.mark.parametrize("length", [b"10", b"100000"])
def test_a_reader_that_leaves_ends_a_tool_in_silence(length: bytes) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PRINTING], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, told = process.communicate(length + b"\n")
    assert (process.returncode, told) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("length", [b"10", b"100000"])
def test_an_output_that_cannot_be_written_is_named_once(length: bytes) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING],
            cwd=ROOT,
            input=length + b"\n",
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: no space is left")
    assert b"ignored" not in done.stderr


def test_a_stage_that_lacks_memory_names_its_params(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MEMORY, Path(__file__).stem, "tokens.batch_size")
    done = CliRunner().invoke(stage_app(failing(MemoryError())), [])
    assert "a smaller tokens.batch_size" in done.output


def test_the_params_that_memory_grows_with_are_there() -> None:
    data = read_yaml(ROOT / "params.yaml")
    for names in MEMORY.values():
        found = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", names)
        assert found
        for name in found:
            section_of(data, name, ROOT / "params.yaml")


def test_every_picture_that_is_decoded_has_a_name_and_a_stage() -> None:
    calls = [
        (file, node)
        for file in (ROOT / "vqpipe").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("decode_png")
    ]
    assert len(calls) > 10
    for file, node in calls:
        assert len(node.args) == (
            4 if "report" in file.parts and "images" not in ast.unparse(node.func) else 3
        ), file
