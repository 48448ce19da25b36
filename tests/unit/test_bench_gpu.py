"""The GPU bench in its tiny mode: every part gives figures, and the search's answers are right."""

import json
from pathlib import Path

import pytest

from tests.bench.gpu import PARTS, main

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
