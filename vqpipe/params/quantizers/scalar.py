"""Moved."""
# shim: moved
from vqpipe.quantizers.fsq import MAX_CODES as MAX_CODES, FsqParams as FsqParams  # noqa: F401
from vqpipe.quantizers.lfq import LfqParams as LfqParams  # noqa: F401
