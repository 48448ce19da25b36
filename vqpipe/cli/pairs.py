"""What each part-of-speech backend makes of one caption, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vqpipe.errors import ParamsError, SetupError, did_you_mean
from vqpipe.params.graph import PhraseParams
from vqpipe.params.pos import NltkPos, PosParams, SpacyPos, WordnetPos
from vqpipe.text.phrases import pairs
from vqpipe.text.pos import BACKENDS, tagger

Pair = tuple[str, str]


def params_of(name: str, spacy_model: str) -> PosParams:
    """The params of a backend that is named on a command line.

    Raises:
        ParamsError: there is no such backend.
    """
    known: dict[str, PosParams] = {
        "wordnet": WordnetPos(kind="wordnet"),
        "nltk": NltkPos(kind="nltk"),
        "spacy": SpacyPos(kind="spacy", model=spacy_model, batch_size=1),
    }
    if name not in known:
        raise ParamsError(
            f"there is no backend {name}{did_you_mean(name, list(known))}", found=name, choices=known
        )
    return known[name]


def side_by_side(caption: str, backends: Sequence[str], spacy_model: str, phrases: PhraseParams) -> str:
    """A table of the pairs that each backend finds in a caption, and why a backend is not in it.

    Args:
        caption: any string.
        backends: names of `BACKENDS`; empty for all of them.
        spacy_model: the pipeline of the backend spacy.
        phrases: what counts as a pair.

    Raises:
        ParamsError: there is no backend of that name.
        SetupError: a backend that is named cannot be used here. Of those not named, the text says so instead.
    """
    found: dict[str, Counter[Pair]] = {}
    absent: dict[str, SetupError] = {}
    for name in dict.fromkeys(backends or BACKENDS):
        config = params_of(name, spacy_model)
        try:
            found[name] = Counter(pairs(caption, tagger(config), phrases))
        except SetupError as error:
            if backends:
                raise
            absent[name] = error
    return "\n".join([*_table(found), *(_why(name, error) for name, error in absent.items())])


def _table(found: Mapping[str, Counter[Pair]]) -> list[str]:
    """One line for each pair, in the order in which they are found; a column of counts for each backend."""
    rows = list(dict.fromkeys(pair for counts in found.values() for pair in counts))
    if not rows:
        return [f"no pairs ({', '.join(found)})"] if found else []
    heads = ("adjective", "noun")
    widths = [max(len(head), *(len(pair[at]) for pair in rows)) for at, head in enumerate(heads)]
    lines = [[head.ljust(width) for head, width in zip(heads, widths, strict=True)] + list(found)]
    for pair in rows:
        cells = [str(counts[pair] or "-").ljust(len(name)) for name, counts in found.items()]
        lines.append([text.ljust(width) for text, width in zip(pair, widths, strict=True)] + cells)
    return ["  ".join(line).rstrip() for line in lines]


def _why(name: str, error: SetupError) -> str:
    """One line from an error: what is wrong, and the command against it."""
    problem, *details = [line.strip() for line in str(error).splitlines()]
    run = next((line.removeprefix("run:").strip() for line in details if line.startswith("run:")), "")
    return f"{name} is not available: {problem}" + (f"; run: {run}" if run else "")
