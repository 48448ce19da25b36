"""Reading dvc.yaml without DVC, running by it, and checking dvc.lock."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import lock, run
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
    assert "params top differ" in stale_stages(tree)["one"]
    done = CliRunner().invoke(lock.app, [])
    assert done.exit_code == 1
    assert "dvc repro" in done.output


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
    for file in ROOT.glob("**/dvc.yaml"):
        for name, entry in read_yaml(file)["stages"].items():
            body = entry.get("do", entry)
            assert "path}" not in body["cmd"], f"{file}: {name}"
            if file.parent != ROOT:
                cached = [out for out in body.get("outs", []) if not isinstance(out, dict)]
                assert not cached, f"{file}: {name}: a clone without the board could not pull {cached}"
