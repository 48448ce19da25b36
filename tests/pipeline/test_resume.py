"""Training that is killed at any checkpoint ends with the same bytes as training that is not."""

from pathlib import Path

import pytest

from tests.pipeline.conftest import Checkout
from vqpipe.artifacts.publish import tree_digest

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize(("variant", "kills"), [("vq", (2, 1)), ("lc", (1, 4))])
def test_sigkill_changes_no_byte(
    pico: Checkout, tmp_path: Path, variant: str, kills: tuple[int, ...]
) -> None:
    out = pico.folder / "artifacts/tokenizer" / variant
    curve = pico.folder / f"artifacts/curves/tokenizer/{variant}.csv"
    whole, whole_curve = tree_digest(out), curve.read_bytes()
    for checkpoints in kills:
        pico.run_killed(tmp_path, checkpoints, "stages.run", f"tokenizer@{variant}")
        assert tree_digest(out) == whole, "a killed run leaves the published tokenizer as it was"
    assert list((pico.folder / ".scratch/tokenizer").glob("*/checkpoint.safetensors")), (
        "the checkpoint is kept"
    )
    pico.run("stages.run", f"tokenizer@{variant}", fresh=True)
    assert tree_digest(out) == whole
    assert curve.read_bytes() == whole_curve
