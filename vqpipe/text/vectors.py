"""Word vectors: from CLIP's text encoder, from its token embeddings, from a GloVe file, or drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vqpipe.errors import DataError, MismatchError
from vqpipe.params.graph import ClipTokenVectors, ClipVectors, GloveVectors, RandomVectors, VectorParams
from vqpipe.runtime.progress import track
from vqpipe.runtime.seeds import numpy_rng
from vqpipe.text.glove import read_glove
from vqpipe.text.vocabulary import Vocabulary

Encode = Callable[[Sequence[str]], Tensor]
"""n texts to a float tensor of shape (n, d)."""
BATCH = 256


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
    """`clip`: the CLIP's id, or None where none made them; `vectors`: kind, params and source; `dim`."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """For a GloVe file, its coverage; otherwise empty."""


def word_vectors(
    vocabulary: Vocabulary, config: VectorParams, load_clip: Callable[[], TextEncoder]
) -> WordVectors:
    """Vectors of all words of a vocabulary.

    Args:
        vocabulary: the words.
        config: where the vectors come from.
        load_clip: loads the CLIP; called for the kinds that need one alone.

    Raises:
        MismatchError: the CLIP gives vectors that are not finite, or a word without tokens.
        DataError: as `vqpipe.text.glove.read_glove`; words that it lacks under `unknown: error`, or no word of a
            class left under `drop`.
    """
    adjectives, nouns = list(vocabulary.adjectives), list(vocabulary.nouns)
    match config:
        case ClipVectors():
            clip, prompts = load_clip(), config.prompts
            made = (
                prompt_vectors(adjectives, prompts.adjective, clip.encode_text),
                prompt_vectors(nouns, prompts.noun, clip.encode_text),
            )
            return _packed(vocabulary, made, config, clip.id)
        case ClipTokenVectors():
            clip = load_clip()
            return _packed(
                vocabulary, (token_vectors(adjectives, clip), token_vectors(nouns, clip)), config, clip.id
            )
        case GloveVectors():
            return _glove(vocabulary, config)
        case RandomVectors():
            drawn = (
                _drawn(adjectives, "adjective", config.dim, config.std, config.seed),
                _drawn(nouns, "noun", config.dim, config.std, config.seed),
            )
            return _packed(vocabulary, drawn, config, None)


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
    ends = ids.argmax(dim=1)  # padding has the id of a token, so lengths are told by the end token
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
    facts = {"clip": clip_id, "vectors": config.model_dump(mode="json"), "dim": made[0].shape[1]}
    return WordVectors(vocabulary, *made, facts)


def _drawn(words: Sequence[str], name: str, dim: int, std: float, seed: int) -> Float[Tensor, "n d"]:
    """A normal vector of each word, which depends on the seed, the class and the word alone."""
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
    metrics: dict[str, Any] = {}
    for name, words in sides.items():
        metrics[f"{name}s"] = _coverage(words, known, config.unknown)
        if config.hyphens == "parts":
            metrics[f"{name}s"]["num_from_parts"] = sum(word in known and word not in whole for word in words)
    if glove.num_damaged:
        metrics["num_damaged_lines"] = glove.num_damaged
    unknown = {name: [word for word in words if word not in known] for name, words in sides.items()}
    if config.unknown == "error" and any(unknown.values()):
        raise DataError(
            f"{config.path} lacks words of the vocabulary",
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
                raise DataError(f"{config.path} has no {name} of the vocabulary")
        drawn = dict(
            zip(unknown[name], _drawn(unknown[name], name, config.dim, std, config.seed), strict=True)
        )
        rows = [drawn[word] if word in drawn else torch.tensor(known[word]) for word in sides[name]]
        made[name] = torch.stack(rows).float()
    kept = replace(vocabulary, adjectives=sides["adjective"], nouns=sides["noun"])
    source = {"file": Path(config.path).name, "sha256": glove.sha256}
    if glove.member is not None:
        source["member"] = glove.member
    left_out = {"path", "sha256"} | ({"hyphens"} if config.hyphens == "whole" else set())
    facts = {
        "clip": None,
        "vectors": {**config.model_dump(mode="json", exclude=left_out), **source},
        "dim": config.dim,
    }
    return WordVectors(kept, made["adjective"], made["noun"], facts, {"vectors": metrics})


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


def _coverage(words: Mapping[str, int], known: Mapping[str, Any], policy: str) -> dict[str, float]:
    """Shares of words and of their counts that have a vector, and what became of the other words."""
    lacking = sum(word not in known for word in words)
    said = sum(count for word, count in words.items() if word in known)
    return {
        "coverage": round(1 - lacking / len(words), 6),
        "coverage_said": round(said / max(1, sum(words.values())), 6),
        "num_dropped": lacking if policy == "drop" else 0,
        "num_random": lacking if policy == "random" else 0,
    }


def _check_finite(vectors: Tensor, texts: Sequence[str], problem: str) -> None:
    bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise MismatchError(
            problem,
            found=", ".join(repr(texts[row]) for row in bad[:3]),
            expected="finite numbers; is the CLIP sound?",
            run="dvc repro clip",
        )
