"""Which adjective modifies which noun, case by case, for the backends that find pairs by noun phrases."""

from __future__ import annotations

import pytest

from tests.backends import NAMES, usable_backend
from vqpipe.text.phrases import PLAIN, pairs
from vqpipe.text.tagger import PhraseParams, Tagger

PREDICATIVE = PhraseParams(predicative=True, shades="noun")
SHADES = PhraseParams(predicative=False, shades="color")


@pytest.fixture(params=NAMES)
def any_backend(request: pytest.FixtureRequest) -> Tagger:
    return usable_backend(request.param)


def found(caption: str, own: Tagger, phrases: PhraseParams = PLAIN) -> str:
    return ", ".join(" ".join(pair) for pair in pairs(caption, own, phrases))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small bird with a long yellow beak", "small bird, long beak, yellow beak"),
        ("a small red bird", "small bird, red bird"),
        ("a black and white cat", "black cat, white cat"),
        ("A small red and white plane", "small plane, red plane, white plane"),
        ("red and blue birds", "red bird, blue bird"),
        ("a red car and a blue truck", "red car, blue truck"),
        ("a red car and blue trucks", "red car, blue truck"),
        ("red cars and trucks", "red car"),
        ("a yellow fire hydrant", "yellow hydrant"),
        ("a red fire hydrant", "red hydrant"),
        ("a high school student", "high school"),
        ("a large black bear next to a rock", "large bear, black bear"),
        ("a very large old building", "large building, old building"),
        ("three small brown dogs", "small dog, brown dog"),
        ("a red-haired woman's long coat", "red-haired woman, long coat"),
        ("a bird next to other birds", "other bird"),
        ("Great food in a large living room", "great food, large room"),
        ("the bird is red", ""),
        ("the wall is green and a dog sleeps", ""),
        ("a girl in blue", ""),
        ("elephants in the wild", ""),
        ("a dog and a cat", ""),
        ("", ""),
        ("\U0001f600 \x00 !!", ""),
        ("red", ""),
    ],
)
def test_attributive_pairs(caption: str, expected: str, any_backend: Tagger) -> None:
    assert found(caption, any_backend) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a large, round, shiny ball", "large ball, round ball, shiny ball"),
        ("a dark red bird", "dark bird, red bird"),
        ('a mythical "street"', "mythical street"),
    ],
)
def test_attributive_pairs_that_nltk_mistags(caption: str, expected: str) -> None:
    assert found(caption, usable_backend("wordnet")) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the bird is red", "red bird"),
        ("the small birds are red and very blue", "small bird, red bird, blue bird"),
        ("the sea was calm and grey", "calm sea, grey sea"),
        ("the sky will be blue", "blue sky"),
        ("the sky has been blue", "blue sky"),
        ("a bird that is red", "red bird"),
        ("the sky is not clear", ""),
        ("the sky isn't clear", ""),
        ("the sky isn\u2019t clear", ""),
        ("the sky could not be clear", ""),
        ("the bird is a red parrot", "red parrot"),
        ("it is red", ""),
    ],
)
def test_predicative_pairs_on_request(caption: str, expected: str, any_backend: Tagger) -> None:
    assert found(caption, any_backend, PREDICATIVE) == expected


def test_shades_belong_to_colours_on_request(any_backend: Tagger) -> None:
    assert found("a dark red bird in a dark room", any_backend, SHADES) == "red bird, dark room"


def test_a_long_caption_costs_no_more_than_its_length(any_backend: Tagger) -> None:
    assert len(pairs("a red bird and " * 10_000, any_backend)) == 133
