"""What DVC does with our stages: which it runs after a change of code, its hash of a folder, and what a clone pulls."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import code
from stages.lock import md5, stale_stages
from tests import forked
from tests.pipeline.conftest import ROOT

pytestmark = pytest.mark.pipeline

DVC = """
stages:
  code:
    cmd: python -m stages.code a b --out artifacts/code
    deps: [stages, vqpipe]
    outs: [{artifacts/code: {cache: false, persist: true}}]
  a:
    cmd: echo a > a.out
    deps: [artifacts/code/a.txt]
    outs: [a.out]
  b:
    cmd: echo b > b.out
    deps: [artifacts/code/b.txt]
    outs: [b.out]
"""


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two stages that have run; `a` imports vqpipe/x.py, and both import vqpipe/shared.py."""
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in {
        "dvc.yaml": DVC, "params.yaml": "{}", ".dvcignore": "__pycache__\n",
        "stages/a.py": "import vqpipe.x\nimport vqpipe.shared\n", "stages/b.py": "import vqpipe.shared\n",
        "vqpipe/__init__.py": "", "vqpipe/x.py": "x = 1\n", "vqpipe/shared.py": "y = 1\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    dvc("init", "--no-scm", "-q")
    # The commands import the `vqpipe` of this checkout; the code that they list is that of the folder.
    text = DVC.replace("python -m stages.code", f"{sys.executable} {ROOT / 'stages/code.py'}")
    (folder / "dvc.yaml").write_text(text)
    dvc("repro", "-q")
    return folder


def dvc(*words: str, at: Path | None = None) -> str:
    command = [forked.python(), "-m", "dvc", *words]
    return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout


def stale_by_dvc() -> list[str]:
    """What `dvc status` lists when the listings are up to date."""
    dvc("repro", "-q", "code")
    return [line[:-1] for line in dvc("status").splitlines() if re.fullmatch(r"\w+:", line)]


def test_prose_leaves_all_but_the_stage_code_up_to_date(listed: Path) -> None:
    assert dvc("status").strip() == "Data and pipelines are up to date."
    assert stale_stages(listed) == {}
    before = {path: path.stat().st_mtime_ns for path in (listed / "artifacts/code").iterdir()}
    (listed / "vqpipe/shared.py").write_text('"""Doc."""\n# Why.\ny = 1\n')
    assert re.findall(r"^(\w+):$", dvc("status"), re.MULTILINE) == ["code"]
    assert stale_stages(listed) == {}
    done = dvc("repro")
    assert re.findall(r"Running stage '(\w+)'", done) == ["code"]
    assert before == {path: path.stat().st_mtime_ns for path in before}, (
        "listings are written only if they changed"
    )
    assert dvc("status").strip() == "Data and pipelines are up to date."


def test_an_operator_makes_the_stages_stale_that_import_it(listed: Path) -> None:
    (listed / "vqpipe/x.py").write_text("x = 2\n")
    assert stale_stages(listed) == {
        "a": ["its code changed: vqpipe/x.py"],
        "code": ["artifacts/code/a.txt is out of date"],
    }
    assert stale_by_dvc() == ["a"]
    assert stale_stages(listed) == {"a": ["its code changed"]}
    assert re.findall(r"Running stage '(\w+)'", dvc("repro")) == ["a"]
    assert stale_stages(listed) == {}
    (listed / "vqpipe/shared.py").write_text("y = 2\n")
    assert stale_by_dvc() == ["a", "b"]


def test_a_new_line_in_a_table_makes_the_stages_of_the_table_stale(listed: Path) -> None:
    (listed / "vqpipe/plugin.py").write_text("class P: pass\n")
    assert stale_by_dvc() == []
    (listed / "vqpipe/x.py").write_text('x = 1\nTABLE = {"p": "vqpipe.plugin:P"}\n')
    assert stale_by_dvc() == ["a"]
    assert "vqpipe/plugin.py" in (listed / "artifacts/code/a.txt").read_text()


def test_listings_of_no_stage_are_removed_and_a_stage_that_is_not_there_is_named(listed: Path) -> None:
    out = listed / "artifacts/code"
    assert CliRunner().invoke(code.app, ["a", "--out", str(out)]).exit_code == 0
    assert [path.name for path in out.iterdir()] == ["a.txt"]
    done = CliRunner().invoke(code.app, ["a", "nine", "--out", str(out)])
    assert done.exit_code == 2
    assert "stages.nine" in done.output


def test_a_missing_listing_or_module_does_not_stop_the_check(listed: Path) -> None:
    shutil.rmtree(listed / "artifacts")
    assert stale_stages(listed) == {"code": ["artifacts/code is not there"]}
    (listed / "stages/b.py").unlink()
    assert stale_stages(listed)["b"] == ["stages/b.py is gone"]


def test_the_hash_of_a_folder_is_that_of_dvc(tmp_path: Path) -> None:
    dvc("init", "--no-scm", "-q", at=tmp_path)
    (tmp_path / "dep/sub").mkdir(parents=True)
    (tmp_path / "dep/b.txt").write_text("b")
    (tmp_path / "dep/sub/a.txt").write_text("a")
    (tmp_path / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo\n    deps: [dep]\n")
    dvc("repro", "-q", at=tmp_path)
    assert f"md5: {md5(tmp_path / 'dep')}\n" in (tmp_path / "dvc.lock").read_text()


def test_a_clone_pulls_where_a_board_was_never_run(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "board").mkdir(parents=True)
        dvc("init", "-q", "--no-scm", at=folder)
        dvc("remote", "add", "-d", "store", str(tmp_path / "store"), at=folder)
        (folder / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo x > out\n    outs: [out]\n")
        (folder / "board/dvc.yaml").write_text(
            "stages:\n  b:\n    cmd: echo x > big\n    outs: [{big: {cache: false}}]\n"
        )
    dvc("repro", "-q", "dvc.yaml:s", at=one)
    dvc("push", "-q", at=one)
    (two / "dvc.lock").write_bytes((one / "dvc.lock").read_bytes())
    dvc("pull", "-q", at=two)
    assert (two / "out").read_text() == "x\n"
