"""Moved."""
# shim: moved
from vqpipe.artifacts.spec import FolderSpec, OneOf
from vqpipe.artifacts.specs.tokenizer import TOKENIZER

ALIGNER = TOKENIZER
NO_ALIGNER = FolderSpec("no-aligner", 1, stage="tokenizer", about="gone")
ANY_ALIGNER = OneOf("aligner", (ALIGNER, NO_ALIGNER))
