from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqpipe.metrics.caption_scores import java_words
from vqpipe.metrics.caption_words import PUNCTUATION, ptb_tokens, ptb_words

DATA = Path(__file__).parents[1] / "data"
CASES = [json.loads(line) for line in (DATA / "ptb_words.jsonl").read_text(encoding="utf-8").splitlines()]
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not on the search path")


def test_there_are_many_cases() -> None:
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_words_of_hard_captions_are_those_of_stanfords_tokenizer(case: dict[str, object]) -> None:
    """Recorded from CoreNLP 3.4.1 as the package runs it (tests/bench/caption_words.py)."""
    assert ptb_words(str(case["caption"])) == case["words"]


@pytest.mark.slow
@JAVA
def test_the_cases_are_still_what_the_package_gives() -> None:
    assert java_words([case["caption"] for case in CASES]) == [case["words"] for case in CASES]


@pytest.mark.slow
@JAVA
def test_real_captions_have_the_words_of_stanfords_tokenizer() -> None:
    captions = [
        json.loads(line)["caption"]
        for name in ("coco_150", "own_100")
        for line in (DATA / f"captions_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(captions) == 250
    assert [ptb_words(caption) for caption in captions] == java_words(captions)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", []),
        ("   ", []),
        (". , ; : - -- ... ' \" ` ? !", []),
        ("Dog", ["dog"]),
        ("DON'T", ["do", "n't"]),
        ("a (red) bus", ["a", "-lrb-", "red", "-rrb-", "bus"]),
        ("été à la plage", ["été", "à", "la", "plage"]),
        ("中文 字", ["中文", "字"]),
        ("a 😀 b", ["a", "b"]),
        ("a &nbsp; b&nbsp;c &amp; d", ["a", "b", "c", "&", "d"]),
        ("a\ud800b", ["a", "b"]),
        ("a\x00b\u200bc", ["a", "b", "c"]),
        ("two\nlines\u2028here\tand\xa0there", ["two", "lines", "here", "and", "there"]),
    ],
)
def test_unusual_captions_have_words(caption: str, words: list[str]) -> None:
    assert ptb_words(caption) == words


@given(st.text(max_size=60))
def test_any_text_has_words_without_spaces_or_punctuation(text: str) -> None:
    words = ptb_words(text)
    assert not PUNCTUATION & set(words)
    assert all(word and " " not in word for word in words if not word.startswith("<"))
    assert len(ptb_tokens(text)) <= len(text)


@given(st.lists(st.sampled_from(["a", "man", "Red", "bus", "t-shirt", "it's", "2"]), max_size=12))
def test_words_of_captions_in_a_row_are_the_words_of_each(words: list[str]) -> None:
    joined = ptb_words(" ".join(words))
    assert joined == [token for word in words for token in ptb_words(word)]


def test_a_long_text_takes_no_more_than_its_length_asks() -> None:
    """A run of one sign or of half a contraction; a rule that tries every way to match it would not end."""
    for part in ("a", "-", "a-", "'", "n'", "a.", "1,", "(", "<a ", "@", "a'a", "a/", "!?"):
        assert len(ptb_tokens(part * 3000)) <= 3000 * len(part)
