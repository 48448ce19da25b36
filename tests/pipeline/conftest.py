"""A checkout of its own with the preset pico, where the whole pipeline has run once and DVC has recorded it: its first
stages run by DVC, most by name, the last by `stages.run --outdated`. Commands are forks where forks are possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.dvcfile import read_stages
from tests import forked

ROOT = Path(__file__).parents[2]
KILLER = """
import os, signal

replace, left = os.replace, int(os.environ["TEST_KILL_AT"])

def counted(source, target, **options):
    global left
    checkpoint = str(target).endswith("checkpoint.safetensors")
    left -= checkpoint
    if checkpoint and left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **options)

os.replace = counted
"""
"""A `sitecustomize` that kills its process where one checkpoint more than TEST_KILL_AT is about to get its name."""
BY_DVC = {"code", "dataset", "clip", "vocabulary"}
LAST = {"evaluate@lc", "prior@vq-gpt", "report"}
PARTS = (
    "vqpipe",
    "stages",
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    "artifacts/codebook/none",
    "pyproject.toml",
)


@dataclass
class Checkout:
    folder: Path

    def run(
        self, *words: str, check: bool = True, fresh: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a module with these words; `fresh` by a Python that has imported nothing and hashes strings anew."""
        python = Path(sys.executable) if fresh else forked.python()
        command = [str(python), "-m", *words]
        own = {k: v for k, v in os.environ.items() if k not in ("VQPIPE_WORKERS", "VQPIPE_SCRATCH")}
        own |= {
            "PYTHONPATH": str(self.folder),
            "PATH": f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        own |= {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", **env}
        done = subprocess.run(command, cwd=self.folder, env=own, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(words)} -> {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done

    def run_killed(self, own: Path, checkpoints: int, *words: str) -> None:
        """Run a command whose training is killed when it has written so many checkpoints and is writing another.

        Which checkpoint it is depends on no clock, so that the run can neither end first nor be killed too early.
        """
        (own / "sitecustomize.py").write_text(KILLER)
        path = f"{own}:{self.folder}"
        done = self.run(*words, check=False, PYTHONPATH=path, TEST_KILL_AT=str(checkpoints))
        assert done.returncode != 0, "the run ended before it was killed"
        assert "Traceback" not in done.stderr, done.stderr[-4000:]

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *words], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout


def make_checkout(folder: Path, preset: str) -> Checkout:
    folder.mkdir(parents=True)
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    checkout = Checkout(folder)
    checkout.git("init", "-q", "-b", "main")
    checkout.run("vqpipe.cli.app", "preset", preset, "--out", "params.yaml")
    checkout.run("dvc", "init", "-q")
    checkout.run("dvc", "config", "core.analytics", "false")
    checkout.git("add", "-A")
    checkout.git("commit", "-q", "-m", "start")
    return checkout


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = make_checkout(tmp_path_factory.mktemp("pipeline") / "repo", "pico")
    checkout.run("dvc", "repro", "vocabulary", "clip", VQPIPE_WORKERS="2")
    names = [name for name in read_stages(checkout.folder) if name not in {*BY_DVC, *LAST}]
    checkout.run("stages.run", *names, VQPIPE_WORKERS="2")
    # All at once: DVC writes the whole of dvc.lock again for each call, which takes it seconds.
    checkout.run("dvc", "commit", "-q", "--force", *names)
    checkout.run("stages.run", "--outdated", "--jobs", "1", VQPIPE_WORKERS="2")
    ran = {path.stem for path in (checkout.folder / ".scratch/logs/stages").iterdir()}
    assert ran == LAST, "what DVC has recorded is not outdated"
    checkout.git("add", "-A")
    checkout.git("commit", "-q", "-m", "ran")
    return checkout
