"""Moved."""
# shim: moved
from vqpipe.text.glove import GloveVectors  # noqa: F401
from vqpipe.text.graph import GraphParams  # noqa: F401
from vqpipe.text.tagger import PhraseParams  # noqa: F401
from vqpipe.text.vectors import (  # noqa: F401
    ClipTokenVectors,
    ClipVectors,
    Prompts,
    RandomVectors,
    VectorParams,
)
