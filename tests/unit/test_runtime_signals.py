"""How commands, their workers and their children end by a signal. Each program tells by a line that it has begun; that
all its processes have ended shows in the end of their common output."""

from __future__ import annotations

import ast
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stages.cli import stage_app
from vqpipe.cli.app import _Group
from vqpipe.runtime.signals import run_child, stop_on_signals

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
START = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import vqpipe.runtime.signals as s
def wait():
    print("ready", flush=True)
    while True:
        signal.pause()
"""
WORKERS = """
import os, signal
from vqpipe.runtime.shards import map_shards
from vqpipe.runtime.signals import stop_on_signals
def work(value):
    os.write(1, b"ready\\n")
    while True:
        signal.pause()
if __name__ == "__main__":
    with stop_on_signals():
        list(map_shards(work, range(9)))
"""
HALF_SENT = """
import os, signal, struct, sys
import vqpipe.runtime.signals as s
from vqpipe.runtime.shards import map_shards
def work(value):
    results = sys._getframe(1).f_locals["result_queue"]
    os.write(results._writer.fileno(), struct.pack("!i", 1000))  # the length alone
    os.write(1, b"ready\\n")
    while True:
        signal.pause()
if __name__ == "__main__":
    s.DEADLINE = 1
    with s.stop_on_signals():
        try:
            list(map_shards(work, range(9)))
        finally:
            print("clean", flush=True)
"""
STAGE = """
import os, signal, time
from vqpipe.runtime.signals import stop_on_signals
with stop_on_signals():
    try:
        os.write(1, b"ready\\n")
        while True:
            signal.pause()
    finally:
        time.sleep(0.5)
        os.write(1, b"clean\\n")
"""


def as_in_a_terminal() -> None:
    """Signals as a terminal gives them to a program, though `nohup` or a shell's `&` may ignore them for the tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(*command: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """A program in a session of its own, as soon as it, or each of its two workers, has begun."""
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=cwd, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        preexec_fn=as_in_a_terminal,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(int(env.get("VQPIPE_WORKERS", "1"))):
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def end(process: subprocess.Popen[str], text: str | None = None) -> tuple[int, str, str]:
    """The exit code and output, when the program and all that it started have ended."""
    try:
        out, err = process.communicate(text, timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def ended_by(signum: int, program: str, tmp_path: Path) -> tuple[int, str, str]:
    process = start("-c", START + program, cwd=tmp_path)
    process.send_signal(signum)
    return end(process)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_after_its_clean_up(signum: signal.Signals, tmp_path: Path) -> None:
    program = "with s.stop_on_signals():\n    try:\n        wait()\n    finally:\n        print('clean')\n"
    code, out, err = ended_by(signum, program, tmp_path)
    assert (code, out) == (128 + signum, "clean\n")
    assert err.count("\n") == 1
    assert f"stopped by {signum.name}" in err


def test_a_second_signal_does_not_interrupt_the_clean_up(tmp_path: Path) -> None:
    program = (
        "with s.stop_on_signals():\n    try:\n        wait()\n    finally:\n"
        "        print('cleaning', flush=True)\n        sys.stdin.readline()\n        print('clean')\n"
    )
    process = start("-c", START + program, cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert end(process, "go\n")[:2] == (130, "clean\n")


UNLOADED = """
import atexit, sys
from vqpipe.runtime.signals import leave_at_once
class Library:
    def __del__(self):
        print("unloaded", flush=True)
library = Library()
atexit.register(print, "handlers ran")
"""


@pytest.mark.parametrize("before", ["", "leave_at_once()"])
def test_a_command_that_ended_well_runs_exit_handlers_and_unloads_nothing(before: str) -> None:
    command = [sys.executable, "-c", f"{UNLOADED}\n{before}\nprint('done')"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[:2] == ["done", "handlers ran"]
    assert ("unloaded" in ended.stdout) == (before == "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
def test_an_output_that_cannot_be_written_is_reported_all_the_same() -> None:
    program = "from vqpipe.runtime.signals import leave_at_once; print('done'); leave_at_once()"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode != 0
    assert "No space left" in ended.stderr


def test_a_second_signal_does_not_interrupt_the_exit(tmp_path: Path) -> None:
    program = (
        "import atexit\n@atexit.register\ndef at_exit():\n    print('leaving', flush=True)\n"
        "    sys.stdin.readline()\n    print('left')\nwith s.stop_on_signals():\n    wait()\n"
    )
    process = start("-c", START + program, cwd=tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "leaving\n"
    process.send_signal(signal.SIGINT)
    assert end(process, "go\n")[:2] == (143, "left\n")


def test_a_stop_that_is_swallowed_is_raised_again(tmp_path: Path) -> None:
    """As an import inside C code swallows it."""
    program = (
        "s.DEADLINE = 600\nwith s.stop_on_signals():\n    try:\n        wait()\n"
        "    except BaseException:\n        pass\n    wait()\n"
    )
    assert ended_by(signal.SIGTERM, program, tmp_path)[0] == 143


def test_a_signal_that_does_not_wake_a_call_that_waits_is_sent_again(tmp_path: Path) -> None:
    """As one that comes just before the call, or that the system gives to another thread."""
    program = (
        "s.DEADLINE = 600\ndef send():\n    sys.stdin.readline()\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "with s.stop_on_signals():\n    threading.Thread(target=send).start()\n"
        "    print('ready', flush=True)\n    signal.pause()\n"
    )
    assert end(start("-c", START + program, cwd=tmp_path), "go\n")[0] == 143


def test_an_error_after_the_signal_is_not_shown(tmp_path: Path) -> None:
    program = (
        "with s.stop_on_signals():\n    try:\n        wait()\n    except BaseException:\n        1 / 0\n"
    )
    assert ended_by(signal.SIGTERM, program, tmp_path)[0] == 143


def test_a_long_operation_in_c_does_not_outlast_the_deadline(tmp_path: Path) -> None:
    """The operation is a call of C's `system`, whose command sends the signal and ends after this process."""
    program = (
        "s.DEADLINE = 0.1\nwith s.stop_on_signals():\n    print('ready', flush=True)\n"
        "    os.system('exec >/dev/null 2>&1; kill -TERM $PPID; while kill -0 $PPID; do :; done')\n"
    )
    code, _, err = end(start("-c", START + program, cwd=tmp_path))
    assert code == 143
    assert "in a long operation" in err


def test_a_busy_thread_delays_neither_the_clean_up_nor_the_end(tmp_path: Path) -> None:
    program = (
        "s.DEADLINE = 1\npool = ThreadPoolExecutor(1)\nwith s.stop_on_signals():\n    try:\n"
        "        pool.submit(threading.Event().wait)\n        wait()\n    finally:\n"
        "        s.close_pool(pool)\n        print('clean', flush=True)\n"
    )
    assert ended_by(signal.SIGTERM, program, tmp_path)[:2] == (143, "clean\n")


def test_a_step_that_holds_signals_is_not_cut_in_two(tmp_path: Path) -> None:
    program = (
        "with s.stop_on_signals():\n    with s.hold_signals(), s.hold_signals():\n"
        "        print('ready', flush=True)\n        while not s._Stop.waiting:\n            pass\n"
        "        print('whole')\n    print('more')\n"
    )
    assert ended_by(signal.SIGTERM, program, tmp_path)[:2] == (143, "whole\n")


def test_an_ignored_signal_stays_ignored_and_a_package_does_not_keep_the_handler(tmp_path: Path) -> None:
    program = (
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwith s.stop_on_signals():\n"
        "    signal.raise_signal(signal.SIGINT)\n    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "    s.take_back()\n    wait()\n"
    )
    assert ended_by(signal.SIGTERM, program, tmp_path)[0] == 143


def test_the_scratch_folder_is_kept_and_named(tmp_path: Path) -> None:
    program = (
        "from vqpipe.runtime.scratch import scratch_folder\n"
        "with s.stop_on_signals(), scratch_folder('tokenizer', 'key') as folder:\n"
        "    (folder / 'checkpoint').write_text('step')\n    wait()\n"
    )
    code, _, err = ended_by(signal.SIGTERM, program, tmp_path)
    assert code == 143
    assert ".scratch/tokenizer/key is kept" in err
    assert (tmp_path / ".scratch/tokenizer/key/checkpoint").read_text() == "step"


def test_commands_alone_handle_signals_and_only_while_they_run() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    seen: list[object] = []

    def look() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    tool = typer.Typer(cls=_Group)
    tool.command()(look)
    tool.callback()(lambda: None)
    assert CliRunner().invoke(stage_app(look), []).exit_code == 0
    assert CliRunner().invoke(tool, ["look"]).exit_code == 0
    assert [getattr(handler, "__module__", None) for handler in seen] == [stop_on_signals.__module__] * 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("whole_group", [False, True])
def test_workers_end_with_the_command(signum: signal.Signals, whole_group: bool, tmp_path: Path) -> None:
    if signum == signal.SIGKILL and whole_group:
        return
    (tmp_path / "program.py").write_text(WORKERS)
    process = start("program.py", cwd=tmp_path, VQPIPE_WORKERS="2")
    (os.killpg if whole_group else os.kill)(process.pid, signum)
    assert end(process)[0] == (-9 if signum == signal.SIGKILL else 128 + signum)


def test_a_result_that_a_worker_had_begun_to_send_does_not_hold_up_the_clean_up(tmp_path: Path) -> None:
    """Its pool waits for the rest for ever."""
    (tmp_path / "program.py").write_text(HALF_SENT)
    process = start("program.py", cwd=tmp_path, VQPIPE_WORKERS="2")
    process.send_signal(signal.SIGTERM)
    assert end(process)[:2] == (143, "clean\n")


@pytest.fixture
def one_stage(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages:\n  one: {cmd: python -m stage}\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / "stage.py").write_text(STAGE)
    for library in ("torch", "open_clip"):
        (tmp_path / f"{library}.py").write_text("")  # a fork waits for no real one
    return tmp_path


PLANS = pytest.mark.parametrize(
    "plan", [["one"], pytest.param(["one", "one"], marks=LINUX)], ids=["child", "fork"]
)
"""The first of several stages is a fork."""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("whole_group", [False, True])
@PLANS
def test_stages_run_passes_a_signal_on(
    signum: signal.Signals, whole_group: bool, plan: list[str], one_stage: Path
) -> None:
    process = start("-m", "stages.run", *plan, cwd=one_stage, VQPIPE_DEVICE="cpu")
    (os.killpg if whole_group else os.kill)(process.pid, signum)
    process.wait(60)
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 0)[0], "the stage is still cleaning up"
    assert end(process)[:2] == (128 + signum, "clean\n")


@LINUX
@PLANS
def test_a_stage_ends_when_stages_run_is_killed(plan: list[str], one_stage: Path) -> None:
    process = start("-m", "stages.run", *plan, cwd=one_stage, VQPIPE_DEVICE="cpu")
    process.kill()
    assert end(process)[:2] == (-9, "clean\n")


@LINUX
def test_a_stage_ends_when_dvc_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(
        "import signal\nfrom stages.cli import stage_app\n"
        "def main():\n    print('ready', flush=True)\n    signal.pause()\nstage_app(main)()\n"
    )
    dvc = "import os, subprocess, sys\nsubprocess.run([sys.executable, 'stage.py'])\n"
    process = start("-c", dvc, cwd=tmp_path, DVC_STAGE="one")
    process.kill()
    assert "stopped by SIGTERM" in end(process)[2]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGKILL, marks=LINUX)])
@pytest.mark.parametrize(
    "command", ["'row.py'", pytest.param("'-m', 'row'", marks=LINUX)], ids=["child", "fork"]
)
def test_the_rows_of_a_board_end_with_it(signum: signal.Signals, command: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    os.mkfifo(rows)
    (tmp_path / "row.py").write_text(
        "out = open('rows', 'w')\nprint('ready', file=out, flush=True)\n" + STAGE
    )
    (tmp_path / "torch.py").write_text("")
    program = (
        "import sys\nfrom pathlib import Path\nfrom stages.run import run_all\nimport vqpipe.runtime.signals as s\n"
        "print('ready', flush=True)\nwith s.stop_on_signals():\n"
        f"    run_all({{n: [sys.executable, {command}] for n in 'abc'}}, 2, Path('logs'), fork=True)\n"
    )
    process = start("-c", program, cwd=tmp_path, VQPIPE_DEVICE="cpu")
    with rows.open() as both:
        assert [both.readline(), both.readline()] == ["ready\n"] * 2
        process.send_signal(signum)
        assert select.select([both], [], [], 60)[0], "a row is left"  # else this is the end
        assert both.read() == ""
    assert end(process)[0] == (-9 if signum == signal.SIGKILL else 128 + signum)


def test_the_code_of_a_child_that_a_signal_ended_is_that_of_a_shell() -> None:
    assert run_child(["sh", "-c", "exit 3"]) == 3
    assert run_child(["sh", "-c", "kill -KILL $$"]) == 137


def test_processes_and_threads_are_started_where_their_end_is_seen_to() -> None:
    """A new place gives its children to `start_child` or `run_child`, and its threads to `close_pool`. Two others wait
    in `subprocess.run`, which kills its child when an exception ends the wait: git's and Java's. Forks of one process
    end with it, as it does with its parent."""
    processes = {
        "vqpipe/runtime/signals.py", "vqpipe/runtime/forks.py", "vqpipe/report/gate.py",
        "vqpipe/metrics/caption_scores.py",
    }  # fmt: skip
    for file in [*(ROOT / "vqpipe").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        name = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                starts = called.startswith(("subprocess.", "os.system", "os.popen", "os.fork", "os.spawn"))
                assert not starts or name in processes, f"{name}:{node.lineno}"
                assert "ProcessPoolExecutor" not in called or name == "vqpipe/runtime/shards.py", name
            if isinstance(node, ast.withitem):
                assert "ThreadPoolExecutor" not in ast.unparse(node), f"{name}: `with` waits for busy threads"


def test_a_signal_to_a_forked_child_ends_the_child_alone(tmp_path: Path) -> None:
    program = (
        "with s.stop_on_signals():\n    child = os.fork()\n"
        "    if not child:\n        signal.pause()\n        os._exit(7)\n"
        "    print('ready', flush=True)\n    sys.stdin.readline()\n    os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), s.is_stopping())\n"
    )
    process = start("-c", START + program, cwd=tmp_path)
    assert end(process, "go\n") == (0, "-15 False\n", "")
