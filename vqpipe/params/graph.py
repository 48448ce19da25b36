"""Params of the stage `graph`: which pairs become edges, what they weigh, and how words become vectors."""

from __future__ import annotations

from typing import Literal

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
    vectors: ClipVectors
    """Where the word vectors come from."""
