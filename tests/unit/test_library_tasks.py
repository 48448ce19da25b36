"""Tasks in Python and on the command line: what a head says of any image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.small_training import CPU
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip, write_tokenizer
from vqpipe.cli.app import app
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.library.tasks import ImageTask
from vqpipe.params.base import validate
from vqpipe.tasks import TASKS
from vqpipe.tasks.solve import solve_task
from vqpipe.tasks.task import task_entry
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.vision.clip import Clip

COMMON = {
    "tokenizer": "vq", "training": {**TOKENIZER["training"], "num_steps": 60, "batch_size": 16, "learning_rate": 0.05},
    "seed": 0, "num_images": None, "batch_size": 16, "num_bootstrap": 100, "num_pictures": 0,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of a run in which the toy task tells dark images from light ones."""
    monkeypatch.setitem(TASKS._places, "class_label", "tests.toy_task:ClassLabel")
    dataset = write_dataset(tmp_path, {"train": 64, "validation": 2, "test": 8})
    clip = Clip.load(write_tiny_clip(tmp_path / "clip"))
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(tmp_path / "tokenizer/vq"))
    config = validate(task_entry(COMMON, {"kind": "class_label"}), "task", TASKS.params())
    (tmp_path / "scratch").mkdir()
    solve_task(
        config,
        tokenizer,
        None,
        dataset,
        clip,
        scratch=tmp_path / "scratch",
        curves=None,
        device=CPU,
        title="toy",
    ).write(tmp_path / "task/vq-class_label")
    return tmp_path


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((40, 30, 3), level, dtype=np.uint8))


def test_a_task_answers_about_any_image(run: Path) -> None:
    task = ImageTask.from_pretrained(run / "task/vq-class_label")
    both = task.answer([picture(10), picture(245)])
    assert sorted(both) == ["class 0", "class 1"]
    assert task.answer(picture(10)) == both[:1]
    with pytest.raises(MismatchError, match="takes no text"):
        task.answer(picture(10), "which class?")


def test_the_command_prints_a_line_for_each_image(run: Path) -> None:
    picture(10).save(run / "dark.png")
    picture(245).save(run / "light.png")
    said = CliRunner().invoke(
        app,
        ["ask", str(run / "dark.png"), str(run / "light.png"), "--task", str(run / "task/vq-class_label")],
    )
    assert said.exit_code == 0, said.output
    assert [line.rpartition(": ")[2] for line in said.output.splitlines()] == ImageTask.from_pretrained(
        run / "task/vq-class_label"
    ).answer([picture(10), picture(245)])


def test_what_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(ArtifactError, match="did you mean vq-class_label"):
        ImageTask.from_pretrained(run / "task/vq-class_labels")
    (run / "tokenizer/vq").rename(run / "elsewhere")
    with pytest.raises(ArtifactError, match="--tokenizer"):
        ImageTask.from_pretrained(run / "task/vq-class_label")
    ImageTask.from_pretrained(run / "task/vq-class_label", tokenizer=run / "elsewhere")


def test_a_name_is_looked_for_below_artifacts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "artifacts").symlink_to(run)
    monkeypatch.chdir(run)
    for given in ("vq-class_label", Path("vq-class_label"), "task/vq-class_label"):
        ImageTask.from_pretrained(given)
    ImageTask.from_pretrained("vq-class_label", tokenizer="vq")
    with pytest.raises(ArtifactError, match="there is no tokenizer vqq; did you mean vq"):
        ImageTask.from_pretrained("vq-class_label", tokenizer="vqq")
    for given in ("vq-class_labels", "task/vq-class_labels"):
        with pytest.raises(ArtifactError, match="did you mean vq-class_label") as raised:
            ImageTask.from_pretrained(given)
        assert "Hub" not in str(raised.value), "no task is there"
        assert "dvc repro task" in str(raised.value)
    with pytest.raises(ArtifactError, match="dvc repro task"):
        ImageTask.from_pretrained("owner/name")
