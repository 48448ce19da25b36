"""The NLTK backend: its tags in our names, what is mended of them, and its missing data."""

from __future__ import annotations

import nltk.data
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends import TAGGED, small_nltk, usable_backend
from tests.text_quality import read_labelled, score_captions
from vqpipe.errors import SetupError
from vqpipe.text.english import POS, part_of_speech, penn_tokens
from vqpipe.text.nltk_tagger import NltkPos, NltkTagger
from vqpipe.text.phrases import PLAIN
from vqpipe.text.tagger import Tagger

LABELLED = TAGGED.parent / "captions_coco_150.jsonl"


@pytest.fixture(scope="module")
def nltk_backend() -> Tagger:
    return usable_backend("nltk")


@pytest.mark.parametrize(
    ("tag", "word", "pos"),
    [
        ("JJR", "bigger", "adjective"), ("NNPS", "giants", "noun"), ("VBG", "being", "auxiliary"),
        ("VBZ", "runs", "verb"), ("MD", "may", "auxiliary"), ("IN", "on", "preposition"),
        ("IN", "while", "subordinator"), ("WDT", "that", "subordinator"), ("PRP$", "its", "determiner"),
        ("POS", "'s", "possessive"), ("``", '"', "sign"), ("FW", "la", "sign"), ("UH", "oh", "sign"),
    ],
)  # fmt: skip
def test_penn_tags_have_our_names(tag: str, word: str, pos: str) -> None:
    assert part_of_speech(tag, word) == pos
    assert pos in POS.values()


def test_contractions_are_split_and_signs_written_as_in_the_treebank() -> None:
    tokens = ["It", "isn't", "(", "cannot", "be", ")", '"', "red", '"', "they're", "o'clock", "Canada"]
    pieces, starts = penn_tokens(tokens, signs=True)
    said = "It is n't -LRB- can not be -RRB- `` red '' they 're o'clock Canada"
    assert " ".join(pieces) == said
    assert [pieces[start] for start in starts] == [
        "It", "is", "-LRB-", "can", "be", "-RRB-", "``", "red", "''", "they", "o'clock", "Canada"
    ]  # fmt: skip
    assert '" red "' in " ".join(penn_tokens(tokens, signs=False)[0])


@pytest.mark.parametrize(
    ("caption", "adjectives", "nouns"),
    [
        ("A red bird and 2 geese", ["red"], ["bird", "goose"]),
        ("Great teacher", ["great"], ["teacher"]),
        ("GREAT FOOD on a US plate", ["great"], ["food", "us", "plate"]),
        ("a silk dress and a birthday cake", [], ["silk", "dress", "birthday", "cake"]),
        ("a large blue train", ["large", "blue"], ["train"]),
        ("a bird next to a cat", [], ["bird", "cat"]),
        ('" [ ] ... "', [], []),
        ("the zorpable frobnicators", ["zorpable"], ["frobnicator"]),
    ],
)
def test_words(caption: str, adjectives: list[str], nouns: list[str], nltk_backend: Tagger) -> None:
    words = nltk_backend.tag(caption)
    assert [word.text for word in words if word.pos == "adjective"] == adjectives
    assert [word.lemma for word in words if word.pos == "noun"] == nouns


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(), max_size=100))
def test_any_text_has_one_word_for_each_token(nltk_backend: Tagger, caption: str) -> None:
    words = nltk_backend.tag(caption)
    assert words == nltk_backend.tag(caption)
    assert all(word.text and word.pos in POS.values() for word in words)


def test_the_small_tagger_is_good_enough_to_stand_in_for_the_real_one() -> None:
    captions = read_labelled(LABELLED)
    scores = score_captions(small_nltk().analyse([c.caption for c in captions], PLAIN), captions, False)
    for kind, least in {"adjective": 0.84, "noun": 0.86, "pair": 0.73}.items():
        assert scores[kind].f1 >= least, kind


def test_missing_data_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", ["nowhere"])
    with pytest.raises(
        SetupError, match=r"python -m nltk\.downloader averaged_perceptron_tagger_eng"
    ) as caught:
        NltkTagger(NltkPos(kind="nltk"))
    assert "nowhere" in str(caught.value)
    assert "NLTK_DATA" in str(caught.value)
