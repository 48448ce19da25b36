"""Reading dvc.yaml without DVC, running by it, and finding code deps."""

import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import imports, lock, run
from stages.dvcfile import find_stage, md5, read_stages, stale
from vqpipe.errors import ParamsError
from vqpipe.params.base import read_yaml

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


def test_a_lock_is_stale_when_code_params_or_command_differ(tree: Path) -> None:
    stages = read_stages(tree)
    assert stale(stages["one"], tree) == ["it has never run"]
    code = md5(tree / "code.py")
    (tree / "dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  one:\n    cmd: python -m stages.one --out out/a\n"
        f"    deps:\n    - {{path: code.py, md5: {code}}}\n"
        "    params: {params.yaml: {top: {variants: {x: {prior: none, k: 0.001}, y: {prior: words}}}}}\n"
        "    outs:\n    - {path: out/a, md5: abc}\n"
    )
    assert stale(stages["one"], tree) == []
    (tree / "code.py").write_text("2\n")
    assert stale(stages["one"], tree) == ["code.py changed"]
    (tree / "params.yaml").write_text(PARAMS.replace("1e-3", "2e-3"))
    assert "params top changed" in stale(read_stages(tree)["one"], tree)
    done = CliRunner().invoke(lock.app, [])
    assert done.exit_code == 1
    assert "dvc repro" in done.output


def test_the_hash_of_a_folder_is_that_of_dvc(tmp_path: Path) -> None:
    subprocess.run(["dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "dep/sub").mkdir(parents=True)
    (tmp_path / "dep/b.txt").write_text("b")
    (tmp_path / "dep/sub/a.txt").write_text("a")
    (tmp_path / "dvc.yaml").write_text("stages:\n  s:\n    cmd: echo\n    deps: [dep]\n")
    subprocess.run(["dvc", "repro", "-q"], cwd=tmp_path, check=True)
    assert f"md5: {md5(tmp_path / 'dep')}\n" in (tmp_path / "dvc.lock").read_text()


def test_code_deps_follow_imports_inside_functions_but_not_type_checking(tmp_path: Path) -> None:
    for name, text in {
        "stages/__init__.py": "", "stages/a.py": "def main():\n    from vqpipe.b import x\n",
        "vqpipe/__init__.py": '"""doc"""\n',
        "vqpipe/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vqpipe.c import y\n"
        "else:\n    import vqpipe.d\n",
        "vqpipe/c.py": "y = 1\n", "vqpipe/d.py": "import vqpipe.whole.e, vqpipe.whole.f\n",
        "vqpipe/whole/__init__.py": '"""doc"""\n', "vqpipe/whole/e.py": "e = 1\n", "vqpipe/whole/f.py": "f = 1\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    needed = imports.needed_files("stages.a", tmp_path)
    files = ["stages/a.py", "vqpipe/b.py", "vqpipe/d.py"]
    assert needed == [*files, "vqpipe/whole/e.py", "vqpipe/whole/f.py"]
    assert imports.as_deps(needed, tmp_path) == [*files, "vqpipe/whole"]
    (tmp_path / "vqpipe/whole/notes.txt").write_text("not imported")
    assert imports.as_deps(needed, tmp_path) == needed
    text = "deps:\n  # code: stages.a\n  - old.py\n  # end of code\n"
    assert imports.with_code_deps(text, tmp_path).splitlines()[2:-1] == [f"  - {p}" for p in needed]


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
    root = Path(__file__).parents[2]
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
