"""What each part-of-speech backend makes of one caption, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vqpipe.errors import ParamsError, SetupError
from vqpipe.params.base import validate
from vqpipe.text.pos import TAGGERS, tagger
from vqpipe.text.tagger import Analysis, PhraseParams, PosParams

Pair = tuple[str, str]

BY_DEFAULT = ("wordnet", "nltk")
"""Backends that answer where none is named; spaCy takes seconds and hundreds of megabytes to load."""
DEFAULT_SPACY_MODEL = "en_core_web_sm"


def params_of(name: str, spacy_model: str) -> PosParams:
    """The params of a backend that is named on a command line.

    Raises:
        ParamsError: there is no such backend.
    """
    model = TAGGERS[name].Params
    given = {"kind": name, "model": spacy_model, "batch_size": 1}
    fields = {field: value for field, value in given.items() if field in model.model_fields}
    return validate(fields, f"backend {name}", model, "vqpipe pairs")


def side_by_side(
    caption: str, backends: Sequence[str], spacy_model: str | None, phrases: PhraseParams
) -> str:
    """A table of the words of a caption, one of its pairs, and why a backend is not in them.

    Args:
        caption: any string.
        backends: names of taggers; empty for those of `BY_DEFAULT`, and spaCy where its pipeline is named.
        spacy_model: the pipeline of the backend spacy; None for `DEFAULT_SPACY_MODEL`.
        phrases: what counts as a pair.

    Raises:
        ParamsError: there is no backend of that name, or a pipeline is named and other backends than spacy.
        SetupError: a backend that is named cannot be used here. For a backend by default, the text states it instead.
    """
    found: dict[str, Analysis] = {}
    absent: dict[str, SetupError] = {}
    names = backends or (*BY_DEFAULT, *(["spacy"] if spacy_model else []))
    if spacy_model is not None and "spacy" not in names:
        raise ParamsError(
            "--spacy-model names the pipeline of a backend that does not answer", found=", ".join(names),
            expected="--backend spacy, or no --spacy-model",
        )  # fmt: skip
    configs = {name: params_of(name, spacy_model or DEFAULT_SPACY_MODEL) for name in names}
    for name, config in configs.items():
        try:
            found[name] = next(tagger(config).analyse((caption,), phrases))
        except SetupError as error:
            if backends:
                raise
            absent[name] = error
    lines = [*_words(found), *_table({name: Counter(own.pair_words()) for name, own in found.items()})]
    return "\n".join([*lines, *(_why(name, error) for name, error in absent.items())])


def _words(found: Mapping[str, Analysis]) -> list[str]:
    """One line for each word with its part of speech by each backend, and its lemma where that differs."""
    rows = [
        [
            own[0].text,
            *(word.pos if word.lemma == word.text else f"{word.pos} ({word.lemma})" for word in own),
        ]
        for own in zip(*(analysis.words for analysis in found.values()), strict=True)
    ]
    return [*_aligned([["word", *found], *rows]), ""] if rows else []


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _table(found: Mapping[str, Counter[Pair]]) -> list[str]:
    """One line for each pair, in the order in which they are found; a column of counts for each backend."""
    rows = list(dict.fromkeys(pair for counts in found.values() for pair in counts))
    if not rows:
        return [f"no pairs ({', '.join(found)})"] if found else []
    lines = [[*pair, *(str(counts[pair] or "-") for counts in found.values())] for pair in rows]
    return _aligned([["adjective", "noun", *found], *lines])


def _why(name: str, error: SetupError) -> str:
    """One line from an error: what is wrong, and the command that solves it."""
    problem, *details = [line.strip() for line in str(error).splitlines()]
    run = next((line.removeprefix("run:").strip() for line in details if line.startswith("run:")), "")
    return f"{name} is not available: {problem}" + (f"; run: {run}" if run else "")
