"""Reading dvc.yaml without DVC, running by it, checking dvc.lock, and the time left."""

import json
import os
import select
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import boards, lock, remaining, run
from stages.dvcfile import find_stage, read_stages
from stages.lock import md5, stale_stages
from vqpipe.errors import ArtifactError, ParamsError
from vqpipe.params.base import read_yaml

ROOT = Path(__file__).parents[2]
CONTENT = "9a0364b9e99bb480dd25e1f0284c8555"
"""The hash of what `done` writes."""
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


def test_jobs_are_of_outdated_stages_alone() -> None:
    done = CliRunner().invoke(run.app, ["one", "--jobs", "2"])
    assert done.exit_code == 2
    assert "python -m stages.run --outdated --jobs 2" in done.output


def test_what_ended_is_recorded_while_the_next_command_runs_but_for_one_that_needs_it(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    two, seen = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), list[tuple[str, bool]]()

    def finish(name: str) -> str:
        begun = bool(select.select([two], [], [], 60 if name == "one" else 0)[0])
        seen.append((name, begun and not (tmp_path / "three").exists()))
        return ""

    commands = {
        "one": ["true"], "three": ["touch", str(tmp_path / "three")], "two": ["sh", "-c", f"echo > '{pipe}'"]
    }  # fmt: skip
    assert run.run_all(commands, 1, tmp_path / "logs", {"three": {"one"}}, finish=finish) == []
    assert seen[0] == ("one", True)
    assert (tmp_path / "three").exists()
    os.close(two)


def test_a_lock_is_stale_when_an_input_params_or_command_differ(tree: Path) -> None:
    assert stale_stages(tree)["one"] == ["it has never run"]
    code = md5(tree / "code.py")
    (tree / "dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  one:\n    cmd: python -m stages.one --out out/a\n"
        f"    deps:\n    - {{path: code.py, md5: {code}}}\n"
        "    params: {params.yaml: {top: {variants: {x: {prior: none, k: 0.001}, y: {prior: words}}}}}\n"
        "    outs:\n    - {path: out/a, md5: 9a0364b9e99bb480dd25e1f0284c8555}\n"
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


@pytest.mark.parametrize(
    ("board", "made", "command"),
    [
        ("tasks", [], "dvc repro dataset"),
        ("tasks", ["dataset"], "dvc repro clip"),
        ("tiny-imagenet", [], "dvc repro boards/tiny-imagenet/dvc.yaml:dataset"),
        (
            "tasks-text", ["dataset", "boards/tasks-text/clip", "codebook/none"],
            "dvc repro boards/tasks-text/dvc.yaml:graph@words",
        ),
    ],
)  # fmt: skip
def test_a_boards_missing_input_is_named_with_what_makes_it(
    board: str, made: list[str], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in [*ROOT.glob("boards/*/*.yaml"), ROOT / "dvc.yaml", ROOT / "params.yaml"]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for name in made:
        (tmp_path / "artifacts" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    folder = Path("boards") / board
    with pytest.raises(ArtifactError, match="does not exist") as caught:
        boards.missing_rows(folder, boards.row_commands(folder, []))
    assert str(caught.value).endswith(command)


def test_a_folder_that_is_no_boards_is_told_with_the_boards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boards/mine").mkdir(parents=True)
    (tmp_path / "boards/mine/dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    for folder in ("boards/min", "boards/mine"):  # the second has no params
        done = CliRunner().invoke(boards.app, ["--folder", folder])
        assert done.exit_code == 2
        assert f"{folder} is not the folder of a board" in done.output
        assert "choices:  boards/mine" in done.output
        assert "vqpipe preset" not in done.output


def test_logs_of_a_board_that_is_named_by_its_whole_path_are_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, places = tmp_path / "boards/mine", list[Path]()
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(boards, "row_commands", lambda *_: {})
    monkeypatch.setattr(boards, "missing_rows", lambda *_: {})
    monkeypatch.setattr(boards, "rows_of_other_code", lambda *_: {})
    monkeypatch.setattr(boards, "record", lambda *_: None)
    monkeypatch.setattr(boards, "run_all", lambda _, __, logs: places.append(logs) or [])
    for given in (folder, Path("boards/mine")):
        assert CliRunner().invoke(boards.app, ["--folder", str(given)]).exit_code == 0
    assert places == [tmp_path / "scratch/logs/boards/mine"] * 2


LOCK = """
schema: '2.0'
stages:
  one:
    cmd: python -m stages.one --out out/a
    deps:
    - {path: code.py, md5: 0}
    params: {params.yaml: {top: {variants: {x: {prior: none, k: 0.001}, y: {prior: words}}}}}
    outs:
    - {path: out/a, md5: 9a0364b9e99bb480dd25e1f0284c8555}
"""
MANY = """
  many@NAME:
    cmd: python -m stages.many --name NAME --prior PRIOR
    deps:
    - {path: out/a, md5: 9a0364b9e99bb480dd25e1f0284c8555}
    params: {params.yaml: {top.variants.NAME: VALUES}}
    outs:
    - {path: m/NAME.json, md5: 9a0364b9e99bb480dd25e1f0284c8555}
"""


def done(tree: Path, out: str, seconds: float | None = None) -> None:
    """The output of a stage, and what it cost."""
    (tree / out).parent.mkdir(parents=True, exist_ok=True)
    (tree / out).write_text("content")
    if seconds is not None:
        (tree / f"{out}.cost.json").write_text(json.dumps({"seconds": seconds}))


@pytest.fixture
def timed(tree: Path) -> Path:
    """The same stages with recorded seconds: `one` took 100, each of `many` 300."""
    text = DVC.replace(
        "    cmd: python -m stages.one", "    meta: {seconds: 100}\n    cmd: python -m stages.one"
    )
    (tree / "dvc.yaml").write_text(text.replace("    do:\n", "    do:\n      meta: {seconds: 300}\n"))
    x = MANY.replace("NAME", "x").replace("PRIOR", "none").replace("VALUES", "{prior: none, k: 0.001}")
    y = MANY.replace("NAME", "y").replace("PRIOR", "words").replace("VALUES", "{prior: words}")
    (tree / "dvc.lock").write_text(LOCK + x.lstrip("\n") + y.lstrip("\n"))
    return tree


def test_the_time_left_is_the_recorded_one_scaled_by_the_stages_done(timed: Path) -> None:
    stages = remaining.timed_stages(timed)
    names = list(stages)
    assert names == ["one", "many@x", "many@y"]
    assert remaining.progress(stages, names, [], timed) == "stage 1 of 3, about 12 min left"
    done(timed, "out/a", 50.0)
    line = remaining.progress(stages, names[1:], names[:1], timed)
    assert line == "stage 2 of 3, about 5 min left (the recorded run's, times 0.5 for the stages done)"
    done(timed, "m/x.json", 30.0)  # 80 s in place of 400
    assert remaining.progress(stages, names[2:], names[:2], timed).startswith("stage 3 of 3, about 60 s left")
    (timed / "out/a.cost.json").write_text("damaged")
    assert "times 0.1 " in remaining.progress(stages, names[2:], names[:2], timed)


def test_without_recorded_seconds_only_the_stages_are_counted(tree: Path) -> None:
    stages = remaining.timed_stages(tree)
    assert remaining.progress(stages, ["many@x", "many@y"], ["one"], tree) == "stage 2 of 3"
    partly = stages | {"many@x": replace(stages["many@x"], seconds=8000.0)}
    line = remaining.progress(partly, ["many@x", "many@y"], ["one"], tree)
    assert line == "stage 2 of 3, about 2.2 h left, and 1 of unknown length"


def test_an_unknown_stage_is_refused_but_for_a_stage_of_a_board(
    timed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(timed)
    done = CliRunner().invoke(remaining.app, ["oen"])
    assert done.exit_code == 2
    assert "no stage oen; did you mean one?" in done.output
    done = CliRunner().invoke(remaining.app, ["--quiet", "boards/x/dvc.yaml:row@a"])
    assert (done.exit_code, done.output) == (0, "")


def test_stages_are_outdated_as_dvc_judges_them(timed: Path) -> None:
    def outdated() -> list[str]:
        return sorted(remaining.outdated_stages(remaining.timed_stages(timed), timed))

    assert outdated() == ["many@x", "many@y", "one"], "no outputs, as in a clone"
    for out in ("out/a", "m/x.json", "m/y.json"):
        done(timed, out)
    assert outdated() == []
    (timed / "m/y.json").unlink()
    assert outdated() == ["many@y"]
    (timed / "m/y.json").write_text("another commit's")
    assert outdated() == ["many@y"], "git put back the metrics of another run"
    done(timed, "m/y.json")
    lock = timed / "dvc.lock"
    text = lock.read_text()
    lock.write_text(
        text.replace(f"{{path: out/a, md5: {CONTENT}}}\n    params", "{path: out/a, md5: old}\n    params", 1)
    )
    assert outdated() == ["many@x"]
    lock.write_text(text)
    (timed / "params.yaml").write_text(PARAMS.replace("1e-3", "2e-3"))
    assert outdated() == ["many@x", "many@y", "one"], "one has all of top, and the others come after it"
    lock.unlink()
    assert outdated() == ["many@x", "many@y", "one"]


def test_a_changed_listing_of_code_makes_a_stage_outdated(tmp_path: Path) -> None:
    (tmp_path / "artifacts/code").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  code: {cmd: c, outs: [{artifacts/code: {cache: false}}]}\n"
        "  one: {cmd: d, deps: [artifacts/code/one.txt], outs: [a]}\n"
    )
    listing = tmp_path / "artifacts/code/one.txt"
    listing.write_text("1")
    done(tmp_path, "a")
    (tmp_path / "dvc.lock").write_text(
        f"stages: {{one: {{cmd: d, deps: [{{path: artifacts/code/one.txt, md5: {md5(listing)}}}],"
        " outs: [{path: a, md5: 9a0364b9e99bb480dd25e1f0284c8555}]}}"
    )
    stages = remaining.timed_stages(tmp_path)
    assert list(stages) == ["one"]
    assert remaining.outdated_stages(stages, tmp_path) == set()
    listing.write_text("2")
    assert remaining.outdated_stages(stages, tmp_path) == {"one"}


def test_dvc_and_stages_run_print_the_time_left(timed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(timed, "out/a", 200.0)
    shown = CliRunner().invoke(remaining.app, ["many@x"])
    assert shown.exit_code == 0
    assert (
        shown.output
        == "stage 2 of 3, about 20 min left (the recorded run's, times 2 for the stages done): many@x\n"
    )
    table = CliRunner().invoke(remaining.app, []).output.splitlines()
    assert table[:2] == ["one: recorded 100 s, here 200 s", "many@x: recorded 300 s, here unknown"]
    for quiet in ("boards/scenes/dvc.yaml:many@x", "other"):
        assert CliRunner().invoke(remaining.app, ["--quiet", quiet]).output == ""
    (timed / "dvc.lock").write_text("[")
    broken = CliRunner().invoke(remaining.app, ["--quiet", "many@x"])
    assert (broken.exit_code, broken.output) == (0, "")
    monkeypatch.setattr(run.Forks, "run", lambda forks, command: 0)
    ran = CliRunner().invoke(run.app, ["many@y", "many@x"]).output.splitlines()
    assert [line.partition(":")[0] for line in ran] == [
        "stage 1 of 2, about 10 min left", "stage 2 of 2, about 5 min left",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_stage_under_dvc_prints_its_line(timed: Path) -> None:
    (timed / "stage.py").write_text(
        "from stages.cli import stage_app\n@stage_app\ndef app():\n    pass\napp()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "DVC_STAGE": "one"}
    ended = subprocess.run(
        [sys.executable, "stage.py"], cwd=timed, env=env, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "stage 1 of 3, about 12 min left: one\n")
    env = {name: value for name, value in env.items() if name != "DVC_STAGE"}
    ended = subprocess.run(
        [sys.executable, "stage.py"], cwd=timed, env=env, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
