"""Reading dvc.yaml without DVC, running by it, listing code, and checking dvc.lock."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import code, lock, run
from stages.dvcfile import find_stage, read_stages
from stages.lock import md5, stale_stages
from vqpipe.errors import ParamsError
from vqpipe.params.base import read_yaml

ROOT = Path(__file__).parents[2]
DVC = """
stages:
  one:
    cmd: python -m stages.one --out ${path}/a
    deps: [code.py]
    params: [top]
    outs: ['${path}/a']
  many:
    foreach: ${top.variants}
    do:
      cmd: >
        python -m stages.many
        --name ${key} --prior ${item.prior}
      deps: ['${path}/a']
      params: ['top.variants.${key}']
      metrics:
        - m/${key}.json: {cache: false}
"""
PARAMS = "path: out\ntop: {variants: {x: {prior: none, k: 1e-3}, y: {prior: words}}}\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(DVC)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "code.py").write_text("1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_foreach_is_unrolled_and_places_are_filled(tree: Path) -> None:
    stages = read_stages(tree)
    assert list(stages) == ["one", "many@x", "many@y"]
    assert stages["many@y"].cmd == "python -m stages.many --name y --prior words"
    assert stages["many@x"].params == ("top.variants.x",)
    assert stages["many@x"].outs == ("m/x.json",)
    assert stages["one"].outs == ("out/a",)


def test_an_unknown_stage_names_the_nearest(tree: Path) -> None:
    with pytest.raises(ParamsError, match="did you mean many@"):
        find_stage(read_stages(tree), "many@z")
    done = CliRunner().invoke(run.app, ["many@z"])
    assert done.exit_code == 2
    assert "choices:" in done.output


def test_run_without_a_name_lists_the_choices_and_list_shows_commands(tree: Path) -> None:
    assert CliRunner().invoke(run.app, []).exit_code == 2
    shown = CliRunner().invoke(run.app, ["--list"])
    assert shown.exit_code == 0
    assert "--name x --prior none" in shown.output


def test_a_lock_is_stale_when_an_input_params_or_command_differ(tree: Path) -> None:
    assert stale_stages(tree)["one"] == ["it has never run"]
    code = md5(tree / "code.py")
    (tree / "dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  one:\n    cmd: python -m stages.one --out out/a\n"
        f"    deps:\n    - {{path: code.py, md5: {code}}}\n"
        "    params: {params.yaml: {top: {variants: {x: {prior: none, k: 0.001}, y: {prior: words}}}}}\n"
        "    outs:\n    - {path: out/a, md5: abc}\n"
    )
    assert "one" not in stale_stages(tree)
    (tree / "code.py").write_text("2\n")
    assert stale_stages(tree)["one"] == ["code.py changed"]
    (tree / "params.yaml").write_text(PARAMS.replace("1e-3", "2e-3"))
    assert "params top changed" in stale_stages(tree)["one"]
    done = CliRunner().invoke(lock.app, [])
    assert done.exit_code == 1
    assert "dvc repro" in done.output


CODE_DVC = """
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
        "dvc.yaml": CODE_DVC, "params.yaml": "{}", ".dvcignore": "__pycache__\n",
        "stages/a.py": "import vqpipe.x\nimport vqpipe.shared\n", "stages/b.py": "import vqpipe.shared\n",
        "vqpipe/__init__.py": "", "vqpipe/x.py": "x = 1\n", "vqpipe/shared.py": "y = 1\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=folder, check=True)
    # The commands import the `vqpipe` of this checkout; the code that they list is that of the folder.
    text = CODE_DVC.replace("python -m stages.code", f"{sys.executable} {ROOT / 'stages/code.py'}")
    (folder / "dvc.yaml").write_text(text)
    dvc("repro", "-q")
    return folder


def dvc(*words: str) -> str:
    return subprocess.run(["dvc", *words], check=True, capture_output=True, text=True).stdout


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
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dep/sub").mkdir(parents=True)
    (tmp_path / "dep/b.txt").write_text("b")
    (tmp_path / "dep/sub/a.txt").write_text("a")
    (tmp_path / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo\n    deps: [dep]\n")
    subprocess.run(["dvc", "repro", "-q"], cwd=tmp_path, check=True)
    assert f"md5: {md5(tmp_path / 'dep')}\n" in (tmp_path / "dvc.lock").read_text()


def test_paths_and_names_reach_the_command_as_they_are(tree: Path) -> None:
    (tree / "params.yaml").write_text(
        'path: "a  b\'\\"&#$~%[1]é"\ntop: {variants: {"x+y-1.5": {prior: none}}}\n'
    )
    text = DVC.replace("${path}/a\n    deps", "a\n    deps").replace("--name ${key}", "--name '${key}'")
    (tree / "dvc.yaml").write_text(text)
    stages = read_stages(tree)
    assert stages["one"].outs == ("a  b'\"&#$~%[1]é/a",)
    assert shlex.split(stages["many@x+y-1.5"].cmd)[3:5] == ["--name", "x+y-1.5"]
    for name in ("x  &$#y", "it\\'s", "../x", "-x"):
        (tree / "params.yaml").write_text(f'path: out\ntop: {{variants: {{"{name}": {{prior: none}}}}}}\n')
        with pytest.raises(ParamsError):
            read_stages(tree)
    (tree / "dvc.yaml").write_text("stages: {one: {cmd: \"echo '${path}'\"}}")
    (tree / "params.yaml").write_text("path: it's")
    with pytest.raises(ParamsError, match=r"(?s)cannot be part of the command.*it's"):
        read_stages(tree)


@pytest.mark.parametrize("path", ["s3:x", "remote://r/x", "https://host/x", "mine.dvc"])
def test_a_path_that_dvc_does_not_take_for_a_file_is_named(tree: Path, path: str) -> None:
    (tree / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo\n    deps: ['${path}']\n")
    (tree / "params.yaml").write_text(f"path: {path}\n")
    with pytest.raises(ParamsError, match=f"DVC takes the path {path}"):
        read_stages(tree)
    (tree / "params.yaml").write_text(f"path: ./{path}.x\n")
    assert read_stages(tree)["s"].deps == (f"./{path}.x",)


def test_no_command_holds_a_path_of_data_and_no_board_is_pulled() -> None:
    root = ROOT
    for file in root.glob("**/dvc.yaml"):
        for name, entry in read_yaml(file)["stages"].items():
            body = entry.get("do", entry)
            assert "path}" not in body["cmd"], f"{file}: {name}"
            if file.parent != root:
                cached = [out for out in body.get("outs", []) if not isinstance(out, dict)]
                assert not cached, f"{file}: {name}: a clone without the board could not pull {cached}"


def test_a_clone_pulls_where_a_board_was_never_run(tmp_path: Path) -> None:
    def dvc(*words: str, at: Path) -> None:
        subprocess.run(["dvc", *words, "-q"], cwd=at, check=True)

    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "board").mkdir(parents=True)
        dvc("init", "--no-scm", at=folder)
        dvc("remote", "add", "-d", "store", str(tmp_path / "store"), at=folder)
        (folder / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo x > out\n    outs: [out]\n")
        (folder / "board/dvc.yaml").write_text(
            "stages:\n  b:\n    cmd: echo x > big\n    outs: [{big: {cache: false}}]\n"
        )
    dvc("repro", "dvc.yaml:s", at=one)
    dvc("push", at=one)
    (two / "dvc.lock").write_bytes((one / "dvc.lock").read_bytes())
    dvc("pull", at=two)
    assert (two / "out").read_text() == "x\n"
