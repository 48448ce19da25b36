"""The tokens stage: its output's spec, byte-identical re-runs, messages on bad params and inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stages.tokens import app
from tests.ranks import run_ranks
from tests.tiny import write_dataset, write_tokenizer
from vqpipe.artifacts.publish import read_manifest, tree_digest
from vqpipe.artifacts.specs.tokens import CODES, TOKENS
from vqpipe.artifacts.tables import read_table

NUM_IMAGES = {"train": 9, "validation": 2, "test": 3}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokens_stage")
    write_dataset(root, NUM_IMAGES)
    write_tokenizer(root / "tokenizer")
    (root / "params.yaml").write_text("tokens: {batch_size: 4}\n")
    return root


def arguments(
    inputs: Path, out: Path, params: str = "params.yaml", tokenizer: str = "tokenizer"
) -> list[str]:
    options = {
        "dataset": inputs / "dataset",
        "tokenizer": inputs / tokenizer,
        "out": out,
        "params": inputs / params,
    }
    return [text for name, path in options.items() for text in (f"--{name}", str(path))]


def run(inputs: Path, out: Path, **changes: str) -> Result:
    return CliRunner().invoke(app, arguments(inputs, out, **changes))


def test_output_has_its_spec_and_a_rerun_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = run(inputs, tmp_path / name)
        assert result.exit_code == 0, result.output
    manifests = [read_manifest(tmp_path / name, TOKENS) for name in ("first", "second")]
    assert manifests[0] == manifests[1]
    facts = manifests[0].facts
    assert facts["num_codes"] == [16]
    assert facts["grid"] == [4, 4]
    assert facts["groups"] == 1
    table = read_table(tmp_path / "first" / "train-00000.parquet", CODES)
    assert table.num_rows == NUM_IMAGES["train"] == facts["splits"]["train"]["images"]
    assert all(len(row) == 16 and max(row) < 16 for row in table["indices"].to_pylist())
    lineage = json.loads((tmp_path / "first.lineage.json").read_text())
    assert lineage["stage"] == "tokens"


def test_mistakes_exit_2_with_a_message_and_publish_nothing(inputs: Path, tmp_path: Path) -> None:
    (inputs / "bad.yaml").write_text("tokens: {batch_sise: 4}\n")
    result = run(inputs, tmp_path / "out", params="bad.yaml")
    assert result.exit_code == 2
    assert "did you mean batch_size?" in result.output
    result = run(inputs, tmp_path / "out", tokenizer="nothing")
    assert result.exit_code == 2
    assert "nothing does not exist" in result.output
    assert list(tmp_path.iterdir()) == []


def test_two_ranks_publish_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    """9, 2 and 3 images in batches of 4: three batches, one and one, so that a rank is idle in the last turns."""
    assert run(inputs, tmp_path / "one").exit_code == 0
    run_ranks("-m", "stages.tokens", *arguments(inputs, tmp_path / "two"))
    assert tree_digest(tmp_path / "two") == tree_digest(tmp_path / "one")
