"""vqpipe: vector-quantised image modelling with pretrained codebooks, as a pipeline of staged tools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqpipe.codebooks.load import load_codebook
    from vqpipe.library.hub import Tokenizer
    from vqpipe.library.priors import ImagePrior
    from vqpipe.library.tasks import ImageTask

__all__ = ["ImagePrior", "ImageTask", "Tokenizer", "__version__", "load_codebook"]
__version__ = "0.2.0"

_LAZY = {
    "load_codebook": "vqpipe.codebooks.load", "Tokenizer": "vqpipe.library.hub", "ImagePrior": "vqpipe.library.priors",
    "ImageTask": "vqpipe.library.tasks",
}  # fmt: skip
"""Names that are imported when they are asked for, so that `import vqpipe` loads neither torch nor pyarrow. By
`import_module`: an import statement would make every stage depend on the module, since all import this one."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
