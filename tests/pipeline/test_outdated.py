"""`stages.run --outdated` on a small DVC project: order, records, a second call, and a stage that fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).parents[2]
FILE = """
stages:
  code: {cmd: mkdir -p artifacts/code && echo 1 > artifacts/code/a.txt, always_changed: true,
    outs: [artifacts/code: {cache: false}]}
  d: {cmd: sh -c 'cat b c > d', deps: [b, c], outs: [d]}
  b: {cmd: sh join.sh b, deps: [a, join.sh], params: [word], outs: [b]}
  c: {cmd: sh join.sh c, deps: [a, join.sh], params: [word], outs: [c]}
  a: {cmd: sh begin.sh, deps: [begin.sh], outs: [a]}
  e: {cmd: sh begin.sh e, deps: [begin.sh], outs: [e]}
"""
JOIN = 'test -f a || exit 7\ntest -f "no $1" && exit 3\necho "$1" >> calls\ncat a params.yaml > "$1"\n'
BEGIN = 'echo "${1:-a}" >> calls\necho begun > "${1:-a}"\n'


def outdated(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [forked.python(), "-m", "stages.run", "--outdated", "--jobs", "2"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "VQPIPE_SCRATCH": str(folder / "scratch")}, check=False,
    )  # fmt: skip


def dvc(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [forked.python(), "-m", "dvc", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "dvc.yaml": FILE,
        "params.yaml": "word: one\n",
        "join.sh": JOIN,
        "begin.sh": BEGIN,
    }.items():
        (tmp_path / name).write_text(text)
    dvc(tmp_path, "init", "--quiet", "--no-scm")
    return tmp_path


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    found = path.read_text().split()
    path.unlink()
    return found


def test_each_outdated_stage_runs_once_after_what_it_reads_and_is_recorded(project: Path) -> None:
    done = outdated(project)
    assert done.returncode == 0, done.stderr
    found = calls(project)
    assert sorted(found) == ["a", "b", "c", "e"]
    assert found.index("a") < min(found.index("b"), found.index("c"))
    assert (project / "d").read_text() == "begun\nword: one\n" * 2
    assert "5/5 d: " in done.stderr
    assert dvc(project, "status", "a", "b", "c", "d", "e").strip() == "Data and pipelines are up to date."
    assert outdated(project).returncode == 0
    assert not (project / "calls").exists()
    (project / "params.yaml").write_text("word: two\n")
    assert outdated(project).returncode == 0
    assert sorted(calls(project)) == ["b", "c"]
    assert dvc(project, "status", "a", "b", "c", "d", "e").strip() == "Data and pipelines are up to date."


def test_a_stage_whose_inputs_come_out_equal_does_not_run_again(project: Path) -> None:
    assert outdated(project).returncode == 0
    calls(project)
    (project / "c").unlink()
    done = outdated(project)
    assert done.returncode == 0, done.stderr
    assert calls(project) == ["c"]
    assert "2/2 d: up to date, its inputs came out equal" in done.stderr
    assert (project / "d").read_text() == "begun\nword: one\n" * 2
    assert dvc(project, "status", "a", "b", "c", "d", "e").strip() == "Data and pipelines are up to date."


def test_what_needs_a_stage_that_failed_is_left_and_the_rest_is_recorded(project: Path) -> None:
    (project / "no b").touch()
    done = outdated(project)
    assert done.returncode == 1
    assert "2 of 5 stages failed or need one that did: b, d" in done.stderr
    assert sorted(calls(project)) == ["a", "c", "e"]
    assert "up to date" in dvc(project, "status", "a", "c", "e")
    (project / "no b").unlink()
    assert outdated(project).returncode == 0
    assert calls(project) == ["b"]
    assert "up to date" in dvc(project, "status", "a", "b", "c", "d", "e")
