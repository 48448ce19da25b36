"""The part-of-speech backends that tests use; one that this machine has no data for skips its test."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqpipe.errors import SetupError
from vqpipe.params.pos import NltkPos, WordnetPos
from vqpipe.text.pos import tagger
from vqpipe.text.words import Tagger

SHARED = Path("../shared/data").resolve()
TREEBANK = SHARED / "pos/en_ewt-ud-dev.conllu"
NAMES = ("wordnet", "nltk")


def backend(name: str) -> Tagger:
    """The backend of that name, or a skip."""
    if name == "wordnet":
        return tagger(WordnetPos(kind="wordnet"))
    import nltk.data

    folder = str(SHARED / "nltk_data")
    if folder not in nltk.data.path:
        nltk.data.path.append(folder)
    try:
        return tagger(NltkPos(kind="nltk"))
    except SetupError as error:
        pytest.skip(str(error).splitlines()[0])
