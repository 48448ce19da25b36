"""The GPU bench in its tiny mode: every part gives figures, and the search's answers are right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.gpu import PARTS, main

ROOT = Path(__file__).parents[2]

FIGURES = {
    "search": ("ours", "naive fp32", "cdist", "tf32", "ratio", "equal"),
    "assignment": ("ours", "blocks fp32", "tf32", "ratio", "equal"),
    "sampling": ("ours", "first"),
    "prior_loss": ("step", "plain"),
    "large_codebooks": ("step", "images_per_second", "ratio"),
    "training": ("step", "images_per_second"),
}


def test_every_part_is_named() -> None:
    assert FIGURES.keys() == PARTS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_the_tiny_mode_gives_figures(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(out=tmp_path / "gpu.json", only=[part], tiny=True)
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert set(content["versions"]) >= {"card", "torch"}
    rows, printed = content["parts"][part], capsys.readouterr().out
    assert rows
    for row in rows:
        assert row["case"] in printed
        for name in FIGURES[part]:
            assert isinstance(row[name], float), (name, row[name])
            assert row[name] > 0
        assert row.get("equal", 1.0) == 1.0


BARE = """
import importlib.machinery as machinery, runpy, sys
find = machinery.PathFinder.find_spec
def bare(name, path=None, target=None):
    return None if name.split(".")[0] in HIDDEN else find(name, path, target)
machinery.PathFinder.find_spec = bare
sys.argv = ["gpu", "--tiny"]
runpy.run_module("tests.bench.gpu", run_name="__main__")
"""
PACKAGES = {
    "PIL", "dvc", "faiss", "huggingface_hub", "jaxtyping", "lpips", "nltk", "open_clip", "psutil", "rich", "scipy",
    "sklearn", "spacy", "threadpoolctl", "torch_fidelity", "torchvision", "typer",
}  # fmt: skip
"""Import names of the other packages that vqpipe depends on."""


@pytest.mark.slow
def test_it_needs_five_packages_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"HIDDEN = {PACKAGES}\n{BARE}"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    missing = {word for word in PACKAGES if f"No module named '{word}" in done.stdout}
    assert missing <= {"faiss"}, done.stdout  # a peer
