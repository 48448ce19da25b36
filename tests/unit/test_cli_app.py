"""The `vqpipe` tools: exit codes, messages, and a fast start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.tables import to_table, write_table
from vqpipe.cli import presets
from vqpipe.cli.app import app
from vqpipe.text.pos import tagger
from vqpipe.text.tagger import PosParams, Tagger
from vqpipe.text.wordnet_tagger import WordnetPos

TOOLS = (
    "preset", "artifacts", "compare", "pairs", "why", "boards", "card", "evaluate", "bench-tokenizers", "sample",
    "complete",
)  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def preset_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "scenes.yaml").write_text("dataset: {num_train: 4000}\n")
    (folder / "tiny.yaml").write_text("base: scenes\ndescription: a small run\ndataset: {num_train: 40}\n")
    monkeypatch.setattr(presets, "preset_folder", lambda: folder)
    return folder


def test_help_lists_every_tool() -> None:
    code, output = run("--help")
    assert code == 0
    assert all(f"  {tool}  " in output for tool in TOOLS)


@pytest.mark.parametrize("tool", [[tool] for tool in TOOLS if tool != "artifacts"] + [["artifacts", "show"]])
def test_each_tool_has_help_with_an_example(tool: list[str]) -> None:
    code, output = run(*tool, "--help")
    assert code == 0
    assert f"Example: vqpipe {tool[0]}" in output


@pytest.mark.parametrize("tool", ["tokenize", "detokenize", "evaluate", "bench-tokenizers"])
def test_each_tool_says_alike_how_a_tokenizer_is_named(tool: str) -> None:
    words = " ".join(run(tool, "--help")[1].split())
    assert "The tokenizer: a folder, a name below artifacts/tokenizer, or owner/name on the Hub" in words


def test_preset_says_how_a_key_is_added() -> None:
    assert "+KEY=VALUE adds one. May be repeated." in " ".join(run("preset", "--help")[1].split())


def test_start_imports_nothing_heavy() -> None:
    script = (
        "import sys, vqpipe.cli.app; print([m for m in ('torch', 'pyarrow', 'pydantic', "
        "'numpy', 'jinja2', 'ruamel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_preset_prints(preset_files: Path) -> None:
    assert run("preset", "scenes") == (0, "dataset: {num_train: 4000}\n")
    code, output = run("preset", "tiny", "--set", "dataset.num_train=41")
    assert code == 0
    assert output == "# Preset tiny: a small run.\ndataset: {num_train: 41}\n"
    assert run("preset", "--list") == (0, "scenes\ntiny    a small run\n")


def test_preset_does_not_overwrite_what_differs(preset_files: Path, tmp_path: Path) -> None:
    out = tmp_path / "params.yaml"
    assert run("preset", "scenes", "--out", out)[0] == 0
    assert run("preset", "scenes", "--out", out)[0] == 0
    code, output = run("preset", "tiny", "--out", out)
    assert code == 2
    assert f"{out} exists and differs" in output
    assert "--force" in output
    again = ("preset", "tiny", "--out", str(out), "--set", "dataset.num_train=41")
    assert f"vqpipe {' '.join(again)} --force" in run(*again)[1]
    assert "4000" in out.read_text()
    assert run("preset", "tiny", "--out", out, "--force")[0] == 0
    assert "num_train: 40}" in out.read_text()


def test_preset_mistakes(preset_files: Path, tmp_path: Path) -> None:
    code, output = run("preset", "scene")
    assert code == 2
    assert "error: there is no preset scene; did you mean scenes?" in output
    assert run("preset")[0] == 2
    assert run("preset", "scenes", "--out", tmp_path)[0] == 2


def test_artifacts_show(tmp_path: Path) -> None:
    write_table(tmp_path / "q.parquet", QUARANTINE, to_table(QUARANTINE, []))
    code, output = run("artifacts", "show", tmp_path / "q.parquet")
    assert code == 0
    assert "quarantine v1" in output
    code, output = run("artifacts", "show", tmp_path / "gone")
    assert code == 2
    assert "does not exist" in output


@pytest.fixture
def metrics(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps({"tokenizer": {"lc": {"psnr": 20.0}}}))
    b.write_text(json.dumps({"tokenizer": {"lc": {"psnr": 19.5}}}))
    return a, b


def test_compare(metrics: tuple[Path, Path]) -> None:
    code, output = run("compare", *metrics)
    assert code == 0
    assert "tokenizer.lc.psnr  20  19.5   -0.5   -2.50%" in output


@pytest.mark.parametrize(
    ("gate", "code"),
    [("tokenizer.lc.psnr<-0.2", 1), ("tokenizer.lc.psnr<-5%", 0), ("tokenizer.lc.psn<0", 2), ("x", 2)],
)
def test_compare_exit_codes(metrics: tuple[Path, Path], gate: str, code: int) -> None:
    found, output = run("compare", *metrics, "--fail-on", "tokenizer.lc.psnr>0", "--fail-on", gate)
    assert found == code
    assert ("breach: tokenizer.lc.psnr<-0.2" in output) == (code == 1)


MEASURED = {
    "images": {"split": "test", "num_images": 2000, "pixels": "3 x 64 x 64", "digest": "aa11"},
    "protocol": {"version": 1, "features": "clip one", "distances": {"num_subsets": 50}, "digest": "bb22"},
}


def run_files(tmp_path: Path, a: object, b: object, *options: str) -> tuple[int, str]:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, content in zip(paths, (a, b), strict=True):
        path.write_text(json.dumps(content))
    return run("compare", *paths, *options)


def changed_record(side: str, **parts: object) -> dict[str, object]:
    return {**MEASURED, side: {**MEASURED[side], **parts}}


@pytest.mark.parametrize(
    ("side", "parts", "shown"),
    [
        ("images", {"num_images": 500, "digest": "cc33"}, ["num_images        2000         500"]),
        ("images", {"digest": "cc33"}, ["digest         aa11         cc33"]),
        ("protocol", {"features": "clip two", "digest": "cc33"}, ["features     clip one     clip two"]),
        (
            "protocol",
            {"distances": {"num_subsets": 9}, "digest": "cc33"},
            ["distances.num_subsets", " 50 ", " 9 "],
        ),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_runs_that_measured_otherwise_are_not_compared(
    tmp_path: Path, side: str, parts: dict[str, object], shown: list[str], nested: bool
) -> None:
    sides = [{"psnr": 20.0, "measured": MEASURED}, {"psnr": 19.0, "measured": changed_record(side, **parts)}]
    a, b = [{"tokenizer": {"lc": s, "vq": s}} for s in sides] if nested else sides
    code, output = run_files(tmp_path, a, b)
    assert code == 2
    other = {"images": "protocol", "protocol": "images"}[side]
    told = "tokenizer.lc, tokenizer.vq" if nested else "the run"
    assert f"{told}: the {side} " in output
    assert f"the {other} " not in output
    assert "a.json" in output
    assert "b.json" in output
    assert "--allow-different" in output
    refused = run_files(tmp_path, a, b, "--all", "--fail-on", "psnr<-5%")[1]
    assert "--fail-on 'psnr<-5%' --all --allow-different" in " ".join(refused.split())
    words = " ".join(output.split())
    assert all(" ".join(text.split()) in words for text in shown)
    code, output = run_files(
        tmp_path, a, b, "--allow-different", "--fail-on", "psnr<-5%" if not nested else "x!="
    )
    assert code == (2 if nested else 0)  # the gate is still read
    assert "warning: A and B did not measure alike" in output
    code, output = run_files(tmp_path, a, b, "--allow-different")
    assert code == 0
    assert "psnr" in output
    code, output = run_files(tmp_path, a, a)
    assert code == 0
    assert (
        "A and B have the same metrics; those of the workspace are in artifacts/report/metrics.json" in output
    )


def test_a_record_on_one_side_alone_is_refused_and_on_none_is_told(tmp_path: Path) -> None:
    old = {"tokenizer": {"lc": {"psnr": 20.0}}}
    new = {"tokenizer": {"lc": {"psnr": 20.5, "measured": MEASURED}}}
    for sides in ((old, new), (new, old)):
        code, output = run_files(tmp_path, *sides)
        assert code == 2
        assert "tokenizer.lc: one side does not record what it measured" in output
        assert run_files(tmp_path, *sides, "--allow-different")[0] == 0
    code, output = run_files(tmp_path, old, old)
    assert code == 0
    assert "warning: neither side records which images it measured" in output
    assert "warning" not in run_files(tmp_path, new, new)[1]


def test_a_run_of_one_side_and_one_that_was_only_trained_there_are_no_difference(tmp_path: Path) -> None:
    trained = {"training": {"num_steps": 10}}
    both = {"psnr": 20.5, "measured": MEASURED, **trained}
    a = {"tokenizer": {"lc": both, "vq": trained}}
    b = {"tokenizer": {"lc": both, "vq": both, "fsq": both}}
    code, output = run_files(tmp_path, a, b)
    assert code == 0, output
    assert "only in B" in output


def test_pairs() -> None:
    code, output = run("pairs", "two small birds with a yellow beak", "--backend", "wordnet")
    assert code == 0
    rows = [line.split() for line in output.splitlines()]
    assert rows == [
        ["word", "wordnet"], ["two", "number"], ["small", "adjective"], ["birds", "noun", "(bird)"],
        ["with", "preposition"], ["a", "determiner"], ["yellow", "adjective"], ["beak", "noun"], [],
        ["adjective", "noun", "wordnet"], ["small", "bird", "1"], ["yellow", "beak", "1"],
    ]  # fmt: skip


def test_pairs_load_spacy_only_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(config: PosParams) -> Tagger:
        asked.append(config.kind)
        return tagger(WordnetPos(kind="wordnet"))

    monkeypatch.setattr("vqpipe.cli.pairs.tagger", load)
    assert run("pairs", "a red bird")[0] == 0
    assert asked == ["wordnet", "nltk"]
    assert run("pairs", "a red bird", "--spacy-model", "own")[1].splitlines()[0].split() == [
        "word", "wordnet", "nltk", "spacy"
    ]  # fmt: skip
    asked.clear()
    assert run("pairs", "a red bird", "--backend", "spacy")[0] == 0
    assert asked == ["spacy"]


def test_pairs_say_which_backend_is_not_available() -> None:
    code, output = run("pairs", "the bird is red", "--predicative", "--spacy-model", "en_core_web_none")
    assert code == 0
    assert "red        bird  1" in output
    assert "pip install en-core-web-none" in output
    assert run("pairs", "", "--backend", "wordnet") == (0, "no pairs (wordnet)\n")


def test_pairs_of_a_named_backend_that_is_not_available() -> None:
    named = ("--backend", "wordnet", "--backend", "spacy", "--spacy-model", "en_core_web_none")
    code, output = run("pairs", "a red bird", *named)
    assert code == 2
    assert "pip install en-core-web-none" in output
    code, output = run("pairs", "a red bird", "--backend", "wordnet", "--spacy-model", "own")
    assert code == 2
    assert "--backend spacy, or no --spacy-model" in output
    code, output = run("pairs", "a red bird", "--backend", "wordnett")
    assert code == 2
    assert "did you mean wordnet?" in output


def test_evaluate_tells_a_missing_tokenizer(tmp_path: Path) -> None:
    code, output = run("evaluate", tmp_path, "--tokenizer", tmp_path / "gone")
    assert code == 2
    assert "gone" in output
