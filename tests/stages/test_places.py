"""Every path that a stage reads or writes is looked at before work: all options of all stages, by their signatures."""

from __future__ import annotations

import importlib
import inspect
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.remedies import all_specs
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.cli.presets import preset_text

ROOT = Path(__file__).parents[2]
INPUTS: dict[str, dict[str, str]] = {
    "dataset": {},
    "clip": {"dataset": "dataset"},
    "vocabulary": {"corpus": "dataset"},
    "graph": {"corpus": "dataset", "vocabulary": "vocabulary", "clip": "clip"},
    "patches": {"dataset": "dataset", "clip": "clip"},
    "cluster": {"patches": "patches", "dataset": "dataset"},
    "tokenizer": {"dataset": "dataset", "clip": "clip", "codebook": "patches-codebook"},
    "tokens": {"dataset": "dataset", "tokenizer": "tokenizer"},
    "judges": {"dataset": "dataset"},
    "prior": {
        "tokens": "tokens",
        "tokenizer": "tokenizer",
        "dataset": "dataset",
        "clip": "clip",
        "judges": "judges",
    },
    "evaluate": {"dataset": "dataset", "clip": "clip", "tokenizer": "tokenizer"},
    "task": {"tokenizer": "tokenizer", "dataset": "dataset", "clip": "clip"},
    "row": {"dataset": "dataset", "clip": "clip", "codebook": "patches-codebook"},
    "generation": {"dataset": "dataset", "clip": "clip", "judges": "judges", "codebook": "patches-codebook"},
    "report": {},
}
"""The artifact behind each option of each stage that is an input."""
OUTPUTS: dict[str, dict[str, str]] = {
    "dataset": {"out": "dataset", "metrics": "file"},
    "clip": {"out": "clip", "metrics": "file", "curves": "file"},
    "vocabulary": {"out": "vocabulary", "metrics": "file"},
    "graph": {"out": "words-codebook", "metrics": "file"},
    "patches": {"out": "patches", "metrics": "file"},
    "cluster": {"out": "patches-codebook", "metrics": "file", "curves": "file"},
    "tokenizer": {"out": "tokenizer", "metrics": "file", "curves": "file"},
    "tokens": {"out": "tokens"},
    "judges": {"out": "judges", "metrics": "file", "curves": "file"},
    "prior": {"out": "prior", "metrics": "file", "curves": "file"},
    "evaluate": {"out": "evaluation", "metrics": "file"},
    "task": {"out": "task", "metrics": "file", "curves": "file"},
    "row": {"metrics": "file", "cost": "file"},
    "generation": {"metrics": "file", "cost": "file"},
    "report": {"out": "page"},
}
"""What each option that is an output publishes."""
PLAIN = {
    "tokenizer": ["--variant=vq"], "prior": ["--pair=vq-gpt"], "task": ["--pair=vq-masked_words"],
    "row": ["--row=vq", "--seed=0", f"--params={ROOT / 'boards/scenes/params.yaml'}"],
    "generation": ["--row=vq", "--seed=0", f"--params={ROOT / 'boards/generation/params.yaml'}"],
}  # fmt: skip
EACH_INPUT = [(stage, option) for stage, options in INPUTS.items() for option in options]
EACH_OUTPUT = [(stage, option) for stage, options in OUTPUTS.items() for option in options]


def publish(path: Path, name: str) -> Path:
    """An artifact of a kind by its manifest; its files are empty, so that reading on would fail."""
    spec = all_specs()[name]
    assert isinstance(spec, FolderSpec)
    with publish_folder(path, spec, {}) as folder:
        for required in spec.required:
            (folder / required).write_text("")
    return path


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for name in {name for options in INPUTS.values() for name in options.values()}:
        publish(folder / name, name)
    (folder / "metrics.json").write_text('{"loss": 1.0}\n')
    (folder / "empty").mkdir()
    (folder / "params.yaml").write_text(preset_text("pico", ["+cluster.per_class=true"]))
    return folder


@pytest.fixture
def invoke(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, Path]], Result]:
    """Runs a stage in an empty folder with good inputs and new outputs, but for what is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))

    def run(stage: str, given: dict[str, Path]) -> Result:
        paths = {option: artifacts / name for option, name in INPUTS[stage].items()}
        paths |= {option: tmp_path / "new" / option for option in OUTPUTS[stage]}
        words = [f"--{option}={path}" for option, path in (paths | given).items()]
        if not any(word.startswith("--params") for word in [*PLAIN.get(stage, []), *words]):
            words.append(f"--params={artifacts / 'params.yaml'}")
        return CliRunner().invoke(
            importlib.import_module(f"stages.{stage}").app, [*PLAIN.get(stage, []), *words]
        )

    return run


def refused(result: Result, tmp_path: Path, *texts: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.output.startswith("error: ")
    for text in texts:
        assert text in result.output
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "scratch").exists()


def test_the_tables_hold_every_path_of_every_stage() -> None:
    stages = {path.stem for path in (ROOT / "stages").glob("*.py") if "stage_run(" in path.read_text("utf-8")}
    assert stages == set(INPUTS) == set(OUTPUTS)
    for stage in stages:
        options = inspect.signature(importlib.import_module(f"stages.{stage}").main).parameters
        paths = {name for name, option in options.items() if "Path" in str(option.annotation)}
        assert paths - {"params", "artifacts"} == {*INPUTS[stage], *OUTPUTS[stage]}, stage


@pytest.mark.parametrize(("stage", "option"), EACH_INPUT)
@pytest.mark.parametrize("wrong", ["metrics.json", "empty", "gone", "params.yaml", "another"])
def test_an_input_of_a_wrong_kind_is_refused(
    stage: str, option: str, wrong: str, artifacts: Path, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    other = "tokenizer" if INPUTS[stage][option] != "tokenizer" else "clip"
    path = artifacts / (other if wrong == "another" else wrong)
    refused(invoke(stage, {option: path}), tmp_path, path.name)


@pytest.mark.parametrize(("stage", "option"), EACH_OUTPUT)
def test_an_output_that_would_replace_something_else_is_refused(
    stage: str, option: str, artifacts: Path, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    kind = OUTPUTS[stage][option]
    folder, file = tmp_path / "photos", tmp_path / "notes.txt"
    folder.mkdir()
    (folder / "a.png").write_text("a")
    file.write_text("notes")
    if kind == "page":
        (folder / "index.html").write_text("my own page")
        refused(invoke(stage, {option: folder}), tmp_path, "which would be lost")
    elif kind == "file":
        refused(invoke(stage, {option: folder}), tmp_path, "photos is a folder")
        refused(invoke(stage, {option: file}), tmp_path, "which would be lost", "begins with 'notes'")
    else:
        refused(invoke(stage, {option: folder}), tmp_path, "which would be lost", "a.png")
        refused(invoke(stage, {option: file}), tmp_path, "notes.txt is a file")
        refused(
            invoke(stage, {option: publish(tmp_path / "other", "decoded-images")}),
            tmp_path,
            "of decoded-images",
        )
    refused(invoke(stage, {option: file / "below"}), tmp_path, "notes.txt is a file")
    assert (file.read_text(), (folder / "a.png").read_text()) == ("notes", "a")


@pytest.mark.parametrize(("stage", "option"), EACH_OUTPUT)
def test_an_output_that_cannot_be_written_is_refused(
    stage: str, option: str, invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    long = tmp_path / ("n" * (300 if OUTPUTS[stage][option] == "page" else 250))  # sidecars need 13 more
    refused(invoke(stage, {option: long}), tmp_path, "name is too long")

    with monkeypatch.context() as patch:
        real = os.access
        patch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and real(path, mode))
        refused(invoke(stage, {option: tmp_path / "locked/x"}), tmp_path, "locked is not writable")

    def full(dir: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    refused(invoke(stage, {option: tmp_path / "locked/x"}), tmp_path, "No space left on device")
    assert list((tmp_path / "locked").iterdir()) == []


@pytest.mark.parametrize("stage", ["clip", "patches", "cluster", "tokenizer", "prior", "task", "row"])
def test_scratch_that_cannot_be_written_is_refused(
    stage: str,
    artifacts: Path,
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "file"))
    (tmp_path / "vq").symlink_to(artifacts / "tokenizer")  # the tokenizer of the pairs
    given = {"tokenizer": tmp_path / "vq"} if "tokenizer" in INPUTS[stage] else {}
    refused(invoke(stage, given), tmp_path, "VQPIPE_SCRATCH", "file is a file")


def test_two_outputs_in_one_place_are_refused(invoke: Callable[..., Result], tmp_path: Path) -> None:
    shared = {"metrics": tmp_path / "new/m.json", "curves": tmp_path / "new/x/../m.json"}
    refused(invoke("cluster", shared), tmp_path, "a place of its own")
    inside = {"out": tmp_path / "new/out", "metrics": tmp_path / "new/out/m.json"}
    refused(invoke("tokenizer", inside), tmp_path, "a place of its own")


@pytest.mark.parametrize("stage", ["clip", "tokenizer", "prior", "row"])
def test_compiling_without_a_compiler_is_refused_before_the_data_is_read(
    stage: str,
    artifacts: Path,
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = {"clip": "clip.fit", "tokenizer": "tokenizer.common", "prior": "prior.common"}
    if stage == "row":
        text = (
            (ROOT / "boards/scenes/params.yaml")
            .read_text()
            .replace("training:", "training:\n    compile: true", 1)
        )
        params = tmp_path / "board.yaml"
        params.write_text(text)
    else:
        params = tmp_path / "compile.yaml"
        params.write_text(preset_text("pico", [f"+{sections[stage]}.training.compile=true"]))
    monkeypatch.setenv("VQPIPE_DEVICE", "cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused(invoke(stage, {"params": params}), tmp_path, "C++ compiler", "CXX=no-such-compiler")
