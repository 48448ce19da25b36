"""Moved."""
# shim: moved
from vqpipe.text.nltk_tagger import NltkPos  # noqa: F401
from vqpipe.text.pos import AnyPos, pos_params  # noqa: F401
from vqpipe.text.spacy_tagger import SpacyPos  # noqa: F401
from vqpipe.text.tagger import PosParams  # noqa: F401
from vqpipe.text.wordnet_tagger import WordnetPos  # noqa: F401
