"""Moved."""
# shim: moved
from vqpipe.quantizers.fsq import MAX_CODES, FsqParams  # noqa: F401
from vqpipe.quantizers.lfq import LfqParams  # noqa: F401
