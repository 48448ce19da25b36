"""Names of variants, pairs, tasks, rows and runs are checked where they enter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.dvcfile import read_stages
from vqpipe.boards.board import Board
from vqpipe.cli.presets import SECTIONS, load_preset, preset_text
from vqpipe.data.build import DatasetParams
from vqpipe.errors import ParamsError
from vqpipe.params.base import load_merged, load_params, read_yaml, section_of
from vqpipe.params.names import NAMED, check_name
from vqpipe.report.inputs import read_inputs
from vqpipe.tokenizers.tokenizer import TokenizerParams

ROOT = Path(__file__).parents[2]
HOSTILE = [
    *(
        "../../etc",
        "..",
        ".",
        ".hidden",
        "-rf",
        "--help",
        "a/b",
        "a\\b",
        "/abs",
        "a b",
        "a;b",
        "a'b",
        'a"b',
        "$(x)",
    ),
    *("", "a\n", "a\0b", "\x1b[31m", "a\u202eb", "é", "n" * 101, "a`b", "a|b", "a*", "~"),
]
GOOD = ["vq", "vq+lg", "vq-k16384", "sq_vae", "1.5", "a..b", "+", "n" * 100]


def write(path: Path, data: Any) -> Path:
    YAML(typ="safe", pure=True).dump(data, path)
    return path


@pytest.fixture
def params() -> dict[str, Any]:
    return load_preset("pico")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_could_leave_its_folder_or_its_place_in_a_command_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match="it cannot be used") as caught:
        check_name(name, "it")
    assert "letters" in str(caught.value)
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))


@pytest.mark.parametrize("name", GOOD)
def test_a_name_in_use_is_taken(name: str) -> None:
    assert check_name(name, "it") == name
    assert check_name(f"prior/{name}", "it", path=True) == f"prior/{name}"


@pytest.mark.parametrize("section", NAMED)
@pytest.mark.parametrize("name", ["../../x", "-x", "a b", "x';touch y;'"])
def test_every_reader_of_params_refuses_it(
    name: str, section: str, params: dict[str, Any], tmp_path: Path
) -> None:
    entries = params[section][NAMED[section]]
    entries[name] = next(iter(entries.values()))
    path = write(tmp_path / "params.yaml", params)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (tmp_path / "preset.yaml").write_text(path.read_text())
    for read in (
        lambda: load_params(path, "dataset", DatasetParams),
        lambda: load_merged(path, "tokenizer.common", "tokenizer.variants.vq", TokenizerParams),
        lambda: read_inputs(tmp_path, path),
        lambda: read_stages(tmp_path),
    ):
        with pytest.raises(ParamsError, match="cannot be used"):
            read()


@pytest.mark.parametrize("section", ["prior", "task"])
def test_the_name_of_a_tokenizer_elsewhere_is_checked_too(
    section: str, params: dict[str, Any], tmp_path: Path
) -> None:
    next(iter(params[section][NAMED[section]].values()))["tokenizer"] = "../vq"
    path = write(tmp_path / "params.yaml", params)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    for read in (
        lambda: load_params(path, "dataset", DatasetParams),
        lambda: read_stages(tmp_path),
    ):
        with pytest.raises(ParamsError, match=r"tokenizer.*cannot be used"):
            read()


@pytest.mark.parametrize("key", ["rows", "runs", "clusters", "row", "codebook"])
def test_a_board_checks_its_own(key: str) -> None:
    data = read_yaml(ROOT / "boards/scenes/params.yaml")
    parts = {name: data.get(name) for name in Board.model_fields if data.get(name) is not None}
    if key in ("row", "codebook"):
        run = next(iter(data["runs"]))
        parts["runs"] = {run: {**data["runs"][run], key: "../../x"}}
    else:
        parts[key] = {"../x": next(iter(data[key].values()))}
    with pytest.raises(ValueError, match="not a name"):
        Board.model_validate_json(json.dumps(parts))


def test_the_paths_that_a_run_names_become_parts_of_its_command_only_as_names(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages: {row: {foreach: '${runs}', do: {cmd: 'python -m stages.row --codebook artifacts/${item.codebook}'}}}"
    )
    (tmp_path / "params.yaml").write_text("runs: {a-0: {codebook: codebook/words}}")
    assert read_stages(tmp_path)["row@a-0"].cmd.endswith("artifacts/codebook/words")
    for bad in ("codebook/../../x", "/x", "a b", "a;b", "codebook//x"):
        (tmp_path / "params.yaml").write_text(f"runs: {{a-0: {{codebook: '{bad}'}}}}")
        with pytest.raises(ParamsError, match="codebook of row@a-0 cannot be used"):
            read_stages(tmp_path)


def test_an_override_with_such_a_name_is_refused() -> None:
    with pytest.raises(ParamsError, match="cannot be used"):
        preset_text("scenes", ["+tokenizer.variants.a b={prior: none}"])


def test_a_name_with_dots_is_one_key() -> None:
    data = {"rows": {"k1.5": {"a": 1}, "k1": {"a": 2}}}
    assert section_of(data, "rows.k1.5.a", Path("p.yaml")) == 1
    assert section_of(data, "rows.k1.a", Path("p.yaml")) == 2


def test_the_named_sections_are_those_that_stages_read() -> None:
    params = load_preset("scenes")
    assert {name for name in SECTIONS if "common" in params[name]} == set(NAMED)
