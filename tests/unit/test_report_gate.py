"""Deltas of metrics and gates on them."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from vqpipe.errors import ArtifactError, MismatchError, ParamsError
from vqpipe.report.gate import Delta, breaches, deltas, flatten, parse_gate, read_metrics, table

A = {"tokenizer.lc.psnr": 20.0, "tokenizer.lc.ssim": 0.5, "zero": 0.0}
B = {"tokenizer.lc.psnr": 19.7, "tokenizer.lc.ssim": 0.5, "zero": 1.0}


def broken(*gates: str) -> list[str]:
    return breaches([parse_gate(text) for text in gates], deltas(A, B))


@pytest.mark.parametrize(
    ("gate", "breached"),
    [
        ("tokenizer.lc.psnr<-0.2", True),
        ("tokenizer.lc.psnr<-0.4", False),
        ("tokenizer.lc.psnr < -.2", True),
        ("tokenizer.lc.psnr>-0.4", True),
        ("tokenizer.lc.psnr<-1%", True),
        ("tokenizer.lc.psnr<-2%", False),
        ("tokenizer.lc.ssim<0", False),
        ("tokenizer.lc.ssim<=0", True),
        ("tokenizer.lc.ssim>=0", True),
        ("tokenizer.lc.ssim>0", False),
        ("zero>1e6%", True),
        ("zero>2e0", False),
    ],
)
def test_gates(gate: str, breached: bool) -> None:
    assert bool(broken(gate)) is breached


def test_a_breach_names_both_values() -> None:
    assert broken("tokenizer.lc.psnr<-0.2") == [
        "tokenizer.lc.psnr<-0.2: tokenizer.lc.psnr went from 20 to 19.7 (-0.3)"
    ]
    assert broken("tokenizer.lc.psnr<-1%", "tokenizer.lc.ssim<0")[0].endswith("(-1.5%)")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "psnr",
        "psnr<",
        "<1",
        "psnr=1",
        "psnr==1",
        "psnr<x",
        "psnr<1%%",
        "a b<1",
        "psnr<nan",
        "psnr!=1",
        "!=",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ParamsError, match=r"(?s)dotted name.*for example"):
        parse_gate(text)


def test_an_unknown_metric_gets_a_suggestion() -> None:
    with pytest.raises(
        ParamsError,
        match=r"(?s)no metric tokenizer\.lc\.psnrr; did you mean tokenizer\.lc\.psnr\?.*choices:.*ssim",
    ):
        broken("tokenizer.lc.psnrr<0")
    with pytest.raises(ParamsError, match=r"choices: +tokenizer\.lc, zero"):
        broken("nothing.like.it<0")


def test_a_metric_of_one_side_has_no_change() -> None:
    with pytest.raises(MismatchError, match="only in A"):
        breaches([parse_gate("x<0")], deltas({"x": 1.0}, {}))
    with pytest.raises(MismatchError, match="only in B"):
        breaches([parse_gate("x<0")], deltas({}, {"x": 1.0}))


def test_flatten_keeps_finite_numbers_and_text() -> None:
    nested = {"b": {"c": 1, "d": "text", "e": None, "f": True}, "a": [1.5, {"x": 2}], "n": math.inf}
    assert flatten(nested) == {"a.0": 1.5, "a.1.x": 2.0, "b.c": 1.0, "b.d": "text", "b.f": "true"}


@pytest.mark.parametrize(
    ("gate", "breached"),
    [("judge!=", True), (" judge != ", True), ("same!=", False), ("x!=", True), ("y!=", False)],
)
def test_any_change_of_text_or_number_can_be_gated(gate: str, breached: bool) -> None:
    a = {"judge": "clip a", "same": "ema", "x": 1.0, "y": 2.0}
    found = breaches([parse_gate(gate)], deltas(a, a | {"judge": "clip b", "x": 1.5}))
    assert bool(found) is breached
    if "judge" in gate:
        assert found == [f"{gate.strip()}: judge went from clip a to clip b"]


def test_a_bound_on_text_is_refused_with_the_gate_that_takes_it() -> None:
    for b in ("clip b", 1.0):
        with pytest.raises(MismatchError, match=r"(?s)judge is text.*clip a in A.*judge!="):
            breaches([parse_gate("judge<0")], deltas({"judge": "clip a"}, {"judge": b}))


def test_changed_text_is_shown_and_metrics_of_one_side_are_counted_and_named() -> None:
    a = {"judge": "clip a", "same": "ema", "gone": 1.0, "lost": "x"}
    text = table(deltas(a, {"judge": "clip b", "same": "ema", "new": 2.0}))
    assert [line.split() for line in text.splitlines() if line.startswith("judge")] == [
        ["judge", "clip", "a", "clip", "b", "-", "-"]
    ]
    assert text.splitlines()[-3:] == [
        "1 metrics are equal in both", "only in A: 2 metrics, such as gone", "only in B: 1 metrics, such as new"
    ]  # fmt: skip
    assert {line.split()[0] for line in text.splitlines()} >= {"gone", "lost", "new"}


def test_percent_of_negative_and_zero_bases() -> None:
    assert Delta("x", -2.0, -1.0).percent == 50.0
    assert Delta("x", 0.0, 0.0).percent == 0.0
    assert Delta("x", 0.0, -1.0).percent == -math.inf
    assert Delta("x", None, 1.0).percent is None


def test_the_table_shows_what_changed() -> None:
    text = table(deltas(A, {**B, "new": 3.0}))
    assert "tokenizer.lc.ssim" not in text
    assert "1 metrics are equal in both" in text
    assert [line.split() for line in text.splitlines() if line.startswith("new")] == [
        ["new", "-", "3", "-", "-"]
    ]
    assert [line.split() for line in text.splitlines() if "psnr" in line] == [
        ["tokenizer.lc.psnr", "20", "19.7", "-0.3", "-1.50%"]
    ]
    assert "tokenizer.lc.ssim" in table(deltas(A, B), everything=True)
    assert table(deltas(A, A)) == "3 metrics are equal in both"


def test_files_and_mistakes(tmp_path: Path) -> None:
    good = tmp_path / "m.json"
    good.write_text(json.dumps({"x": {"y": 1}}))
    assert read_metrics(str(good), Path("unused")) == {"x.y": 1.0}
    good.write_bytes(b'\xef\xbb\xbf{"x": 1' + b"0" * 400 + b', "y": NaN, "z": 2}')
    assert read_metrics(str(good), Path("unused")) == {"z": 2.0}
    for content, message in [("{", "as JSON"), ("[1]", "not a JSON object"), ("[" * 100_000, "as JSON")]:
        good.write_text(content)
        with pytest.raises(ArtifactError, match=message):
            read_metrics(str(good), Path("unused"))


def test_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init", "-b", "main")
    path = Path("inner/metrics.json")
    path.parent.mkdir()
    path.write_text('{"x": 1}')
    git("add", "-A")
    git("commit", "-m", "one")
    path.write_text('{"x": 2}')
    git("commit", "-am", "two")
    assert read_metrics("HEAD~1", path) == {"x": 1.0}
    assert read_metrics("main", path) == {"x": 2.0}
    monkeypatch.chdir(tmp_path / "inner")
    assert read_metrics("HEAD", Path("metrics.json")) == {"x": 2.0}
    with pytest.raises(ArtifactError, match=r"HEAD has no gone\.json"):
        read_metrics("HEAD", Path("gone.json"))
    git("update-ref", f"refs/exps/ab/{'c' * 38}/wider", "HEAD~1")
    assert read_metrics("wider", Path("metrics.json")) == {"x": 1.0}
    git("update-ref", f"refs/exps/cd/{'e' * 38}/wider", "HEAD")
    for revision in ("no-such-branch", "--output=x", "", "wider"):
        with pytest.raises(ArtifactError, match="neither a metrics file nor a git revision"):
            read_metrics(revision, path)
    assert not (tmp_path / "inner" / "x").exists()
