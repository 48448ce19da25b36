"""The GPU bench in its tiny mode: every part gives figures, and the search's answers are right."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.bench.gpu import ON_REQUEST, PARTS, main, shown
from tests.bench.gpu_search import chunked, exact, naive, vector_quantize
from tests.bench.gpu_timing import DEVICE, LIMIT, Case, Row, measured

ROOT = Path(__file__).parents[2]

FIGURES = {
    "search": ("ours", "naive fp32", "cdist", "vector-quantize-pytorch", "tf32", "ratio", "equal"),
    "assignment": ("ours", "blocks fp32", "tf32", "ratio", "equal"),
    "sampling": ("ours", "first"),
    "prior_loss": ("step", "plain"),
    "large_codebooks": ("step", "images_per_second", "ratio"),
    "training": ("step", "images_per_second"),
    "layouts": ("step", "images_per_second"),
}


def test_every_part_is_named() -> None:
    assert FIGURES.keys() == PARTS.keys()


def test_a_run_takes_at_most_8_minutes_by_its_own_account() -> None:
    allotted = {name: sum(case.allotted for case in part(False)) for name, (part, _) in PARTS.items()}
    assert sum(taken for name, taken in allotted.items() if name not in ON_REQUEST) <= LIMIT < 8 * 60
    assert all(allotted[name] <= LIMIT for name in ON_REQUEST)


def test_the_compiled_step_is_timed_in_both_layouts() -> None:
    names = ["batch 8, bf16, compile", "batch 8, bf16, channels_last, compile"]
    assert [case.name for case in PARTS["layouts"][0](False)] == names


def test_the_rows_of_training_have_their_goals() -> None:
    goals = {
        name: {case.name: case.goal["goal"] for case in PARTS[name][0](False) if case.goal}
        for name in ("large_codebooks", "training")
    }
    assert goals == {
        "large_codebooks": {"K 100,000": 1.05},
        "training": {"batch 32, fp32": 120, "batch 8, bf16, compile": 150, "batch 32, fp32, compile": 120},
    }


def test_a_row_is_left_out_where_its_seconds_are_not_left() -> None:
    def work() -> Row:
        done.append(True)
        return {"step": 0.25}

    done: list[bool] = []
    case = Case("K 8", 10, work, {"goal": 1.05})
    row = measured(case, 9.6)
    assert (done, row) == ([], {"case": "K 8", "left out": "10 s allotted, 9 s left"})
    assert shown("training", row).endswith(" left out 10 s allotted, 9 s left")
    row = measured(case, 10)
    assert done
    assert list(row) == ["case", "step", "goal", "took"]
    assert "step 250 ms | goal 1.050 | took 0.0" in shown("training", row)


def test_peers_search_the_codes_that_they_are_given() -> None:
    draw = torch.Generator(DEVICE).manual_seed(0)
    z, codes = (torch.randn(n, 8, device=DEVICE, generator=draw) for n in (50, 300))
    expected = exact(z, codes)
    assert len(expected.unique()) > 25
    for found in (naive(z, codes), chunked(z, codes), vector_quantize(codes)(z)):
        assert torch.equal(found, expected)


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


NEEDED = {"torch", "numpy", "pydantic", "ruamel.yaml", "safetensors", "pyarrow"}
PEERS = {
    "cuvs": "cuvs", "faiss": "faiss", "transformers": "gpt2 static",
    "vector_quantize_pytorch": "vector-quantize-pytorch",
}  # fmt: skip
"""Import names of packages that are compared with where they are installed, and their cells."""
BARE = """
import importlib.machinery as machinery, runpy, sys
find = machinery.PathFinder.find_spec
def bare(name, path=None, target=None):
    own = name.split(".")[0] in ALLOWED or name.startswith("_sysconfigdata")  # a file of Python's own, by platform
    return find(name, path, target) if own else None
machinery.PathFinder.find_spec = bare
sys.argv = ["gpu", "--tiny", "--out", OUT]
runpy.run_module("tests.bench.gpu", run_name="__main__")
"""
"""Runs the bench where only modules of `ALLOWED` can be imported."""


def required(packages: set[str]) -> set[str]:
    """The packages with all that they require here, by their canonical names."""
    found: set[str] = set()
    left = [Requirement(name) for name in packages]
    while left:
        wanted = left.pop()
        for extra in {"", *wanted.extras}:
            if (name := f"{canonicalize_name(wanted.name)}[{extra}]") in found:
                continue
            found.add(name)
            for text in requires(wanted.name) or ():
                part = Requirement(text)
                if part.marker is None or part.marker.evaluate({"extra": extra}):
                    left.append(part)
    return {name.split("[")[0] for name in found}


@pytest.mark.slow
def test_it_needs_six_packages_alone(tmp_path: Path) -> None:
    packages = required(NEEDED)
    names = {
        name
        for name, owners in packages_distributions().items()
        if packages & {*map(canonicalize_name, owners)}
    }
    assert names.isdisjoint({"PIL", "jaxtyping", "timm", "torchvision", *PEERS})  # some of what is hidden
    allowed = names | sys.stdlib_module_names | {"tests", "vqpipe"}
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-c", f"ALLOWED, OUT = {allowed}, {str(out)!r}\n{BARE}"], cwd=ROOT, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    missing = set(re.findall(r"No module named '(\w+)", done.stdout))
    assert missing <= PEERS.keys(), done.stdout
    for part, rows in json.loads(out.read_text())["parts"].items():
        for row in rows:
            for name in FIGURES[part]:
                assert name in PEERS.values() or isinstance(row[name], float), row
