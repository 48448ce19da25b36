from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vqpipe.metrics.caption_scores as module
from vqpipe.errors import DataError, SetupError
from vqpipe.metrics.caption_scores import CaptionScores, caption_scores, need_java

RECORDED = json.loads((Path(__file__).parents[1] / "data/caption_scores.json").read_text(encoding="utf-8"))
WITHOUT_JAVA = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not on the search path")


def scores(*pairs: tuple[str, list[str]]) -> CaptionScores:
    return caption_scores([one for one, _ in pairs], [many for _, many in pairs], java=False)


def assert_recorded(found: CaptionScores, names: tuple[str, ...]) -> None:
    assert tuple(found.corpus) == tuple(found.per_example) == names
    for name in names:
        assert found.corpus[name] == pytest.approx(RECORDED["corpus"][name], abs=1e-9), name
        np.testing.assert_allclose(found.per_example[name], RECORDED["per_example"][name], rtol=0, atol=1e-9)
        assert found.per_example[name].dtype == np.float64


def test_scores_without_java_are_those_that_the_package_gives_with_its_own_tokenizer() -> None:
    """Recorded by tests/bench/caption_words.py on 60 images of COCO."""
    found = caption_scores(RECORDED["candidates"], RECORDED["references"], java=False)
    assert_recorded(found, WITHOUT_JAVA)
    assert found.tokenizer == "ptb"
    assert set(found.absent) == {"meteor", "spice"}
    assert all("java=False" in reason for reason in found.absent.values())


@pytest.mark.slow
@JAVA
def test_scores_with_java_are_those_that_the_package_gives_meteor_among_them() -> None:
    found = caption_scores(RECORDED["candidates"], RECORDED["references"], java=True)
    assert_recorded(found, (*WITHOUT_JAVA, "meteor"))
    assert found.tokenizer == "ptb-java"
    assert set(found.absent) == {"spice"}
    assert "stanford-corenlp-3.6.0.jar" in found.absent["spice"]


def test_a_caption_that_is_its_reference_is_perfect() -> None:
    found = scores(
        ("a red bus on the street", ["A red bus on the street."]),
        ("two cats sleep here", ["Two cats sleep here!", "cats"]),
        ("dogs run in a park", ["dogs run in a park"]),
    )
    for name in (*WITHOUT_JAVA[:4], "rouge_l"):
        np.testing.assert_allclose(found.per_example[name], 1.0, atol=1e-8)
    assert found.per_example["cider_d"][2] == pytest.approx(10.0)


def test_document_frequencies_are_those_of_the_images_that_are_scored() -> None:
    """An n-gram in the references of every image weighs nothing, one of a single image weighs most."""
    common, rare = ("a bus", ["a bus"]), ("a green bird sings", ["a green bird sings"])
    alone = scores(common, common, rare)
    assert alone.per_example["cider_d"][2] > alone.per_example["cider_d"][0] > 0
    assert scores(common, common).per_example["cider_d"].tolist() == [0.0, 0.0]


def test_of_one_image_cider_d_is_zero_and_the_others_are_defined() -> None:
    found = scores(("a red bus", ["a red bus", "the bus is red"]))
    assert found.corpus["cider_d"] == 0.0
    assert found.corpus["rouge_l"] == pytest.approx(1.0)
    assert found.corpus["bleu_3"] == pytest.approx(1.0)
    assert found.corpus["bleu_4"] == found.per_example["bleu_4"][0]


def test_the_set_has_the_mean_of_rouge_l_and_cider_d_and_not_of_bleu() -> None:
    found = caption_scores(RECORDED["candidates"], RECORDED["references"], java=False)
    for name in ("rouge_l", "cider_d"):
        assert found.corpus[name] == pytest.approx(found.per_example[name].mean())
    assert found.corpus["bleu_4"] != pytest.approx(found.per_example["bleu_4"].mean(), rel=1e-3)


@pytest.mark.parametrize(
    "pairs",
    [
        [("bus", ["bus"]), ("cat", ["dog"])],
        [("...", ["a bus"]), ("a bus", ["a bus"])],
        [("a bus", ["...", "a bus"]), ("a bus", ["--"])],
        [("", [""]), (".", ["!"])],
        [("été à la plage", ["un été à la plage"]), ("中文", ["中文 字"]), ("😀", ["a face"])],
        [("the same", ["the same"])] * 5,
        [("a\nb\u2028c\rd", ["a b c d"]), ("a\ud800", ["a"])],
    ],
    ids=[
        "one word",
        "no words",
        "references without words",
        "no word at all",
        "unicode",
        "equal",
        "line ends",
    ],
)
def test_unusual_captions_have_finite_scores(pairs: list[tuple[str, list[str]]]) -> None:
    found = scores(*pairs)
    for name, values in found.per_example.items():
        assert len(values) == len(pairs)
        assert np.isfinite(values).all()
        assert (values >= 0).all()
        assert np.isfinite(found.corpus[name])


def test_captions_without_words_are_counted_and_score_nothing() -> None:
    found = scores(("...", ["a bus", "!", "- -"]), ("a cat", ["a cat"]))
    assert (found.num_candidates_without_words, found.num_references_without_words) == (1, 2)
    assert found.per_example["cider_d"][0] == 0.0
    assert found.per_example["bleu_1"][0] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
@JAVA
def test_line_ends_inside_captions_do_not_shift_the_words_of_others() -> None:
    captions = ["a\nb", "", "c\u2028d\x85e\x0bf", " ", "g\r\nh", "\ud800 i", "."]
    words = [["a", "b"], [], ["c", "d", "e", "f"], [], ["g", "h"], ["i"], []]
    assert module.java_words(captions) == words


@pytest.mark.parametrize(
    ("candidates", "references", "found"),
    [
        ([], [], "0 captions"),
        (["a"], [], "1 captions and references of 0 images"),
        (["a", "b"], [["a"]], "2 captions and references of 1 images"),
        (["a", "b"], [["a"], []], "image 1 of 2"),
        (["a"], ["a bus"], r"references of image 0 of 1 are no list(.|\n)*'a bus' \(str\)"),
        ("a bus", [["a"]], r"captions are no list(.|\n)*'a bus' \(str\)"),
        ({0: ["a"]}, [["a"]], r"captions are no list(.|\n)*\(dict\)"),
        (["a", None], [["a"], ["b"]], r"row 1 of the captions is no text(.|\n)*None \(NoneType\)"),
        ([3], [["a"]], r"row 0 of the captions is no text(.|\n)*3 \(int\)(.|\n)*a text"),
        ([{"caption": "a"}], [["a"]], r"row 0 of the captions is no text(.|\n)*\['caption'\]"),
        (["a"], [[{"caption": "a"}]], r"row 0 of the references of image 0(.|\n)*the text itself"),
        (["a"], [{"caption": "a"}], r"references of image 0 of 1 are no list(.|\n)*the text itself"),
        (["a"], None, r"references are no list(.|\n)*None"),
        (["a"], {0: ["a"]}, r"references are no list(.|\n)*\(dict\)"),
        (["a"], [[1.5]], r"row 0 of the references of image 0 of 1 is no text(.|\n)*1\.5 \(float\)"),
    ],
)
def test_sets_that_do_not_fit_are_refused(candidates: Any, references: Any, found: str) -> None:
    with pytest.raises(DataError, match=found):
        caption_scores(candidates, references)


def test_without_java_on_the_path_its_scores_are_absent_and_asking_for_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = caption_scores(["a bus"], [["a bus"]])
    assert found.tokenizer == "ptb"
    assert all("search path" in found.absent[name] for name in ("meteor", "spice"))
    with pytest.raises(SetupError, match="search path"):
        caption_scores(["a bus"], [["a bus"]], java=True)


def test_a_java_that_fails_is_named_as_the_reason_or_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = caption_scores(["a bus"], [["a bus"]])
    assert found.tokenizer == "ptb"
    assert "no memory" in found.absent["meteor"]
    with pytest.raises(SetupError, match="exit code 3"):
        caption_scores(["a bus"], [["a bus"]], java=True)


def with_tokenizer_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A java on the path that ends at once, and a tokenizer that needs none."""
    ends = tmp_path / "java"
    ends.write_text("#!/bin/sh\nexit 1\n")
    ends.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "java_words", lambda captions: [caption.split() for caption in captions])


def test_a_meteor_that_ends_early_is_absent_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_tokenizer_only(monkeypatch, tmp_path)
    found = caption_scores(["a bus"], [["a bus"]])
    assert "its program failed" in found.absent["meteor"]
    assert caption_scores(["a bus"], [["a bus"]], java=True).absent.keys() == {"meteor", "spice"}


def test_java_is_tried_on_one_caption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        with_tokenizer_only(patch, tmp_path)
        absent = need_java()
        assert "its program failed" in absent["meteor"]
        assert "is not in pycocoevalcap" in absent["spice"]
    (tmp_path / "java").write_text("this is no program")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="Java did not start"):
        need_java()


def with_spice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The package's class. Its program needs a parser that the package downloads: tests return what it returns."""
    from pycocoevalcap.spice.spice import Spice

    with_tokenizer_only(monkeypatch, tmp_path)
    (tmp_path / "spice/lib").mkdir(parents=True)
    for name in module._SPICE_JARS:
        (tmp_path / "spice/lib" / name).touch()
    monkeypatch.setattr(module, "_package", lambda: tmp_path)
    monkeypatch.setattr(Spice, "__init__", lambda self: None)
    return Spice


def test_spice_without_an_f_for_some_image_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the package returns where the program wrote no number: NaN, also as the mean."""
    given = [{"All": {"f": 0.5}}, {"All": {"f": np.nan}}]
    monkeypatch.setattr(
        with_spice(monkeypatch, tmp_path), "compute_score", lambda self, truth, captions: (np.nan, given)
    )
    found = caption_scores(["a bus", "very"], [["a bus"], ["very"]])
    assert "spice" not in found.corpus | found.per_example
    assert "no number for 1 of 2 images, first for image 1" in found.absent["spice"]


def test_spice_reads_what_later_versions_of_java_close(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def compute_score(
        self: Any, truth: Any, captions: Any
    ) -> tuple[float, list[dict[str, dict[str, float]]]]:
        seen.append(os.environ["JDK_JAVA_OPTIONS"])
        return 0.5, [{"All": {"f": 0.5}}]

    monkeypatch.setattr(with_spice(monkeypatch, tmp_path), "compute_score", compute_score)
    for own in (None, "-Dmine=1"):
        if own is not None:
            monkeypatch.setenv("JDK_JAVA_OPTIONS", own)
        caption_scores(["a bus"], [["a bus"]])
        assert os.environ.get("JDK_JAVA_OPTIONS") == own
    opened = {part.split("=")[1] for part in seen[0].split()}
    assert opened == {
        "java.base/java.lang", "java.base/java.math", "java.base/java.util", "java.base/java.util.concurrent",
        "java.base/java.net", "java.base/java.text", "java.sql/java.sql",
    }  # fmt: skip
    assert seen[1] == f"{seen[0]} -Dmine=1"


def test_spice_is_the_f_score_of_each_image_where_its_files_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Spice = with_spice(monkeypatch, tmp_path)
    given = {}

    def compute_score(
        self: Any, truth: Any, captions: Any
    ) -> tuple[float, list[dict[str, dict[str, float]]]]:
        given.update(truth=truth, captions=captions)
        return 0.25, [{"All": {"f": 0.5, "pr": 1.0}}, {"All": {"f": 0.0, "pr": 1.0}}]

    monkeypatch.setattr(Spice, "compute_score", compute_score)
    found = caption_scores(["a bus", "a cat"], [["the bus", "a bus"], ["a dog"]])
    assert given == {
        "truth": {0: ["the bus", "a bus"], 1: ["a dog"]},
        "captions": {0: ["a bus"], 1: ["a cat"]},
    }
    assert found.corpus["spice"] == 0.25
    assert found.per_example["spice"].tolist() == [0.5, 0.0]

    def fails(self: Any, truth: Any, captions: Any) -> None:
        raise subprocess.CalledProcessError(1, ["java"])

    monkeypatch.setattr(Spice, "compute_score", fails)
    assert "its program failed" in caption_scores(["a bus"], [["a bus"]]).absent["spice"]
