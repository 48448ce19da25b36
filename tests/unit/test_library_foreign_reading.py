"""Files of checkpoints are read without running anything of them, and what trainers leave in them is no hindrance."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqpipe.errors import DataError
from vqpipe.library.foreign.read import read_checkpoint

STATE = {"encoder.conv_in.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}


class Callback:
    """What a trainer leaves in its checkpoints: a class as a key, an instance with state."""

    ran = False

    def __init__(self) -> None:
        self.best = np.float64(0.5)

    def __setstate__(self, state: Any) -> None:
        type(self).ran = True


class Counter(dict[str, int]):
    """A mapping that its class fills."""


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


class Runs:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_what_trainers_leave_does_not_hinder_reading_the_tensors(tmp_path: Path) -> None:
    Callback.ran = False
    content = {
        "state_dict": STATE, "callbacks": {Callback: {"best_model_score": torch.tensor(1.0), "last": Callback()}},
        "monitor": np.float64(0.25), "step": np.int64(3), "array": np.arange(3), "place": Path("runs/1"),
        "args": argparse.Namespace(lr=1e-4), "seen": collections.defaultdict(int, a=1), "counts": Counter(b=2),
    }  # fmt: skip
    found = read_checkpoint(saved(tmp_path, content)).state
    assert set(found) == set(STATE)
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())
    assert not Callback.ran, "the class of the file's name never saw its state"


@pytest.mark.parametrize("module", ["builtins", "subprocess", "importlib", "os", "posix"])
def test_a_pickle_that_calls_runs_nothing(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`builtins.exec`, `subprocess.run` and others do nothing; a module that torch blocks is refused."""
    import importlib
    import os
    import subprocess

    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()"
    calls = {
        "builtins": Runs(exec, code), "subprocess": Runs(subprocess.run, ["touch", str(mark)]),
        "importlib": Runs(importlib.import_module, "this"), "os": Runs(os.mkdir, str(mark)),
        "posix": Runs(os.system, f"touch {mark}"),
    }  # fmt: skip
    path = saved(tmp_path, {"state_dict": STATE, "callbacks": calls[module]})
    blocked = module in ("os", "posix")
    if blocked:
        with pytest.raises(DataError, match="would run that code"):
            read_checkpoint(path)
    else:
        assert set(read_checkpoint(path).state) == set(STATE)
    assert not mark.exists()
    with pytest.raises(DataError, match="no state dict" if not blocked else "would run that code"):
        read_checkpoint(saved(tmp_path, {"state_dict": {**STATE, "x": calls[module]}}))
    assert not mark.exists()


def test_a_file_that_is_no_archive_may_have_tensors_alone(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=False)
    assert set(read_checkpoint(path).state) == set(STATE)
    torch.save({"state_dict": STATE, "x": Callback()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="would run that code") as caught:
        read_checkpoint(path)
    assert "Callback" in str(caught.value)
    assert "safetensors" in str(caught.value)
    path.write_bytes(pickle.dumps({"state_dict": Runs(exec, "raise SystemExit")}))
    with pytest.raises(DataError):
        read_checkpoint(path)


def test_pickles_with_other_opcodes_are_refused(tmp_path: Path) -> None:
    """A protocol that torch's reader does not know, in an archive that is otherwise torch's."""
    path, other = saved(tmp_path, {"state_dict": STATE}), tmp_path / "other.ckpt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                data = pickle.dumps({"state_dict": Runs(exec, "raise SystemExit")}, protocol=5)
            target.writestr(item, data)
    with pytest.raises(DataError):
        read_checkpoint(other)


@pytest.mark.parametrize("nest", ["state_dict", "model"])
def test_nests_wrappers_and_averaged_copies(nest: str, tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in STATE.items()}
    found = read_checkpoint(saved(tmp_path, {nest: wrapped, "ema": STATE, "epoch": 3}))
    assert set(found.state) == set(found.averaged) == set(STATE)
    found = read_checkpoint(saved(tmp_path, {nest: {**wrapped, "loss.x": torch.ones(1)}}))
    assert set(found.state) == {*wrapped, "loss.x"}, "a prefix of some keys is part of their names"
    assert not found.averaged


def test_content_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for content in ({"weights": [1, 2]}, {"state_dict": {}}, {"state_dict": {"a": 1}}, [1, 2], torch.ones(2)):
        with pytest.raises(DataError, match="no state dict"):
            read_checkpoint(saved(tmp_path, content))
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    (tmp_path / "cut.ckpt").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(DataError, match="damaged, cut short"):
        read_checkpoint(tmp_path / "cut.ckpt")
