"""Moved."""
# shim: moved
from vqpipe.data.adapters.base import Corpus  # noqa: F401
from vqpipe.data.adapters.caption_files import (  # noqa: F401
    DatasetCorpus,
    JsonLinesCorpus,
    ParquetCorpus,
    TextCorpus,
    TsvCorpus,
)
from vqpipe.data.adapters.coco import CocoCorpus  # noqa: F401
from vqpipe.data.corpus import CorpusParams, ManyCorpora  # noqa: F401
from vqpipe.data.encodings import known_encoding  # noqa: F401
