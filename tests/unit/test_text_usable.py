"""Captions in other scripts and languages are known, English ones are left alone, and too many stop the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.text_captions import LIMITS
from vqpipe.errors import DataError
from vqpipe.text.tokens import tokenize
from vqpipe.text.usable import Limit, is_other_language, is_other_script
from vqpipe.text.vocabulary import build_vocabulary

LABELLED = Path(__file__).parents[1] / "data/captions_coco_150.jsonl"
FOREIGN = """Ein kleiner roter Hund läuft
Ein Mann mit einem Hut
Zwei Hunde spielen im Park
Un petit chien rouge court dans l'herbe
Une voiture rouge
Un perro pequeño corre por el parque
Una casa roja en la playa
Un uomo con un cappello rosso
Um homem com um chapéu vermelho
Een man met een hoed
En man med en hatt
Mały czerwony pies biegnie
Červený dům na pláži
Kırmızı bir araba
Một con chó nhỏ
A piros hajó a tengeren""".splitlines()
ENGLISH = """red bird
a red Lamborghini
Buzz Lightyear costume
a Pikachu plush
Hummingbird hawk-moth
a dog in a car
two sumo wrestlers
Zac Efron at premiere
Lego minifigure of Yoda
a hot dog and a café au lait
pointy black eyering
the Champs de Mars with la Tour Eiffel
naïve café
x""".splitlines()


@pytest.mark.parametrize("caption", FOREIGN)
def test_words_of_another_language_are_known(caption: str) -> None:
    assert is_other_language(tokenize(caption))
    assert not is_other_script(caption)


def test_english_is_not_another_language() -> None:
    labelled = [json.loads(line)["caption"] for line in LABELLED.read_text().splitlines()]
    assert [text for text in [*ENGLISH, *labelled] if is_other_language(tokenize(text))] == []


@pytest.mark.parametrize(
    ("line", "other"),
    [("красная птица", True), ("小さな赤い船", True), ("ａ ｒｅｄ ｂｏａｔ", True), ("ソニーの小さなカメラ A7", True),
     ("a red boat 赤い船", False), ("café naïve", False), ("a red bird 🌳", False), ("123 🌳", False), ("", False)],
)  # fmt: skip
def test_scripts(line: str, other: bool) -> None:
    assert is_other_script(line) is other


CAPTIONS = [
    ("1", "a red bird"), ("2", "a red bird"), ("3", "ａ ｒｅｄ ｂｏａｔ"), ("4", "красная птица"),
    ("5", "Ein kleiner roter Hund läuft"), ("6", "🌳"),
]  # fmt: skip


def test_captions_are_counted_as_what_they_are() -> None:
    vocabulary, measured = build_vocabulary(CAPTIONS, LIMITS.model_copy(update={"min_count": 1}))
    found = (measured.captions_empty, measured.captions_other_script, measured.captions_other_language)
    assert found == (1, 2, 1)
    assert measured.unusable_share == round(4 / 6, 6)
    assert measured.num_words_other_script >= 3
    assert not [word for word in (*vocabulary.nouns, *vocabulary.adjectives) if word > "\u3000"]


def test_a_corpus_that_is_mostly_unusable_is_refused_for_any_reasons() -> None:
    left_out = Counter({"caption_not_utf8": 3, "empty_caption": 1})
    limit = Limit(0.79, left_out, {"caption_not_utf8": "9: 'caf\\xe9'"})
    _, measured = build_vocabulary(CAPTIONS, LIMITS, limit=Limit(0.8, left_out))
    assert measured.unusable_share == 0.8
    assert measured.captions_unusable == left_out
    told = (
        r"80\.0% of the captions are unusable\n +found: +of 10: 3 caption_not_utf8, 2 other_script, 1 empty_caption, "
        r"1 empty, 1 other_language; caption_not_utf8 is such as 9: 'caf\\xe9'\n +expected: +at most "
        r"corpus\.max_bad_fraction = 0\.79"
    )
    with pytest.raises(DataError, match=told):
        build_vocabulary(CAPTIONS, LIMITS, limit=limit)
    with pytest.raises(DataError, match=r"other_script is such as 3: 'ａ ｒｅｄ ｂｏａｔ'"):
        build_vocabulary(CAPTIONS, LIMITS, limit=Limit(0.5))


def test_the_limit_counts_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqpipe.text.counting.CHUNK", 2)
    with pytest.raises(
        DataError, match=r"66\.7% .*\n +found: +of 6: 2 other_script, 1 empty, 1 other_language"
    ):
        build_vocabulary(CAPTIONS, LIMITS, limit=Limit(0.5))
