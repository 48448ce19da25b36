"""The generation stage: a row has the numbers of its tokenizer and priors; a killed one ends with the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import vqpipe.boards.generation as generation
from stages import generation as stage
from stages.boards import missing_rows
from tests.small_priors import shared
from tests.small_training import merged
from tests.stages.test_prior_conditions import write_judges
from tests.stages.test_row import EVALUATE, QUANTIZER, STEPS
from tests.tiny import CLASSES, TOKENIZER, write_dataset, write_tiny_clip
from vqpipe.artifacts.publish import write_manifest
from vqpipe.artifacts.spec import header_for
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK
from vqpipe.boards.board import load_board
from vqpipe.boards.generation import GenerationBoard
from vqpipe.errors import ParamsError
from vqpipe.evaluation.judges import Subjects
from vqpipe.priors.gpt import GPT

PRIORS: dict[str, Any] = {
    "common": {
        **{name: value for name, value in shared().items() if name not in ("tokenizer", "seed", "condition")},
        "gpt": GPT.example(),
    },
    "gpt-none": {"kind": "gpt", "condition": "none"},
    "gpt-class": {"kind": "gpt", "condition": "class"},
}
BOARD: dict[str, Any] = {
    "protocol": 1, "common": merged(TOKENIZER, {"training": STEPS, "align": None}), "evaluate": EVALUATE,
    "rows": {"vq": QUANTIZER, "small": {"quantizer": {"num_codes": 8}}},
    "runs": {f"{row}-0": {"row": row, "seed": 0, "codebook": "none"} for row in ("vq", "small")},
    "priors": PRIORS, "only": {"small": ["gpt-none"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a CLIP and a board."""
    root = tmp_path_factory.mktemp("generation")
    write_dataset(root, {"train": 12, "validation": 4, "test": 20})
    write_tiny_clip(root / "clip")
    write_judges(root / "judges", Subjects(classes=CLASSES))
    (root / "none").mkdir()
    write_manifest(root / "none", header_for(NO_CODEBOOK, {}))
    (root / "params.yaml").write_text(json.dumps(BOARD))
    return root


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))


def words(root: Path, row: str, out: Path) -> list[str]:
    given = {
        "row": row, "seed": 0, "codebook": root / "none", "metrics": out, "cost": out.with_suffix(".cost"),
        "dataset": root / "dataset", "clip": root / "clip", "judges": root / "judges",
    }  # fmt: skip
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def run(root: Path, row: str, out: Path) -> Result:
    return CliRunner().invoke(stage.app, [*words(root, row, out), "--params", str(root / "params.yaml")])


def test_a_row_has_the_numbers_of_its_tokenizer_and_of_its_priors(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, again = tmp_path / "vq.json", tmp_path / "again.json"
    done = run(root, "vq", out)
    assert done.exit_code == 0, done.output
    metrics, cost = json.loads(out.read_text()), json.loads(out.with_suffix(".cost").read_text())
    assert metrics["psnr_low"] < metrics["psnr"] < metrics["psnr_high"]
    for name in ("gpt-none", "gpt-class"):
        assert metrics[f"prior.{name}.bits_per_token"] > 0
        assert metrics[f"prior.{name}.condition"] == name.removeprefix("gpt-")
        assert cost[f"prior.{name}.training_seconds"] > 0
    assert 0 <= metrics["prior.gpt-class.agreement.samples.class_accuracy"] <= 1
    assert not any(isinstance(value, dict | list) for value in metrics.values())
    assert missing_rows(root, {"vq-0": ["python", "-m", "stages.generation", *words(root, "vq", out)]}) == {}

    train = generation.train_and_measure
    calls: list[str] = []

    def killed(config: Any, *args: Any, **options: Any) -> Any:
        calls.append(config.condition)
        if calls == ["none", "class"]:
            raise KeyboardInterrupt
        return train(config, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "train_and_measure", killed)
        assert run(root, "vq", again).exit_code != 0
        assert not again.exists()
        assert run(root, "vq", again).exit_code == 0
    assert calls == ["none", "class", "class"], "what was measured before the kill is not measured again"
    assert again.read_bytes() == out.read_bytes()


def test_a_row_can_have_some_of_the_priors(root: Path) -> None:
    assert list(load_board(root / "params.yaml", GenerationBoard).priors_of("small", 0)) == ["gpt-none"]
    assert list(load_board(root / "params.yaml", GenerationBoard).priors_of("vq", 3)) == [
        "gpt-none",
        "gpt-class",
    ]
    assert load_board(root / "params.yaml", GenerationBoard).priors_of("vq", 3)["gpt-class"].seed == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"priors": {**PRIORS, "gpt-none": {"kind": "gpt", "seed": 1}}}, "sets tokenizer or seed"),
        ({"only": {"small": ["gpt-nothing"]}}, "names a row or a prior"),
        ({"tasks": {"seed": 0}}, "tasks and priors are both set"),
    ],
)
def test_params_that_do_not_fit_are_refused(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({**BOARD, **change}))
    with pytest.raises(ParamsError, match=text):
        load_board(path, GenerationBoard)


def test_a_prior_whose_params_are_wrong_is_refused_before_any_training(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps({**BOARD, "priors": {"x": {"kind": "gtp"}}, "only": {}}))
    with pytest.raises(ParamsError, match="gtp"):
        missing_rows(
            tmp_path, {"vq-0": ["python", "-m", "stages.generation", *words(root, "vq", tmp_path / "x")]}
        )
