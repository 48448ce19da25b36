"""`vqpipe artifacts verify`: every damage is one line with the command that mends it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from stages.dvcfile import read_stages
from vqpipe.artifacts import verify as module
from vqpipe.artifacts.lineage import Lineage
from vqpipe.artifacts.publish import (
    MANIFEST,
    file_digest,
    publish_folder,
    publish_json,
    publish_sealed,
    publish_text,
    tree_digest,
)
from vqpipe.artifacts.seal import SEAL, UNSEALED, sealed_text
from vqpipe.artifacts.spec import FolderSpec
from vqpipe.artifacts.specs.codebooks import ADJECTIVES, NOUNS, PAIRS, VOCABULARY
from vqpipe.artifacts.specs.exported import DECODED
from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK, TOKENIZER, WEIGHTS
from vqpipe.artifacts.specs.tokens import CODES
from vqpipe.artifacts.tables import stream_table, to_table, write_table
from vqpipe.artifacts.tensors import write_tensors
from vqpipe.artifacts.verify import MAX_LINES, Verified, verify
from vqpipe.cli.app import app
from vqpipe.errors import ArtifactError
from vqpipe.params.names import NAMED, PER_TOKENIZER

ROW = {"image_id": "a", "split": "train", "label": 0, "indices": [1, 2]}


def write_metrics(path: Path, content: dict[str, object], **beside: str) -> None:
    """Metrics as a stage publishes them: the seal names what was published with them."""
    named = "".join(f" {name}:{digest[:16]}" for name, digest in sorted(beside.items()))
    text = json.dumps({**content, SEAL: UNSEALED + named}, sort_keys=True, indent=2)
    publish_text(path, sealed_text(text))


def write_lineage(path: Path, stage: str) -> None:
    sidecar = path.with_name(f"{path.name}.lineage.json")
    lineage = Lineage(stage, {}, {}, {}, tree_digest(path), False, {})
    publish_sealed(sidecar, asdict(lineage))


def write_tokenizer(root: Path, name: str, seed: int) -> Path:
    """A tokenizer with its metrics, curves and sidecars."""
    folder = root / "tokenizer" / name
    with publish_folder(folder, TOKENIZER, {"seed": seed}) as partial:
        write_tensors(partial / "model.safetensors", WEIGHTS, {"a": torch.arange(50.0) + seed})
    curves = root / f"curves/tokenizer/{name}.csv"
    publish_text(curves, f"step,loss\n0,{seed}.5\n")
    write_metrics(
        root / f"metrics/tokenizer/{name}.json", {"psnr": 20.5 + seed},
        tokenizer=tree_digest(folder), curves=file_digest(curves),
    )  # fmt: skip
    write_lineage(folder, "tokenizer")
    publish_sealed(folder.with_name(f"{name}.cost.json"), {"seconds": 1.5})
    return folder


def write_vocabulary(root: Path, count: int = 3) -> None:
    with publish_folder(root / "vocabulary", VOCABULARY, {}) as partial:
        for spec in (ADJECTIVES, NOUNS):
            write_table(
                partial / f"{spec.name}.parquet",
                spec,
                to_table(spec, [{"index": 0, "word": "red", "count": count}]),
            )
        write_table(partial / "pairs.parquet", PAIRS, to_table(PAIRS, []))
    write_lineage(root / "vocabulary", "vocabulary")
    write_metrics(root / "metrics/vocabulary.json", {"words": 2}, vocabulary=tree_digest(root / "vocabulary"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of artifacts of every kind, all as written."""
    root = tmp_path / "artifacts"
    for seed, name in enumerate(("lc", "vq+lg")):
        write_tokenizer(root, name, seed)
    write_vocabulary(root)
    with publish_folder(root / "prior/none", NO_CODEBOOK, {}):
        pass
    with publish_folder(root / "pictures", DECODED, {}) as partial:
        (partial / "a.png").write_bytes(b"\x89PNG")
    with stream_table(root / "mine/t.parquet", CODES) as append:
        append(to_table(CODES, [ROW]))
    (root / "hub").mkdir()
    write_tensors(root / "hub/model.safetensors", WEIGHTS, {"a": torch.zeros(8)}, sealed=True)
    publish_json(root / "hub/config.json", {"library_name": "vqpipe"})
    publish_text(root / "report/index.html", "<!doctype html>")
    write_lineage(root / "report/index.html", "report")
    write_metrics(root / "report/metrics.json", {"x": 1})
    return root


def problems(*paths: Path) -> list[str]:
    return verify(paths).text().splitlines()[:-1]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["artifacts", "verify", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_what_is_as_written_is_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verify([root])
    assert problems(root) == []
    assert found.artifacts == 5
    assert found.unsealed == [root / "hub/config.json"]
    sealed = [p for p in root.rglob("*") if p.is_file() and p.name != "config.json"]
    assert (found.files, found.bytes) == (len(sealed), sum(p.stat().st_size for p in sealed))
    monkeypatch.chdir(root.parent)
    code, output = run()
    assert code == 0
    assert output.startswith("5 artifacts, ")
    assert "all as written; 1 file has no checksum (1 .json, such as hub/config.json)" in output


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "weights": (
        lambda root: flip(root / "tokenizer/lc/model.safetensors"),
        r"lc/model\.safetensors is damaged.*found: SHA-256.*expected: SHA-256",
        r"dvc checkout \S+/tokenizer/lc; or dvc repro -s -f tokenizer@lc",
    ),
    "cut table": (
        lambda root: (root / "vocabulary/nouns.parquet").write_bytes(b"PAR1"),
        "nouns.parquet does not match its manifest.*found: 4 bytes.*expected: [0-9]+ bytes",
        r"dvc checkout \S+/vocabulary; or dvc repro -s -f vocabulary",
    ),
    "lost file": (
        lambda root: (root / "vocabulary/nouns.parquet").unlink(),
        "nouns.parquet does not match its manifest.*found: no file",
        "dvc repro -s -f vocabulary",
    ),
    "file too many": (
        lambda root: (root / "tokenizer/lc/more.txt").write_text("x"),
        "more.txt is not in its folder's manifest",
        "dvc repro -s -f tokenizer@lc",
    ),
    "folder of a tool": (
        lambda root: flip(root / "pictures/a.png"),
        "a.png is damaged",
        "vqpipe detokenize",
    ),
    "committed folder": (
        lambda root: (root / "prior/none/x").write_text(""),
        "x is not in its folder's manifest",
        r"git checkout \S+/prior/none",
    ),
    "table in no folder": (
        lambda root: flip(root / "mine/t.parquet"),
        r"t\.parquet is damaged",
        "vqpipe tokenize",
    ),
    "cut table in no folder": (
        lambda root: (root / "mine/t.parquet").write_bytes(b"PAR1"),
        r"t\.parquet carries no checksum",
        "vqpipe tokenize",
    ),
    "tensors in no folder": (
        lambda root: flip(root / "hub/model.safetensors"),
        r"hub/model\.safetensors is damaged",
        "save_pretrained",
    ),
    "unsealed tensors": (
        lambda root: write_tensors(root / "hub/model.safetensors", WEIGHTS, {"a": torch.zeros(8)}),
        r"hub/model\.safetensors carries no checksum",
        "save_pretrained",
    ),
    "curves": (
        lambda root: flip(root / "curves/tokenizer/vq+lg.csv"),
        r"vq\+lg\.json is not of \S+/curves/tokenizer/vq\+lg\.csv.*found: \S+ is .*expected: .*the seal",
        r"git checkout \S+/metrics/tokenizer/vq\+lg\.json, or dvc repro -s -f tokenizer@vq\+lg",
    ),
    "lost curves": (
        lambda root: (root / "curves/tokenizer/lc.csv").unlink(),
        r"curves/tokenizer/lc\.csv is not there, and \S+/metrics/tokenizer/lc\.json is",
        "dvc repro -s -f tokenizer@lc",
    ),
    "curves without metrics": (
        lambda root: (root / "metrics/tokenizer/lc.json").unlink(),
        r"lc\.csv: the metrics of its stage are not there",
        "dvc repro -s -f tokenizer@lc",
    ),
    "metrics": (
        lambda root: flip(root / "metrics/vocabulary.json"),
        r"metrics/vocabulary\.json is damaged",
        r"git checkout \S+/metrics/vocabulary.json, or dvc repro -s -f vocabulary",
    ),
    "page": (
        lambda root: flip(root / "report/index.html"),
        r"index\.html does not match its lineage",
        "dvc repro -s -f report",
    ),
    "lost output": (
        lambda root: (root / "report/index.html").unlink(),
        r"lineage\.json: its output is not there.*found: no",
        "dvc repro -s -f report",
    ),
    "lineage": (
        lambda root: flip(root / "vocabulary.lineage.json"),
        r"vocabulary\.lineage\.json(: cannot be read as JSON| is damaged)",
        r"rm (\S+/vocabulary\.lineage\.json) && dvc checkout \1",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_each_damage_is_one_line_with_its_command(root: Path, what: str) -> None:
    damage, problem, command = DAMAGES[what]
    damage(root)
    assert problems(root), what
    lines = [line for line in problems(root) if re.search(problem, line)]
    assert len(lines) == 1, problems(root)
    assert re.search(rf"\| run: .*{command}", lines[0]), lines[0]
    code, output = run(root)
    assert code == 2
    assert lines[0] in output.splitlines()
    assert output.splitlines()[-1].split(": ")[1].startswith(f"{len(problems(root))} wrong")


def test_every_damage_is_found_at_once(root: Path) -> None:
    alone = ("weights", "lost file", "folder of a tool", "table in no folder", "curves", "page", "lineage")
    for what in alone:
        DAMAGES[what][0](root)
    assert len(problems(root)) == len(alone)


def test_a_damaged_manifest_is_one_problem_of_its_folder_and_named_by_its_sidecar(root: Path) -> None:
    (root / "tokenizer/lc" / MANIFEST).write_text("{")
    assert len(problems(root / "vocabulary")) == 0
    lines = problems(root / "tokenizer/lc")
    assert any("cannot be read as JSON" in line and "dvc checkout" in line for line in lines)


def test_another_version_and_an_unknown_spec_are_problems(root: Path) -> None:
    for name, spec in (
        ("old", FolderSpec("tokenizer", 99, stage="tokenizer")),
        ("far", FolderSpec("unheard-of", 1, stage="x")),
    ):
        with publish_folder(root / "tokenizer" / name, spec, {}):
            pass
    old, far = problems(root / "tokenizer/old"), problems(root / "tokenizer/far")
    assert len(old) == len(far) == 1
    assert "found: tokenizer v99 | expected: tokenizer v2" in old[0]
    assert "does not know its spec | found: unheard-of v1" in far[0]


def test_metrics_of_another_version_of_their_artifact_are_a_problem(root: Path) -> None:
    kept = (root / "metrics/tokenizer/lc.json").read_bytes(), (root / "curves/tokenizer/lc.csv").read_bytes()
    write_tokenizer(root, "lc", 7)
    assert problems(root) == []
    (root / "metrics/tokenizer/lc.json").write_bytes(kept[0])
    (root / "curves/tokenizer/lc.csv").write_bytes(kept[1])
    (line,) = problems(root)
    assert re.search(r"tokenizer/lc\.json is not of \S+/tokenizer/lc ", line)
    assert "dvc repro -s -f tokenizer@lc" in line
    old = (root / "metrics/vocabulary.json").read_bytes()
    write_vocabulary(root, 4)
    (root / "metrics/vocabulary.json").write_bytes(old)
    assert any(re.search(r"vocabulary\.json is not of \S+/vocabulary ", line) for line in problems(root))


def test_metrics_whose_artifact_is_not_here_are_no_problem(root: Path) -> None:
    for path in sorted((root / "tokenizer").rglob("*"), reverse=True):
        if "lc" in path.as_posix().removeprefix(str(root)):
            path.unlink() if path.is_file() else path.rmdir()
    assert problems(root) == []


def test_what_killed_processes_left_is_a_problem_and_what_is_at_work_is_none(root: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    (root / f"tokenizer/.lc.partial-{done.pid}").mkdir()
    (root / f"tokenizer/.vq+lg.json.partial-{os.getppid()}").write_text("half")
    for path in (root, root / "tokenizer/lc"):
        (line,) = problems(path)
        assert f".lc.partial-{done.pid} was left by a process that was killed | run: rm -r " in line


def test_a_path_may_be_a_file(root: Path) -> None:
    files = [
        "tokenizer/lc/model.safetensors", f"tokenizer/lc/{MANIFEST}", "tokenizer/lc.lineage.json",
        "metrics/tokenizer/lc.json", "curves/tokenizer/lc.csv", "mine/t.parquet", "hub/model.safetensors",
    ]  # fmt: skip
    for name in files:
        assert problems(root / name) == [], name
        kept = (root / name).read_bytes()
        flip(root / name)
        assert len(problems(root / name)) == 1, name
        (root / name).write_bytes(kept)


def test_an_artifact_is_verified_with_its_sidecars(root: Path) -> None:
    flip(root / "vocabulary.lineage.json")
    assert len(problems(root / "vocabulary")) == 1
    assert problems(root / "tokenizer") == []


def test_every_flipped_bit_of_an_artifact_is_found(root: Path) -> None:
    drawn = random.Random(0)
    for path in sorted((root / "tokenizer/lc").iterdir()):
        content = path.read_bytes()
        for _ in range(100):
            at = drawn.randrange(len(content))
            path.write_bytes(
                content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]
            )
            assert verify([root / "tokenizer/lc"]).problems
        path.write_bytes(content)
    assert problems(root) == []


def test_a_file_that_the_system_cannot_read_is_a_problem_like_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = module.file_digest

    def refused(path: Path) -> str:
        if path.name == "model.safetensors" and "lc" in path.parts:
            raise OSError(5, "Input/output error")
        return given(path)

    monkeypatch.setattr(module, "file_digest", refused)
    flip(root / "vocabulary/nouns.parquet")
    lines = problems(root)
    assert len(lines) == 2
    assert "cannot be read | found: Input/output error | run: " in lines[0]


def test_an_artifact_that_is_replaced_meanwhile_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, replaced = module.file_digest, []

    def replacing(path: Path) -> str:
        if not replaced and path.name == "model.safetensors":
            replaced.append(path)
            write_tokenizer(root, "lc", 5)
        return given(path)

    monkeypatch.setattr(module, "file_digest", replacing)
    assert problems(root / "tokenizer/lc/") == []
    assert replaced


def test_nothing_to_verify_is_an_error(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        verify([tmp_path / "gone"])
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/notes.txt").write_text("x")
    with pytest.raises(ArtifactError, match="carries a checksum"):
        verify([tmp_path / "plain"])
    assert run(tmp_path / "gone")[0] == 2


def test_links_that_go_round_end(root: Path) -> None:
    (root / "again").symlink_to(root)
    (root / "mine/up").symlink_to(root)
    assert verify([root]).artifacts == 5


def test_the_output_is_bounded_and_counts_the_rest() -> None:
    found = Verified(problems=[ArtifactError(f"{at} is wrong") for at in range(MAX_LINES + 3)])
    lines = found.text().splitlines()
    assert len(lines) == MAX_LINES + 2
    assert lines[MAX_LINES] == "… and 3 more"
    assert f"{MAX_LINES + 3} wrong" in lines[-1]


def test_the_stages_of_variants_are_those_of_dvc_yaml() -> None:
    stages = read_stages(Path(__file__).parents[2])
    assert {*NAMED, *PER_TOKENIZER} == {name.split("@")[0] for name in stages if "@" in name}
