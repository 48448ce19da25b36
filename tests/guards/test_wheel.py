"""The wheel contains what the library needs: it is built, installed alone into an empty venv, and imported there."""

import fnmatch
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_wheel_imports_in_an_empty_venv(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves folders behind, and would use those of an older one
    for folder in ("vqpipe", "stages", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    built = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(source),
    ]
    subprocess.run(built, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in project["tool"]["setuptools"]["package-data"]["vqpipe"]:
        assert fnmatch.filter(names, f"vqpipe/{pattern}"), f"{pattern} is not in the wheel"
    assert not any(n.startswith(("stages/", "tests/")) for n in names)
    # Nothing that a PYTHONPATH names may replace the wheel.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, cwd=tmp_path, env=own)
    code = "import vqpipe, vqpipe.errors; print(vqpipe.__version__, vqpipe.__file__)"
    shown = subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path, env=own
    ).stdout
    assert shown.startswith(project["project"]["version"])
    assert str(tmp_path) in shown
