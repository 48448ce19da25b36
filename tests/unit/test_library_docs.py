"""docs/library.md: its snippets and commands run, from the first to the last, in a folder with what they name."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from tests import prior_folders
from tests.foreign_vqgan import make_config, make_state
from tests.tiny import write_dataset, write_tokenizer
from vqpipe.cli.app import app
from vqpipe.data.adapters.scenes import CLASSES

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs/library.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    monkeypatch.setenv("VQPIPE_DEVICE", "cpu")
    monkeypatch.setattr(prior_folders, "CLASSES", CLASSES)  # those of the default run
    write_dataset(tmp_path / "artifacts", {"train": 2, "validation": 2, "test": 5})
    write_tokenizer(tmp_path / "artifacts/tokenizer/vq")
    prior_folders.write_prior(tmp_path, "vq-gpt")
    (tmp_path / "shared").mkdir()  # as the command of the README leaves it
    (tmp_path / "shared/manifest.json").write_text('{"spec": "exported-prior"}')
    config = make_config()
    torch.save({"state_dict": make_state(config)}, tmp_path / "last.ckpt")
    with (tmp_path / "model.yaml").open("w") as stream:
        YAML().dump(config, stream)
    logging.disable()  # pytest asks for every log, and torch's exporter writes many
    commands, names = [], {}  # names of all snippets, the latest of each
    try:
        for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            if language == "python":
                own: dict[str, Any] = {}
                exec(compile(text, str(PAGE), "exec"), own)
                names |= own
                continue
            for line in text.splitlines():
                program, *words = shlex.split(line)
                assert program == "vqpipe"
                done = CliRunner().invoke(app, words)
                assert done.exit_code == 0, f"{line}\n{done.output}"
                commands.append(words[0])
    finally:
        logging.disable(logging.NOTSET)
    assert commands == [
        "export", "sample", "complete", "export", "sample", "tokenize", "detokenize", "import", "evaluate",
        "bench-tokenizers",
    ]  # fmt: skip
    assert names["filled"].shape == (5, 3, 16, 16)
    assert names["indices"].shape == (5, 1, 4, 4)
    assert {one.metric_type for one in names["results"]} >= {"psnr", "psnr_y", "bits_per_pixel"}
    assert np.array(Image.open(tmp_path / "again/0.png")).shape == (16, 16, 3)
