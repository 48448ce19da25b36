"""Word vectors: of CLIP's text encoder or its token embeddings, of a sentence model, of GloVe, or drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor

from vqpipe.artifacts.metrics import Metrics
from vqpipe.errors import DataError, MismatchError
from vqpipe.params.base import Params
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.runtime.terminal import track
from vqpipe.text.glove import BUNDLED, GloveVectors, read_glove
from vqpipe.text.sentences import SentenceModel, SentenceModelParams
from vqpipe.text.vocabulary import Vocabulary

Encode = Callable[[Sequence[str]], Tensor]
"""n texts to a float tensor of shape (n, d)."""
BATCH = 256


class Prompts(Params):
    """The sentence that a word is put into before the text encoder sees it. `{}` is the place of the word."""

    adjective: str
    """For adjectives (VQCT: "a photo of {} object")."""
    noun: str
    """For nouns (VQCT: "a photo of {}")."""

    @field_validator("adjective", "noun")
    @classmethod
    def _one_place(cls, prompt: str) -> str:
        if prompt.count("{}") != 1 or "{" in prompt.replace("{}", "") or "}" in prompt.replace("{}", ""):
            raise ValueError("needs the place of the word, {}, exactly once, and no other braces")
        return prompt


class ClipVectors(Params):
    """Word vectors from the text encoder of the pinned CLIP: unnormalised, in its joint space."""

    kind: Literal["clip"]
    """Names this kind."""
    prompts: Prompts
    """The sentence around each word."""


class ClipTokenVectors(Params):
    """The mean of the word's byte-pair token embeddings, the input table of the pinned CLIP's text encoder.

    A CLIP that was fitted here has learnt rows only for the tokens of its captions.
    """

    kind: Literal["clip_tokens"]
    """Names this kind."""


class SentenceVectors(SentenceModelParams):
    """Word vectors from a pretrained sentence-embedding model, a language model that never saw an image."""

    prompts: Prompts
    """The sentence around each word; `{}` is the word alone."""


class RandomVectors(Params):
    """Normal vectors that do not depend on what a word means: the ablation of VQCT, Table 2."""

    kind: Literal["random"]
    """Names this kind."""
    dim: int = Field(ge=1)
    """Numbers of each vector."""
    std: float = Field(gt=0)
    """Standard deviation of each number."""
    seed: int = Field(ge=0)
    """Of the draw. A word's vector depends only on the seed, its class and the word."""


VectorParams = Annotated[
    ClipVectors | ClipTokenVectors | GloveVectors | SentenceVectors | RandomVectors,
    Field(discriminator="kind"),
]
"""Where word vectors come from."""


class Coverage(Metrics):
    """How many words of a class have a vector in a GloVe file."""

    coverage: float
    """Share of the words, 0 to 1; higher is better."""
    coverage_said: float
    """Share of their occurrences in the captions, 0 to 1; higher is better."""
    num_dropped: int
    """Words that were left out of the codebook."""
    num_random: int
    """Words whose vector was drawn."""
    num_from_parts: int | None = None
    """Words with hyphens whose vector is the mean of their parts'; with `hyphens: parts`."""


class VectorMetrics(Metrics):
    """What a GloVe file has of the vocabulary."""

    adjectives: Coverage
    """Of the adjectives."""
    nouns: Coverage
    """Of the nouns."""
    num_damaged_lines: int | None = None
    """Lines of the file that are not a word with finite numbers, where there are any."""


class TextEncoder(Protocol):
    """What word vectors ask of a CLIP; the stage passes one, since this layer does not know how to load it."""

    id: str
    """NAME:TAG:DIGEST."""

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Text embeddings, not normalised."""
        ...

    def token_ids(self, texts: Sequence[str]) -> Int[Tensor, "n t"]:
        """Byte-pair token ids: start, text, end, zeros; the end token has the largest id of all."""
        ...

    def token_embeddings(self) -> Float[Tensor, "v w"]:
        """The input table of the text encoder."""
        ...


@dataclass(frozen=True)
class WordVectors:
    """Vectors of a vocabulary's words in the order of their indices, float32 on the CPU.

    `vocabulary` has the words that have one: where a GloVe file's unknown words are dropped, fewer than there were.
    """

    vocabulary: Vocabulary
    adjectives: Float[Tensor, "ka d"]
    nouns: Float[Tensor, "kn d"]
    facts: Mapping[str, Any]
    """`clip_id`: None where no CLIP made them; `vectors`: kind, params and source; `dim`."""
    metrics: VectorMetrics | None = None
    """Of a GloVe file."""


def word_vectors(
    vocabulary: Vocabulary, config: VectorParams, load_clip: Callable[[], TextEncoder]
) -> WordVectors:
    """Vectors of all words of a vocabulary.

    Args:
        vocabulary: the words.
        config: where the vectors come from.
        load_clip: loads the CLIP; called only for the kinds that need one.

    Raises:
        MismatchError: the CLIP gives vectors that are not finite, or a word without tokens.
        DataError, SetupError: as `vqpipe.text.glove.read_glove` and `vqpipe.text.sentences.SentenceModel`; words that
            GloVe lacks under `unknown: error`, or no word of a class left under `drop`.
    """
    adjectives, nouns = list(vocabulary.adjectives), list(vocabulary.nouns)
    match config:
        case ClipVectors():
            clip = load_clip()
            return _packed(
                vocabulary, _prompted(vocabulary, config.prompts, clip.encode_text), config, clip.id
            )
        case ClipTokenVectors():
            clip = load_clip()
            return _packed(
                vocabulary, (token_vectors(adjectives, clip), token_vectors(nouns, clip)), config, clip.id
            )
        case GloveVectors():
            return _glove(vocabulary, config)
        case SentenceVectors():
            model = SentenceModel(config.model, config.sha256)
            found = _packed(vocabulary, _prompted(vocabulary, config.prompts, model.encode), config, None)
            source = {"model": Path(config.model).name, "sha256": model.sha256}
            return replace(found, facts={**found.facts, "vectors": {**found.facts["vectors"], **source}})
        case RandomVectors():
            drawn = (
                _drawn(adjectives, "adjective", config.dim, config.std, config.seed),
                _drawn(nouns, "noun", config.dim, config.std, config.seed),
            )
            return _packed(vocabulary, drawn, config, None)


def _prompted(vocabulary: Vocabulary, prompts: Prompts, encode: Encode) -> tuple[Tensor, Tensor]:
    """Vectors of the adjectives and of the nouns; see `prompt_vectors`."""
    return (
        prompt_vectors(list(vocabulary.adjectives), prompts.adjective, encode),
        prompt_vectors(list(vocabulary.nouns), prompts.noun, encode),
    )


def prompt_vectors(words: Sequence[str], prompt: str, encode: Encode) -> Float[Tensor, "n d"]:
    """The encoder's vectors of `prompt.format(word)`, as it gives them (not normalised), float32 on the CPU.

    VQCT (section 4.1): CLIP's text encoder, "a photo of {} object" for adjectives and "a photo of {}"
    for nouns.

    Raises:
        MismatchError: the encoder gives vectors that are not finite.
    """
    texts = [prompt.format(word) for word in words]
    parts = []
    with torch.no_grad():
        for start in track(range(0, len(texts), BATCH), "word vectors"):
            parts.append(encode(texts[start : start + BATCH]).float().cpu())
    vectors = torch.cat(parts)
    _check_finite(vectors, texts, "the text encoder gives word vectors that are not finite")
    return vectors


def token_vectors(words: Sequence[str], clip: TextEncoder) -> Float[Tensor, "n w"]:
    """The mean of each word's byte-pair token embeddings (start and end left out), float32 on the CPU.

    Raises:
        MismatchError: a word without tokens, or an embedding that is not finite.
    """
    table = clip.token_embeddings().detach().float().cpu()
    ids = clip.token_ids(words).cpu()
    ends = ids.argmax(dim=1)  # padding has the id of a token, so the end token marks the length
    empty = (ends < 2).nonzero().flatten().tolist()
    if empty:
        raise MismatchError(
            "words without a token of CLIP", found=", ".join(repr(words[row]) for row in empty[:3])
        )
    vectors = torch.stack([table[row[1:end]].mean(0) for row, end in zip(ids, ends.tolist(), strict=True)])
    _check_finite(vectors, words, "CLIP's token embeddings are not finite")
    return vectors


def _packed(
    vocabulary: Vocabulary, made: tuple[Tensor, Tensor], config: VectorParams, clip_id: str | None
) -> WordVectors:
    facts = {"clip_id": clip_id, "vectors": config.model_dump(mode="json"), "dim": made[0].shape[1]}
    return WordVectors(vocabulary, *made, facts)


def _drawn(words: Sequence[str], name: str, dim: int, std: float, seed: int) -> Float[Tensor, "n d"]:
    """A normal vector of each word, which depends only on the seed, the class and the word."""
    rows = [numpy_rng(seed, "word vector", name, word).standard_normal(dim) for word in words]
    return torch.from_numpy(np.array(rows, dtype=np.float64).reshape(len(rows), dim) * std).float()


def _glove(vocabulary: Vocabulary, config: GloveVectors) -> WordVectors:
    sides = {"adjective": dict(vocabulary.adjectives), "noun": dict(vocabulary.nouns)}
    every = {word for words in sides.values() for word in words}
    parts = _parts(every) if config.hyphens == "parts" else {}
    glove = read_glove(config, every.union(*parts.values()))
    known = {word: vector for word, vector in glove.vectors.items() if word in every}
    whole = set(known)
    known |= _means(glove.vectors, {word: own for word, own in parts.items() if word not in known})
    unknown = {name: [word for word in words if word not in known] for name, words in sides.items()}
    if config.unknown == "error" and any(unknown.values()):
        raise DataError(
            f"{config.source} lacks words of the vocabulary",
            found="; ".join(
                f"{len(words)} {name}s: {', '.join(words[:5])}{', …' if len(words) > 5 else ''}"
                for name, words in unknown.items()
                if words
            ),
            expected="a vector for each word; or graph.vectors.unknown: drop, or random",
        )
    std = float(torch.tensor(list(known.values()), dtype=torch.float64).std(correction=0)) if known else 0.0
    made = {}
    for name, words in sides.items():
        if config.unknown == "drop":
            sides[name] = {word: count for word, count in words.items() if word in known}
            if not sides[name]:
                raise DataError(f"{config.source} has no {name} of the vocabulary")
        drawn = dict(
            zip(unknown[name], _drawn(unknown[name], name, config.dim, std, config.seed), strict=True)
        )
        rows = [drawn[word] if word in drawn else torch.tensor(known[word]) for word in sides[name]]
        made[name] = torch.stack(rows).float()
    from_parts = known.keys() - whole if config.hyphens == "parts" else None
    measured = VectorMetrics(
        adjectives=_coverage(vocabulary.adjectives, known, from_parts, config.unknown),
        nouns=_coverage(vocabulary.nouns, known, from_parts, config.unknown),
        num_damaged_lines=glove.num_damaged or None,
    )
    kept = vocabulary.only(sides["adjective"], sides["noun"])
    source = {"file": Path(config.path or BUNDLED).name, "sha256": glove.sha256}
    if glove.member is not None:
        source["member"] = glove.member
    left_out = {"path", "sha256"} | ({"hyphens"} if config.hyphens == "whole" else set())
    facts = {
        "clip_id": None,
        "vectors": {**config.model_dump(mode="json", exclude=left_out), **source},
        "dim": config.dim,
    }
    return WordVectors(kept, made["adjective"], made["noun"], facts, measured)


def _parts(words: Iterable[str]) -> dict[str, list[str]]:
    """The parts of each word with hyphens; "t-shirt" has "t" and "shirt"."""
    split = {word: [part for part in word.split("-") if part] for word in words if "-" in word}
    return {word: own for word, own in split.items() if len(own) > 1}


def _means(vectors: Mapping[str, list[float]], parts: Mapping[str, list[str]]) -> dict[str, list[float]]:
    """The mean of each word's parts, where all have a vector."""
    return {
        word: np.mean([vectors[part] for part in own], axis=0).tolist()
        for word, own in parts.items()
        if all(part in vectors for part in own)
    }


def _coverage(
    words: Mapping[str, int], known: Collection[str], from_parts: Collection[str] | None, policy: str
) -> Coverage:
    """What a file has of the words of a class; `from_parts` are those that it has in parts, None: not requested."""
    lacking = sum(word not in known for word in words)
    covered = sum(count for word, count in words.items() if word in known)
    return Coverage(
        coverage=round(1 - lacking / len(words), 6),
        coverage_said=round(covered / max(1, sum(words.values())), 6),
        num_dropped=lacking if policy == "drop" else 0,
        num_random=lacking if policy == "random" else 0,
        num_from_parts=None if from_parts is None else sum(word in from_parts for word in words),
    )


def _check_finite(vectors: Tensor, texts: Sequence[str], problem: str) -> None:
    bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise MismatchError(
            problem,
            found=", ".join(repr(texts[row]) for row in bad[:3]),
            expected="finite numbers; is the CLIP or the sentence model damaged?",
        )
