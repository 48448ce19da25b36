"""Moved."""
# shim: moved
from vqpipe.text.vocabulary import VocabularyParams  # noqa: F401
