"""Modules that run as forks of one process: what they find, what they return, and when they are no forks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.run import jobs_at_once
from vqpipe.runtime import forks
from vqpipe.runtime.forks import Fork, Forks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="stages are forks on Linux alone"),
]

SLOW = """
import os
with open("imports", "a") as file:
    file.write(f"{os.getpid()}\\n")
"""
STAGE = """
import atexit, os, sys
import slow
atexit.register(print, "left")
print(__name__, sys.argv[1:], os.environ["TEST_FORKS"], os.path.basename(sys.argv[0]), flush=True)
if sys.argv[1] == "signal":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "error":
    raise ValueError("wrong")
if sys.argv[1] != "none":
    sys.exit("text" if sys.argv[1] == "text" else int(sys.argv[1]))
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forks]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("VQPIPE_DEVICE", "cpu")
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('of two versions')\n")
    own = Forks(os.environ | {"TEST_FORKS": "of its own"}, True, ["no_such_library.part", "slow"])
    yield own
    own.close()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "stage", *words]


def test_forks_share_one_import_and_are_programs_otherwise(started: Forks, tmp_path: Path) -> None:
    codes = {"0": 0, "3": 3, "259": 3, "none": 0, "text": 1, "error": 1, "signal": -9}
    children = {word: started.start(command(word), tmp_path / word) for word in codes}
    assert all(isinstance(child, Fork) for child in children.values())
    assert {word: child.wait(60) for word, child in children.items()} == codes
    assert {word: child.poll() for word, child in children.items()} == codes
    assert len((tmp_path / "imports").read_text().split()) == 1
    printed = {word: (tmp_path / word).read_text().splitlines() for word in codes}
    for word, lines in printed.items():
        assert lines[0] == f"__main__ ['{word}'] of its own stage.py"
        assert (lines[-1] == "left") == (word != "signal")
    assert printed["text"][1] == "text"
    assert "ValueError: wrong" in printed["error"]
    unknown = started.start([sys.executable, "-m", "no_such.module"], tmp_path / "log")
    assert unknown.wait(60) == 1
    assert (tmp_path / "log").read_text().count("\n") == 1, "what Python says of it"


def test_no_forks_of_a_process_with_a_broken_library(started: Forks, tmp_path: Path) -> None:
    own = Forks(os.environ | {"TEST_FORKS": ""}, True, ["broken"])
    (tmp_path / "stage.py").write_text("import broken\n")
    assert own.start(command(), tmp_path / "log").wait(60) == 1
    own.close()
    assert "runpy" not in (tmp_path / "log").read_text().replace("<frozen runpy>", "")
    assert (tmp_path / "log").read_text().endswith("RuntimeError: of two versions\n")


def test_what_is_left_runs_when_the_process_that_is_forked_is_killed(
    started: Forks, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stage.py").write_text("import os, signal\nprint(os.getppid(), flush=True)\nsignal.pause()\n")
    child, log = started.start(command(), tmp_path / "log"), tmp_path / "log"
    while not (log.exists() and log.read_text()):
        assert child.poll() is None
    os.kill(int(log.read_text()), signal.SIGKILL)
    assert child.wait(60) == -signal.SIGTERM
    assert (
        "the process that stages are forked from ended with code -9; stages lost with it: 1"
        in capfd.readouterr().err
    )
    (tmp_path / "stage.py").write_text(STAGE)
    assert started.start(command("3"), log).wait(60) == 3


def test_the_outputs_are_those_of_this_process_without_a_log(
    started: Forks, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [started.run(command(code)) for code in ("3", "signal")] == [3, 137]
    out = capfd.readouterr().out
    assert out == "__main__ ['3'] of its own stage.py\nleft\n__main__ ['signal'] of its own stage.py\n"


def test_no_forks_on_a_gpu_where_they_are_not_wanted_and_of_other_programs(
    started: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, card = tmp_path / "log", tmp_path / "card"
    assert not isinstance(child := started.start(["sh", "-c", "echo $TEST_FORKS"], log), Fork)
    assert (child.wait(60), log.read_text()) == (0, "of its own\n")
    monkeypatch.setattr(forks, "GPUS", [str(card)])
    monkeypatch.delenv("VQPIPE_DEVICE")
    for wanted in (False, True):
        own = Forks(os.environ | {"TEST_FORKS": ""}, wanted, [])
        assert isinstance(child := own.start(command("0"), log), Fork) == wanted
        assert child.wait(60) == 0
        own.close()
    monkeypatch.setattr("stages.run.workers", lambda: 3)
    assert jobs_at_once() == 3
    card.touch()
    assert jobs_at_once() == 1
    own = Forks(os.environ | {"TEST_FORKS": ""}, True, [])
    assert not isinstance(child := own.start(command("0"), log), Fork)
    assert child.wait(60) == 0


def test_a_fork_that_is_ended_before_it_has_begun(started: Forks, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import signal\nopen('imports', 'w').close()\nsignal.pause()\n")
    children = [started.start(command("0"), tmp_path / "log") for _ in range(2)]
    children[0].send_signal(signal.SIGTERM)
    assert [child.wait(60) for child in children] == [-signal.SIGTERM] * 2
    assert (tmp_path / "log").read_text() == ""
