"""Params of the stage `graph`: which pairs become edges, what they weigh, and how words become vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from vqpipe.params.base import Params


class Prompts(Params):
    """The sentence that a word is put into before the text encoder sees it. `{}` stands for the word."""

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

    A CLIP that was fitted here has learnt rows for the tokens of its captions alone.
    """

    kind: Literal["clip_tokens"]
    """Names this kind."""


class GloveVectors(Params):
    """Word vectors from a file in GloVe's text format: a word and its numbers on each line (VQCT, Table 5).

    The header line of word2vec's text format is passed over.

    The file is no dependency in dvc.yaml: `sha256` makes another content under the same name an error.
    """

    kind: Literal["glove"]
    """Names this kind."""
    path: str = Field(min_length=1)
    """The file, such as `glove.6B.300d.txt`: plain text, gzip, or a zip, of which the file named for `dim` is read
    where it has several."""
    dim: int = Field(ge=1)
    """Numbers on each line."""
    unknown: Literal["error", "drop", "random"]
    """Words that the file lacks: `error`; `drop` leaves them out of the prior, its graph included; `random` draws
    a normal vector with the mean 0 and the standard deviation of the numbers found."""
    hyphens: Literal["whole", "parts"] = "whole"
    """A word with hyphens that the file lacks: `whole`, it is unknown as any other; `parts`, its vector is the mean
    of its parts' where the file has all of them, as of "long-tailed"."""
    seed: int = Field(ge=0)
    """Of the vectors of `unknown: random`."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """What the file's SHA-256 must be; null: not checked."""


class RandomVectors(Params):
    """Normal vectors that know nothing of the words: the ablation of VQCT, Table 2."""

    kind: Literal["random"]
    """Names this kind."""
    dim: int = Field(ge=1)
    """Numbers of each vector."""
    std: float = Field(gt=0)
    """Standard deviation of each number."""
    seed: int = Field(ge=0)
    """Of the draw. A word's vector depends on the seed, its class and the word alone."""


VectorParams = Annotated[
    ClipVectors | ClipTokenVectors | GloveVectors | RandomVectors, Field(discriminator="kind")
]
"""Where word vectors come from."""


class PhraseParams(Params):
    """What counts as an adjective that modifies a noun, beyond the adjectives before it."""

    predicative: bool
    """Count "the bird is red" too."""
    shades: Literal["noun", "color"]
    """What "dark" belongs to in "a dark red bird" (likewise light, pale, deep): `noun`, so that (dark, bird)
    counts beside (red, bird), or `color`, so that it does not."""


class GraphParams(Params):
    """The modifying graph between the vocabulary's adjectives and nouns."""

    min_count: int = Field(ge=1)
    """A pair must be said at least this often to be an edge."""
    weight: Literal["binary", "count", "pmi"]
    """`binary` (VQCT's paper): 1; `count` (its code): how often the pair is said; `pmi`: positive pointwise
    mutual information in nats, 0 where the pair is no more frequent than chance."""
    phrases: PhraseParams
    """What counts as modifying."""
    vectors: VectorParams
    """Where the word vectors come from."""
