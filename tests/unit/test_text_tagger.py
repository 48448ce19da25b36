"""Parts of speech and lemmas of the WordNet backend, and how the backend takes any text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from vqpipe.errors import DataError, ParamsError
from vqpipe.text.english import POS, TAGS, closed_words, follows
from vqpipe.text.lexicon import Lexicon, lexicon
from vqpipe.text.nltk_tagger import NltkPos
from vqpipe.text.pos import TAGGERS, AnyPos, pos_params, tagger
from vqpipe.text.spacy_tagger import SpacyPos
from vqpipe.text.tagger import PhraseParams, PosParams, batched
from vqpipe.text.wordnet_tagger import WordnetPos

WORDNET = WordnetPos(kind="wordnet")


def classes(caption: str, pos: str) -> list[str]:
    return [word.text for word in tagger(WORDNET).tag(caption) if word.pos == pos]


@pytest.mark.parametrize(
    ("caption", "adjectives", "nouns"),
    [
        ("a small red bird", ["small", "red"], ["bird"]),
        ("an orange on an orange plate", ["orange"], ["orange", "plate"]),
        ("the light is on a light table", ["light"], ["light", "table"]),
        ("a man riding a wave", [], ["man", "wave"]),
        ("a cat sitting next to a parked car", ["parked"], ["cat", "car"]),
        ("a close up of an open window", ["open"], ["close", "window"]),
        ("people walk to the park and park there", [], ["people", "park"]),
        ("Two Italian chefs", ["italian"], ["chefs"]),
        ("5 brown eggs", ["brown"], ["eggs"]),
        ("the frobnicator is zorpable", ["zorpable"], ["frobnicator"]),
        ("a red-haired woman", ["red-haired"], ["woman"]),
        ("A DOG SITS NEXT TO A CAT", [], ["dog", "cat"]),
    ],
)
def test_context_decides(caption: str, adjectives: list[str], nouns: list[str]) -> None:
    assert classes(caption, "adjective") == adjectives
    assert classes(caption, "noun") == nouns


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("dogs", "dog"), ("men", "man"), ("children", "child"), ("dishes", "dish"), ("berries", "berry"),
        ("leaves", "leaf"), ("knives", "knife"), ("buses", "bus"), ("boxes", "box"), ("tomatoes", "tomato"),
        ("geese", "goose"), ("sheep", "sheep"), ("people", "people"), ("glasses", "glass"), ("bus", "bus"),
        ("grass", "grass"), ("gas", "gas"), ("tennis", "tennis"), ("skis", "ski"),
        ("fire-trucks", "fire-truck"), ("selfies", "selfie"), ("cactus", "cactus"), ("broccoli", "broccoli"),
    ],
)  # fmt: skip
def test_nouns_are_lemmatised(plural: str, singular: str) -> None:
    assert lexicon().noun_lemma(plural) == singular


def test_adjectives_keep_their_form() -> None:
    [word] = [word for word in tagger(WORDNET).tag("a Bigger dog") if word.pos == "adjective"]
    assert (word.text, word.lemma) == ("bigger", "bigger")


def test_every_word_has_a_distribution_over_tags() -> None:
    for word in ("dog", "red", "ran", "running", "quickly", "zorp", "42", "\U0001f600", "x-ray", "\u9ce5"):
        candidates = lexicon().candidates(word)
        assert sum(2.718281828459045**share for _, share in candidates) == pytest.approx(1.0)


def test_closed_words_and_transitions_speak_of_the_same_tags() -> None:
    assert set(POS) | {"B"} == set(TAGS)
    assert {tag_ for weights in closed_words().values() for tag_ in weights} <= set(POS)
    table = follows()
    assert {len(row) for row in table} == {len(TAGS)}
    assert all(any(row) for row in table)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=200))
def test_any_text_has_one_word_for_each_token(caption: str) -> None:
    backend = tagger(WORDNET)
    words = backend.tag(caption)
    assert words == backend.tag(caption)
    assert all(word.text and word.pos in POS.values() for word in words)


def test_an_empty_caption_has_no_words() -> None:
    assert tagger(WORDNET).tag("") == []
    assert tagger(WORDNET).tag(" \x00 ") == []


def test_the_params_are_those_of_the_table() -> None:
    tags = TypeAdapter(AnyPos).json_schema()["discriminator"]["mapping"]
    assert set(TAGGERS) == set(tags) == {"wordnet", "nltk", "spacy"}


@pytest.mark.parametrize(
    "config",
    [WORDNET, NltkPos(kind="nltk"), SpacyPos(kind="spacy", model="en_core_web_sm", batch_size=64)],
)
def test_params_survive_the_facts_of_an_artifact(config: PosParams) -> None:
    assert pos_params(json.loads(json.dumps(config.model_dump())), "words") == config


def test_bad_params_are_reported() -> None:
    with pytest.raises(ParamsError, match="batch_size"):
        pos_params({"kind": "spacy", "model": "en_core_web_sm", "batch_size": 0}, "words")
    with pytest.raises(ParamsError, match="kind"):
        pos_params({"kind": "brill"}, "words")


def test_the_protocols_calls_agree() -> None:
    backend, captions = tagger(WORDNET), ["a red bird", "", "red cars and a blue boat"]
    phrases = PhraseParams(predicative=False, shades="noun")
    found = list(backend.analyse(captions, phrases))
    assert [analysis.words for analysis in found] == [backend.tag(caption) for caption in captions]
    assert found == list(backend.analyse_tokens([caption.split() for caption in captions], phrases))
    assert [analysis.pairs for analysis in found] == [[(1, 2)], [], [(0, 1), (4, 5)]]
    assert found[2].pair_words() == [("red", "car"), ("blue", "boat")]
    assert [analysis.pairs for analysis in backend.analyse(captions, None)] == [[], [], []]


def test_batches_keep_order_and_length() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_a_missing_table_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wordnet_tables"):
        Lexicon(tmp_path)
