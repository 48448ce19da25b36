"""What neighbours decide about a word's class, kind by kind, for the backend wordnet; and lemmas."""

from __future__ import annotations

import pytest

from vqpipe.text.lexicon import lexicon
from vqpipe.text.phrases import PLAIN, pairs
from vqpipe.text.pos import tagger
from vqpipe.text.tagger import PhraseParams
from vqpipe.text.tokens import token_spans, tokenize
from vqpipe.text.wordnet_tagger import WordnetPos

WORDNET = WordnetPos(kind="wordnet")
PREDICATIVE = PhraseParams(predicative=True, shades="noun")


def found(caption: str, phrases: PhraseParams = PLAIN) -> str:
    return ", ".join(" ".join(pair) for pair in pairs(caption, tagger(WORDNET), phrases))


def pos(caption: str, word: str) -> str:
    return next(found.pos for found in tagger(WORDNET).tag(caption) if found.text == word)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("tan wings and an orange beak", "tan wing, orange beak"),
        ("a gold crown, a cream belly and a buff throat", "gold crown, cream belly, buff throat"),
        ("a grey cat on a gray rug", "grey cat, gray rug"),
        ("a square mirror and a vintage car", "square mirror, vintage car"),
        ("a medium sized bird with a pointy bill", "medium bird, sized bird, pointy bill"),
        ("a salmon colored wall", "salmon wall, colored wall"),
        ("a thick, ivory bill", "thick bill, ivory bill"),
        ("a light tan and white dog", "light dog, tan dog, white dog"),
        ("pink, orange and blue balloons", "pink balloon, orange balloon, blue balloon"),
        ("an Indian village", "indian village"),
        ("a glass of orange juice and orange slices", ""),
        ("an orange on a plate", ""),
        ("raw mango and orange and ripe bananas", "raw mango, ripe banana"),
        ("a gold fish", ""),
        ("a large ice cream truck", "large truck"),
        ("pink coral and blue water", "pink coral, blue water"),
    ],
)
def test_colours_and_shapes_before_nouns_are_adjectives_unless_they_name_a_thing(
    caption: str, expected: str
) -> None:
    assert found(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the belly is pale yellow.", "pale belly, yellow belly"),
        ("the legs are tan", "tan leg"),
        ("its rump is olive green", "olive rump, green rump"),
        ("this bird is all black with red eyes", "black bird, red eye"),
        ("the bill is long and straight", "long bill, straight bill"),
        ("a man wearing all white", ""),
    ],
)
def test_colours_are_said_of_subjects(caption: str, expected: str) -> None:
    assert found(caption, PREDICATIVE) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a snow covered roof", "covered roof"),
        ("Snow capped mountains by a tree lined street", "capped mountain, lined street"),
        ("a half eaten pizza", "eaten pizza"),
        ("a rain soaked dog", "soaked dog"),
        ("a dark spotted bird", "dark bird, spotted bird"),
        ("a boy eats mashed potatoes", "mashed potato"),
        ("a brown and black spotted back with long legs", "brown back, black back, spotted back, long leg"),
        ("a wall lined with books", ""),
        ("a hill covered in snow", ""),
    ],
)
def test_participles_that_combine_with_a_noun_are_adjectives(caption: str, expected: str) -> None:
    assert found(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("tall towers line a canal", "tall tower"),
        ("a man in a red coat skiing down a hill", "red coat"),
        ("old wooden boats rest on the shore", "old boat, wooden boat"),
        ("hungry people crowd around a stand", "hungry people"),
        ("a woman in a yellow dress dances on the street", "yellow dress"),
        ("a little girl smiles at a dog", "little girl"),
        ("two stuffed teddy bears sitting on a bed", "stuffed bear"),
        ("a black bear lies in the grass", "black bear"),
        ("a tall street light on a corner", "tall light"),
        ("old street signs on a pole", "old sign"),
        ("a fluffy dog rests on a soft blanket", "fluffy dog, soft blanket"),
        ("a gray elephant sprays water", "gray elephant"),
        ("a few old street lights", "few light, old light"),
        ("old men play chess in a park", "old man"),
        ("two large brown bears playing", "large bear, brown bear"),
        ("a red brick building with windows", "red building"),
        ("a wooden bus stop at a corner", "wooden stop"),
        ("long wings that flap", "long wing"),
        ("it has long pink legs", "long leg, pink leg"),
    ],
)
def test_a_verb_after_a_noun_is_not_its_head(caption: str, expected: str) -> None:
    assert found(caption) == expected


def test_what_has_names_is_a_noun() -> None:
    assert pos("this bird has wings that are brown", "wings") == "noun"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a black eye ring", "black ring"),
        ("white wing bars", "white bar"),
        ("a red head and neck", "red head, red neck"),
        ("a speckled belly and breast", "speckled belly, speckled breast"),
        ("a yellow belly breast and crown", "yellow belly, yellow breast, yellow crown"),
        (
            "a yellow throat, breast, and belly, and brown wings",
            "yellow throat, yellow breast, yellow belly, brown wing",
        ),
        ("a white eye ring and belly", "white ring, white belly"),
        ("black and white wings and tail", "black wing, white wing, black tail, white tail"),
        ("a red head and a neck", "red head"),
        ("a red head and white neck", "red head, white neck"),
        ("a young man and woman", "young man"),
        ("tall trees and buildings", "tall tree"),
        ("a red wine glass", "red wine"),
        ("a red head and hat", "red head"),
    ],
)
def test_parts_of_a_body_share_their_adjectives(caption: str, expected: str) -> None:
    assert found(caption) == expected


@pytest.mark.parametrize(
    ("caption", "word", "expected"),
    [
        ("a white eyering and a bill", "eyering", "noun"),
        ("the man s hat", "s", "possessive"),
        ("it s a dog", "s", "auxiliary"),
        ("the dog doesn t move", "t", "adverb"),
        ("the letter s", "s", "possessive"),
        ("an old T.V. sits there", "t.v.", "noun"),
        ("the U.S. flag", "u.s.", "noun"),
        ("a bus driving past tall buildings", "past", "preposition"),
    ],
)
def test_the_class_of_one_word(caption: str, word: str, expected: str) -> None:
    assert pos(caption, word) == expected


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("An old T.V. sits.", ["An", "old", "T.V.", "sits", "."]),
        ("a T.V on the wall", ["a", "T.V", "on", "the", "wall"]),
        ("U.S. and U.S.A. at 5 p.m.", ["U.S.", "and", "U.S.A.", "at", "5", "p.m."]),
        ("a dog. A cat.", ["a", "dog", ".", "A", "cat", "."]),
        ("plan a.The end", ["plan", "a", ".", "The", "end"]),
        ("3.5 m", ["3", ".", "5", "m"]),
    ],
)
def test_initials_are_one_word(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens
    assert [text[start:end] for start, end in token_spans(text)] == tokens


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("shorts", "shorts"), ("cola", "cola"), ("bases", "base"), ("buns", "bun"), ("axes", "axe"),
        ("pants", "pants"), ("jeans", "jeans"), ("scissors", "scissors"), ("trousers", "trousers"),
        ("sunglasses", "sunglasses"), ("goggles", "goggles"), ("clothes", "clothes"), ("glasses", "glass"),
        ("leaves", "leaf"), ("calves", "calf"), ("lens", "lens"), ("lenses", "lens"), ("bus", "bus"),
        ("dvds", "dvd"), ("rectrices", "rectrix"), ("opera", "opera"),
        ("vases", "vase"), ("dice", "dice"), ("graffiti", "graffiti"), ("anus", "anus"), ("gps", "gps"),
        ("logos", "logo"), ("crises", "crisis"), ("feet", "foot"), ("wingbars", "wingbar"),
    ],
)  # fmt: skip
def test_lemmas_of_plurals_and_of_what_only_looks_like_one(plural: str, singular: str) -> None:
    assert lexicon().noun_lemma(plural) == singular
