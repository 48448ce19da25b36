"""The part-of-speech backends that tests use, and a small tagger of ours where NLTK's data is not on this machine."""

from __future__ import annotations

import json
import random
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from vqpipe.errors import SetupError
from vqpipe.text.nltk_tagger import DATA, NltkPos, NltkTagger
from vqpipe.text.pos import tagger
from vqpipe.text.tagger import Tagger
from vqpipe.text.wordnet_tagger import WordnetPos

ROOT = Path(__file__).parents[1]
SHARED = (ROOT / "../shared/data").resolve()
TREEBANK = SHARED / "pos/en_ewt-ud-dev.conllu"
TAGGED = ROOT / "tests/data/captions_penn.txt"
NAMES = ("wordnet", "nltk")


def usable_backend(name: str) -> Tagger:
    """The backend of that name; NLTK's with its own data, or else trained on our tagged captions.

    The small tagger knows the captions of the tests, so that what is made of the tags is tested without the data.
    """
    if name == "wordnet":
        return tagger(WordnetPos(kind="wordnet"))
    try:
        return _nltk(str(SHARED / "nltk_data"))
    except SetupError:
        return small_nltk()


def backend(name: str) -> Tagger:
    """The same for tests of its quality, which only NLTK's own data has; a skip where that is not on this machine."""
    try:
        return usable_backend(name) if name == "wordnet" else _nltk(str(SHARED / "nltk_data"))
    except SetupError as error:
        pytest.skip(str(error).splitlines()[0])


@lru_cache
def _nltk(folder: str) -> Tagger:
    """NLTK's tagger, with data from its usual folders or from this one, which is looked into last."""
    import nltk.data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [*nltk.data.path, folder])
        return NltkTagger(NltkPos(kind="nltk"))


@lru_cache(maxsize=1)
def small_nltk() -> Tagger:
    """A tagger that is trained on `TAGGED`, the same in every process, whatever data this machine has."""
    import nltk.data
    from nltk.tag.perceptron import PerceptronTagger

    lines = TAGGED.read_text(encoding="utf-8").splitlines()
    sentences = [[tuple(pair.rsplit("/", 1)) for pair in line.split()] for line in lines]
    own, state = PerceptronTagger(load=False), random.getstate()
    random.seed(0)
    own.train(sentences, nr_iter=10)
    random.setstate(state)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        folder = Path(root, "taggers", DATA)
        folder.mkdir(parents=True)
        for part, content in zip(("weights", "tagdict", "classes"), own.encode_json_obj(), strict=True):
            (folder / f"{DATA}.{part}.json").write_text(json.dumps(content), encoding="utf-8")
        patch.setattr(nltk.data, "path", [root])
        return NltkTagger(NltkPos(kind="nltk"))
