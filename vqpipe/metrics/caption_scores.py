"""Scores of captions against references, as the package `pycocoevalcap` 1.2 computes them on tokenised captions.

- BLEU-1 to BLEU-4 (Papineni et al., 2002), with the closest reference length. Of a corpus it is no mean over captions.
- ROUGE-L (Lin, 2004) with beta = 1.2, from the best precision and the best recall over the references.
- CIDEr-D (Vedantam et al., 2015, section 5, sigma = 6, times 10). Document frequencies are those of the references
  that are passed in, and an image is a document: values of two sets of images cannot be compared. With one image every
  inverse document frequency is log 1, and CIDEr-D is 0 for any caption.
- METEOR 1.5 (Denkowski and Lavie, 2014) and SPICE (Anderson et al., 2016) are programs in Java. Where one cannot run
  or gives no number it is absent, with the reason; there is no substitute.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vqpipe.errors import DataError, SetupError
from vqpipe.metrics.caption_words import PUNCTUATION, ptb_words
from vqpipe.metrics.texts import check_list, check_texts

PerExample = Float64[np.ndarray, " n"]
Tokenised = dict[int, list[str]]
"""For each image its captions, the tokens of each joined by spaces: what the package's scorers take."""

NO_JAVA = "no program `java` is on the search path"
_LINE_ENDS = re.compile("[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")
_TOKENIZER_JAR = "stanford-corenlp-3.4.1.jar"
_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_OPENED = ("java.lang", "java.math", "java.util", "java.util.concurrent", "java.net", "java.text")
_OPEN = " ".join(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED)
_SPICE_OPTIONS = f"{_OPEN} --add-opens=java.sql/java.sql=ALL-UNNAMED"
"""SPICE was written for Java 8 and reads private fields of these packages, which later versions close."""
_FAILURES = (OSError, ValueError, TypeError, LookupError, AssertionError, subprocess.SubprocessError)
"""What the package raises where a program ends early or writes something else than numbers."""


@dataclass(frozen=True)
class CaptionScores:
    """Scores by name: bleu_1 to bleu_4, rouge_l, cider_d, meteor, spice.

    Attributes:
        corpus: the score of the whole set; CIDEr-D is in 0..10, the others in 0..1.
        per_example: the same score of each image, float64 (n). The means of rouge_l, cider_d and spice are those of the
            set, the means of the others are not.
        tokenizer: `ptb-java`, Stanford's program, or `ptb`, our own (`caption_words`).
        absent: why a score is not there.
        num_candidates_without_words: candidates without a token. Their scores are 0 or nearly 0.
        num_references_without_words: references without a token. They count as references.
    """

    corpus: dict[str, float]
    per_example: dict[str, PerExample]
    tokenizer: str
    absent: dict[str, str] = field(default_factory=dict)
    num_candidates_without_words: int = 0
    num_references_without_words: int = 0


def caption_scores(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, java: bool | None = None
) -> CaptionScores:
    """Score one caption of each image against the image's references.

    Args:
        candidates: a caption for each of n images.
        references: for each image at least one caption.
        java: whether to run Java, for Stanford's tokenizer, METEOR and SPICE; null: if it is on the search path. METEOR
            or SPICE without a finite number for every image is absent in any case.

    Raises:
        DataError: no image, lengths that differ, an image without a reference, or something else than texts.
        SetupError: `java` is true, and there is no Java, or its tokenizer failed.
    """
    _check(candidates, references)
    if java and shutil.which("java") is None:
        raise SetupError(
            "the scores of captions were to use Java",
            found=NO_JAVA,
            expected="a Java runtime, or `java: false`",
        )
    runs = java is not False and shutil.which("java") is not None
    why = "Java was not to be run (java=False)" if java is False else NO_JAVA
    try:
        truth, given = _tokenised(candidates, references, java_words if runs else _own_words)
    except SetupError as error:
        if java:
            raise
        runs, why = False, str(error)
        truth, given = _tokenised(candidates, references, _own_words)

    absent: dict[str, str] = {}
    corpus, per_example = _without_java(truth, given)
    for name, scorer in (("meteor", _meteor), ("spice", _spice)):
        if not runs:
            absent[name] = why
            continue
        try:
            corpus[name], per_example[name] = _finite(*scorer(truth, given))
        except _Missing as reason:
            absent[name] = str(reason)
        except _FAILURES as error:
            absent[name] = f"its program failed: {error!r}"
    return CaptionScores(
        corpus=corpus,
        per_example=per_example,
        tokenizer="ptb-java" if runs else "ptb",
        absent=absent,
        num_candidates_without_words=sum(not caption for (caption,) in given.values()),
        num_references_without_words=sum(not caption for captions in truth.values() for caption in captions),
    )


def need_java(java: bool | None = True) -> dict[str, str]:
    """Run all programs in Java on one caption, which takes seconds, and return why METEOR or SPICE is absent, by name.

    Args:
        java: true or null, as in `caption_scores`.

    Raises:
        SetupError: `java` is true, and there is no Java, or its tokenizer failed.
    """
    return caption_scores(["a red bus on the street"], [["a red bus is on a street"]], java=java).absent


class _Missing(Exception):
    """A score without its files or without a number; the text is the reason."""


def _finite(value: float, values: PerExample) -> tuple[float, PerExample]:
    """A program's score. SPICE has no F for an image where it finds nothing in the caption nor in the references."""
    lacking = np.flatnonzero(~np.isfinite(values))
    if len(lacking) or not np.isfinite(value):
        first = f", first for image {lacking[0]}" if len(lacking) else ""
        raise _Missing(f"its program gave no number for {len(lacking)} of {len(values)} images{first}")
    return value, values


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    check_texts(candidates, "captions")
    check_list(references, "references")
    if not len(candidates) or len(candidates) != len(references):
        raise DataError(
            "scores need a caption and its references for each image",
            found=f"{len(candidates)} captions and references of {len(references)} images",
            expected="the same number, at least 1",
        )
    for image, captions in enumerate(references):
        check_texts(captions, f"references of image {image} of {len(references)}")
        if not len(captions):
            raise DataError(
                f"image {image} of {len(references)} has no references",
                found=repr(captions),
                expected="a list of at least one caption",
            )


def _tokenised(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenise: Callable[[Sequence[str]], list[list[str]]],
) -> tuple[Tokenised, Tokenised]:
    """References and candidates, in two calls as in the package."""
    words = iter(tokenise([caption for captions in references for caption in captions]))
    truth = {image: [" ".join(next(words)) for _ in captions] for image, captions in enumerate(references)}
    return truth, {image: [" ".join(tokens)] for image, tokens in enumerate(tokenise(candidates))}


def _without_java(truth: Tokenised, given: Tokenised) -> tuple[dict[str, float], dict[str, PerExample]]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, bleus = Bleu(4).compute_score(truth, given, verbose=0)
    corpus = {f"bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    per_example = {f"bleu_{n}": np.array(values, np.float64) for n, values in enumerate(bleus, start=1)}
    scorers: dict[str, Callable[..., tuple[Any, Any]]] = {"rouge_l": Rouge().compute_score}
    if any(caption for captions in truth.values() for caption in captions):
        scorers["cider_d"] = Cider().compute_score
    else:  # the package has no value for references without any token
        scorers["cider_d"] = lambda truth, given: (0.0, [0.0] * len(truth))
    for name, scorer in scorers.items():
        value, values = scorer(truth, given)
        corpus[name], per_example[name] = float(value), np.array(values, np.float64)
    return corpus, per_example


def _meteor(truth: Tokenised, given: Tokenised) -> tuple[float, PerExample]:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        value, values = scorer.compute_score(truth, given)
    finally:  # what its destructor does, which fails or waits for ever if the program ended early
        if scorer.lock.locked():
            scorer.lock.release()
        for pipe in (scorer.meteor_p.stdin, scorer.meteor_p.stdout, scorer.meteor_p.stderr):
            with suppress(OSError):
                pipe.close()
        scorer.meteor_p.kill()
        scorer.meteor_p.wait()
    return float(value), np.array(values, np.float64)


def _spice(truth: Tokenised, given: Tokenised) -> tuple[float, PerExample]:
    folder = _package() / "spice/lib"
    lacking = [name for name in _SPICE_JARS if not (folder / name).is_file()]
    if lacking:  # the package would download 0.4 GB
        raise _Missing(f"Stanford's parser is not in pycocoevalcap/spice/lib: {', '.join(lacking)}")
    from pycocoevalcap.spice.spice import Spice

    with _for_children("JDK_JAVA_OPTIONS", _SPICE_OPTIONS):
        value, values = Spice().compute_score(truth, given)
    return float(value), np.array([scores["All"]["f"] for scores in values], np.float64)


@contextmanager
def _for_children(name: str, options: str) -> Iterator[None]:
    """Put options before those that a variable of the environment has, for programs that are started meanwhile.

    Java 9 and later read `JDK_JAVA_OPTIONS`; Java 8, which refuses options that it does not know, does not.
    """
    own = os.environ.get(name)
    os.environ[name] = options if own is None else f"{options} {own}"
    try:
        yield
    finally:
        if own is None:
            del os.environ[name]
        else:
            os.environ[name] = own


def _own_words(captions: Sequence[str]) -> list[list[str]]:
    return [ptb_words(caption) for caption in captions]


def java_words(captions: Sequence[str]) -> list[list[str]]:
    """The words of captions by the tokenizer in the package, which is run as the package runs it.

    Raises:
        SetupError: the program failed.
    """
    lines = "\n".join(_LINE_ENDS.sub(" ", caption) for caption in captions)
    command = [
        "java",
        "-cp",
        _TOKENIZER_JAR,
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    try:
        run = subprocess.run(
            command, input=lines.encode(errors="replace"), capture_output=True, cwd=_package() / "tokenizer"
        )
    except OSError as error:
        raise SetupError("Java did not start", found=error, expected="a Java runtime") from error
    found = run.stdout.decode().split("\n")
    if run.returncode or len(found) != len(captions):
        raise SetupError(
            "Stanford's tokenizer failed",
            found=f"exit code {run.returncode}, {len(found)} lines; {run.stderr.decode(errors='replace')[-500:]}",
            expected=f"{len(captions)} lines",
        )
    return [[word for word in line.rstrip().split(" ") if word and word not in PUNCTUATION] for line in found]


def _package() -> Path:
    spec = find_spec("pycocoevalcap")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])
