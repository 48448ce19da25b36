"""The training half runs by `python -m stages.run` where DVC, spaCy and faiss are not installed."""

from pathlib import Path

import pytest

from tests.pipeline.conftest import Checkout
from vqpipe.artifacts.publish import tree_digest

pytestmark = pytest.mark.pipeline

BLOCKER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dvc", "spacy", "faiss"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_tokenizer_and_tokens_and_prior_run_to_the_same_bytes(pico: Checkout, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    path = f"{tmp_path}:{pico.folder}"
    blocked = pico.run("faiss", check=False, fresh=True, PYTHONPATH=path)
    assert blocked.returncode != 0, "the blocker must hide what it names"
    outs = [pico.folder / "artifacts" / out for out in ("tokenizer/lc", "tokens/lc", "prior/lc-gpt-map")]
    before = [tree_digest(out) for out in outs]
    pico.run("stages.run", "tokenizer@lc", "tokens@lc", "prior@lc-gpt-map", fresh=True, PYTHONPATH=path)
    assert [tree_digest(out) for out in outs] == before


def test_a_stage_that_needs_faiss_says_so(pico: Checkout, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    params = tmp_path / "params.yaml"
    text = (pico.folder / "params.yaml").read_text()
    params.write_text(text.replace("algorithm: torch", "algorithm: faiss"))
    assert params.read_text() != text
    command = [
        "--params",
        str(params),
        *(w for name in ("out", "metrics", "curves") for w in (f"--{name}", str(tmp_path / name))),
    ]
    done = pico.run(
        "stages.cluster", *command, check=False, fresh=True, PYTHONPATH=f"{tmp_path}:{pico.folder}"
    )
    assert done.returncode == 2
    assert "faiss" in done.stderr
    assert "Traceback" not in done.stderr
