"""Cleaning and splitting: any string goes through, and what was done to it is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqpipe.text.tokens import MAX_CHARACTERS, clean, tokenize


@pytest.mark.parametrize(
    ("caption", "text", "marks"),
    [
        ("a red bird", "a red bird", ()),
        ("a red\x00bird\x07", "a red bird ", ("control",)),
        ("a red\nbird\tflies", "a red bird flies", ()),
        ("a <b>red</b> bird &amp; cat<br/>", "a red bird & cat", ("markup",)),
        ('a <a href="x y" class=b>red</a> bird<!-- x --><PERSON>', "a red bird", ("markup",)),
        ("&lt;b&gt;red&lt;/b&gt; bird", "red bird", ("markup",)),
        ("a < b and c > d", "a < b and c > d", ()),
        ("a<b and c> d", "a<b and c> d", ()),
        ("<3 birds -> here", "<3 birds -> here", ()),
        ("the man&#39;s, &#x27;s, &rsquo;s caf&eacute;", "the man's, 's, 's caf\u00e9", ("markup",)),
        ("the man&amp;#39;s &amp;amp;amp; caf&amp;amp;eacute;", "the man's & caf\u00e9", ("markup",)),
        ("black &amp white &Amp; &nosuch; red", "black & white & red", ("markup",)),
        ("AT&T sign, R&D; &c.", "AT&T sign, R&D; &c.", ()),
        ("a hum\u00adming\u00adbird", "a hummingbird", ("control",)),
        ("a hum&shy;mingbird", "a hummingbird", ("control", "markup")),
        ("", "", ("empty",)),
        ("123 !?", "123 !?", ("empty",)),
        ("\U0001f600", "\U0001f600", ("empty",)),
        ("cafe\u0301", "caf\u00e9", ()),
        ("\u8d64\u3044\u9ce5", "\u8d64\u3044\u9ce5", ()),
        ("bad \ufffd bytes", "bad   bytes", ("control",)),
        ("half \ud83d emoji", "half   emoji", ("control",)),
    ],
)
def test_clean(caption: str, text: str, marks: tuple[str, ...]) -> None:
    cleaned, found = clean(caption)
    assert " ".join(cleaned.split()) == " ".join(text.split())
    assert found == marks


def test_a_long_caption_is_cut_at_a_word() -> None:
    cleaned, marks = clean("bird " * 10_000)
    assert len(cleaned) <= MAX_CHARACTERS
    assert set(tokenize(cleaned)) == {"bird"}
    assert marks == ("cut",)


def test_a_long_word_is_cut_too() -> None:
    cleaned, marks = clean("x" * 10_000)
    assert cleaned == "x" * MAX_CHARACTERS
    assert marks == ("cut",)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A bird's long-tailed nest.", ["A", "bird", "'s", "long-tailed", "nest", "."]),
        ("it isn't the man\u2019s", ["it", "isn't", "the", "man", "\u2019s"]),
        ("black-and-white, red/blue", ["black-and-white", ",", "red", "/", "blue"]),
        ("a_b 3.5 \U0001f600", ["a", "_", "b", "3", ".", "5", "\U0001f600"]),
        ("- dash -", ["-", "dash", "-"]),
    ],
)
def test_tokenize(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


@given(st.text())
def test_tokens_hold_every_visible_character_in_order(caption: str) -> None:
    cleaned, _ = clean(caption)
    assert "".join(tokenize(cleaned)) == "".join(cleaned.split())


@pytest.mark.parametrize(
    "joiner", ["\u00ad", "\u200c", "\u200d", "\u2060", "\ufeff", "&shy;", "&#65279;", "&zwnj;"]
)
def test_what_has_no_width_parts_no_word(joiner: str) -> None:
    assert clean(f"a wet d{joiner}og")[0] == "a wet dog"
    assert clean("a wet\u200bdog")[0] == "a wet dog"
