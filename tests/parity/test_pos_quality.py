"""The backends against treebanks and captions labelled by hand: they keep what they have been measured at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends import NAMES, TREEBANK, backend
from tests.text_quality import mistakes, read_conllu, read_labelled, score, score_captions
from vqpipe.text.phrases import PLAIN
from vqpipe.text.tagger import PhraseParams

DATA = Path(__file__).parents[1] / "data"
OWN_TREEBANK = DATA / "treebank_own_24.conllu"
PREDICATIVE = PhraseParams(predicative=True, shades="noun")
KEPT_ON_CAPTIONS = {
    ("captions_coco_150", "wordnet"): {"adjective": 0.94, "noun": 0.98, "pair": 0.91},
    ("captions_coco_150", "nltk"): {"adjective": 0.91, "noun": 0.97, "pair": 0.895},
    ("captions_own_100", "wordnet"): {"adjective": 0.98, "noun": 0.98, "pair": 0.97},
    ("captions_own_100", "nltk"): {"adjective": 0.94, "noun": 0.95, "pair": 0.9},
}
"""F1 by file and backend; both files' pairs are asked for without and with the predicative ones."""
KEPT_ON_TREEBANK = {"adjective": 0.87, "noun": 0.94, "pair": 0.82}
KEPT_ON_OWN_TREEBANK = {"adjective": 0.97, "noun": 0.97, "pair": 0.94}


@pytest.mark.skipif(not TREEBANK.is_file(), reason="the treebank is not on this machine")
@pytest.mark.parametrize("name", NAMES)
def test_quality_on_a_treebank(name: str) -> None:
    _check(name, TREEBANK, KEPT_ON_TREEBANK)


@pytest.mark.parametrize("name", NAMES)
def test_quality_on_our_own_sentences(name: str) -> None:
    _check(name, OWN_TREEBANK, KEPT_ON_OWN_TREEBANK)


def _check(name: str, path: Path, kept: dict[str, float]) -> None:
    sentences = list(read_conllu(path))
    found = list(backend(name).analyse_tokens([gold.tokens for gold in sentences], PLAIN))
    scores = score(found, sentences)
    for kind, least in kept.items():
        assert scores[kind].f1 >= least, kind
    wrong = list(mistakes(found, sentences))
    right = sum(len(gold.pairs) for gold in sentences) - sum(mistake.kind == "missed" for mistake in wrong)
    said = right + sum(mistake.kind == "false" for mistake in wrong)
    assert scores["pair"].precision == pytest.approx(right / said)


def test_our_own_sentences_are_a_treebank() -> None:
    sentences = list(read_conllu(OWN_TREEBANK))
    assert (len(sentences), sum(len(gold.pairs) for gold in sentences)) == (24, 52)
    assert len({pair for gold in sentences for pair in gold.joined - gold.pairs}) == 1


@pytest.mark.parametrize(("file", "name"), KEPT_ON_CAPTIONS)
@pytest.mark.parametrize("phrases", [PLAIN, PREDICATIVE], ids=["attributive", "predicative"])
def test_quality_on_labelled_captions(file: str, name: str, phrases: PhraseParams) -> None:
    captions = read_labelled(DATA / f"{file}.jsonl")
    found = backend(name).analyse([caption.caption for caption in captions], phrases)
    scores = score_captions(found, captions, phrases.predicative)
    for kind, least in KEPT_ON_CAPTIONS[file, name].items():
        assert scores[kind].f1 >= least, kind


def test_the_labelled_captions_are_whole() -> None:
    for file, count in (("captions_coco_150", 150), ("captions_own_100", 100)):
        captions = read_labelled(DATA / f"{file}.jsonl")
        assert len({caption.id for caption in captions}) == len(captions) == count
        for caption in captions:
            joined = (*caption.pairs, *caption.predicative)
            assert {adjective for adjective, _ in joined} <= set(caption.adjectives), caption.id
            assert {noun for _, noun in joined} <= set(caption.nouns), caption.id
