"""Environment, seeds, preflight, progress, ranks and scratch folders."""

from __future__ import annotations

import errno
import io
import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stages.cli import stage_app
from vqpipe.errors import SetupError
from vqpipe.runtime import distributed, preflight, seeds
from vqpipe.runtime.device import autocast, device
from vqpipe.runtime.env import engine, scratch_root, workers
from vqpipe.runtime.host import HostScalar, written
from vqpipe.runtime.scratch import scratch_folder
from vqpipe.runtime.terminal import progress_bar, track


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_workers_must_be_a_positive_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("VQPIPE_WORKERS", text)
    with pytest.raises(SetupError, match="VQPIPE_WORKERS"):
        workers()


def test_workers_default_to_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VQPIPE_WORKERS", raising=False)
    assert workers() >= 1


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = []
    for name, read in (
        ("WORKERS", workers),
        ("ENGINE", engine),
        ("SCRATCH", scratch_root),
        ("DEVICE", device),
    ):
        monkeypatch.delenv(f"VQPIPE_{name}", raising=False)
        expected.append(read())
        monkeypatch.setenv(f"VQPIPE_{name}", "")
        assert read() == expected[-1]
    assert expected[1:3] == ["local", Path(".scratch")]


def test_an_unknown_engine_lists_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_ENGINE", "spark")
    with pytest.raises(SetupError, match=r"(?s)spark.*choices:.*local"):
        engine()


def test_device_names_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_DEVICE", "cpu")
    assert device() == torch.device("cpu")
    for name in ("gpu", "cuda:99"):
        monkeypatch.setenv("VQPIPE_DEVICE", name)
        with pytest.raises(SetupError, match=r"(?s)not a device of this machine.*choices: +cpu"):
            device()


def test_autocast_lowers_products_unless_fp32() -> None:
    where, a = torch.device("cpu"), torch.ones(2, 2)
    with autocast(where, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(where, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_streams_depend_on_seed_and_name_alone() -> None:
    assert seeds.derive(1, "a") == seeds.derive(1, "a")
    assert (
        len({seeds.derive(1, "a"), seeds.derive(2, "a"), seeds.derive(1, "b"), seeds.derive(1, "a", 0)}) == 4
    )
    assert seeds.derive(1, "ab", "c") != seeds.derive(1, "a", "bc")
    assert 0 <= seeds.derive(0) < 1 << 63


def test_seeds_do_not_change_between_releases() -> None:
    assert seeds.derive(7, "scenes", "train", 3) == 8023877956725749874


def test_generators_repeat() -> None:
    assert seeds.numpy_rng(3, "x").integers(1 << 30) == seeds.numpy_rng(3, "x").integers(1 << 30)
    assert seeds.python_rng(3, "x").random() == seeds.python_rng(3, "x").random()
    first, second = (torch.rand(3, generator=seeds.torch_rng(3, "x")) for _ in range(2))
    assert torch.equal(first, second)


def test_seed_everything_sets_all_global_generators() -> None:
    def draws() -> tuple[float, float, float]:
        seeds.seed_everything(5, "layers")
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        assert draws() == draws()
    finally:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


def test_preflight_tells_what_is_free(tmp_path: Path) -> None:
    preflight.need_disk(tmp_path / "not" / "yet", 1, "a test")
    preflight.need_memory(1, "a test")
    with pytest.raises(SetupError, match=r"(?s)not enough disk space for a test.*free at .*expected"):
        preflight.need_disk(tmp_path / "not" / "yet", 1 << 60, "a test")
    with pytest.raises(SetupError, match="not enough memory for a test"):
        preflight.need_memory(1 << 60, "a test")


def test_small_sizes_are_not_zero_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=7_000))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2_500_000))
    with pytest.raises(SetupError, match=r"(?s)7.0 kB free at .*, 2.0 kB too little\n.*expected: 9.0 kB"):
        preflight.need_disk(tmp_path, 9_000, "a test")
    with pytest.raises(SetupError, match=r"(?s)2.5 MB available.*expected: 9.0 MB"):
        preflight.need_memory(9_000_000, "a test")


def test_what_scratch_leaves_behind_does_not_fail_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    with scratch_folder("stage", "key"):
        monkeypatch.setattr(Path, "unlink", refuse)


def test_scratch_is_kept_on_failure_and_removed_on_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    assert scratch_root() == tmp_path

    def fail() -> None:
        with scratch_folder("stage", "key") as folder:
            (folder / "checkpoint").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "stage" / "key" / "checkpoint").read_text() == "half"
    with scratch_folder("stage", "key") as folder:
        assert (folder / "checkpoint").exists()
    assert list((tmp_path / "stage").iterdir()) == []


def test_scratch_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    with scratch_folder("stage", "key"):
        with (
            pytest.raises(SetupError, match="another process is running stage"),
            scratch_folder("stage", "key"),
        ):
            pytest.fail("the lock was taken twice")
        with scratch_folder("stage", "other"):
            pass


def test_progress_is_silent_away_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    with progress_bar("title", 2) as bar:
        bar.advance(note="x")
    assert stream.getvalue() == ""


def test_one_rank_without_torchrun() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    tensor = torch.ones(2)
    assert distributed.all_reduce_sum(tensor) is tensor
    with distributed.process_group():
        distributed.barrier()
    assert not torch.distributed.is_initialized()


def left_unfinished(key: str, about: dict[str, object]) -> None:
    def fail() -> None:
        with scratch_folder("stage", key, about) as folder:
            (folder / "checkpoint").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()


def test_an_unfinished_run_of_other_params_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    left_unfinished("old", {"params": {"training": {"num_steps": 300}, "seed": 0}, "inputs": {"a": "0" * 64}})
    before = (tmp_path / "stage").stat().st_mtime - 3 * 3600
    os.utime(tmp_path / "stage/old/checkpoint", (0, before))
    os.utime(tmp_path / "stage/old", (0, before))
    assert capsys.readouterr().err == ""
    now = {"params": {"training": {"num_steps": 500}, "seed": 0}, "inputs": {"a": "1" * 64}}
    with scratch_folder("stage", "new", now):
        told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "unfinished run of other params, inputs or code, 3 hours old" in told
    assert str(tmp_path / "stage/old") in told
    assert "params.training.num_steps = 300 (now 500); inputs.a are as before" in told
    assert "params.seed" not in told
    assert (tmp_path / "stage/old/checkpoint").read_text() == "half"
    with scratch_folder("stage", "old"):
        assert capsys.readouterr().err == "", "a run that resumes is not reported to itself"


@pytest.mark.parametrize("about", [b"\xff\xfe", b"", b"[" * 100_000, b'{"params": ', b"[1]"])
def test_a_damaged_record_of_an_unfinished_run_stops_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    left_unfinished("old", {"seed": 0})
    (tmp_path / "stage/old.lock").write_bytes(about)
    with scratch_folder("stage", "new", {"seed": 1}):
        pass
    assert "it resumes when its params, inputs and code are as before" in capsys.readouterr().err


def test_a_folder_that_another_run_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    left_unfinished("old", {})
    stat = Path.stat

    def gone(path: Path, **given: Any) -> os.stat_result:
        if path.name == "checkpoint":
            raise FileNotFoundError(path)
        return stat(path, **given)

    monkeypatch.setattr(Path, "stat", gone)
    with scratch_folder("stage", "new"):
        pass
    assert capsys.readouterr().err == ""


def test_a_run_that_is_going_on_is_not_called_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path))
    with scratch_folder("stage", "one") as one:
        (one / "checkpoint").write_text("half")
        with scratch_folder("stage", "two"):
            assert capsys.readouterr().err == ""


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.need_place(tmp_path / "not/yet", ["a" * 255])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SetupError, match=r"(?s)name is too long.*256 bytes"):
        preflight.need_place(tmp_path, ["é" * 128])
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(SetupError, match="link to nothing"):
        preflight.need_place(tmp_path / "link/x")
    monkeypatch.setattr(preflight, "LEAST_FREE", 1 << 60)
    with pytest.raises(SetupError, match="no space is left"):
        preflight.need_place(tmp_path / "x")


def test_what_compiling_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_INDUCTOR_INSTALL_GXX", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"(?s)C\+\+ compiler.*no g\+\+ on the PATH"):
        preflight.need_compiler("cpu")
    for name in ("g++", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    preflight.need_compiler("cpu")
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="needs Triton"):
        preflight.need_compiler("cuda")
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    preflight.need_compiler("cuda")
    (tmp_path / "gcc").unlink()
    with pytest.raises(SetupError, match=r"(?s)needs a C compiler.*no gcc or clang"):
        preflight.need_compiler("cuda")


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "no space is left: /x"), (errno.EROFS, "read-only")]
)
def test_a_full_disk_in_the_middle_of_work_is_told_without_a_traceback(number: int, told: str) -> None:
    def work() -> None:
        raise OSError(number, os.strerror(number), "/x")

    done = CliRunner().invoke(stage_app(work), [])
    assert done.exit_code == 2
    assert told in done.output

    def bug() -> None:
        raise OSError(errno.EBADF, "ours")

    assert CliRunner().invoke(stage_app(bug), []).exit_code == 1


def test_writes_that_are_counted_are_seen_and_those_through_data_are_not() -> None:
    weight, scalar = torch.nn.Parameter(torch.zeros(3)), HostScalar()
    keys = [written(weight)]
    with torch.no_grad():
        weight.copy_(torch.ones(3))
        keys.append(written(weight))
        torch._foreach_copy_([weight], [torch.zeros(3)])
        keys.append(written(weight))
    weight.data = torch.ones(3)
    keys.append(written(weight))
    assert len(set(keys)) == len(keys)
    weight.data.copy_(torch.zeros(3))
    assert written(weight) == keys[-1]
    done = torch.tensor(False)
    assert scalar.get(done) == 0
    done.fill_(True)
    assert scalar.get(done) == 1
    with torch.inference_mode():
        assert written(torch.zeros(3)) is None
