"""Moved."""
# shim: moved
from vqpipe.quantizers.fsq import MAX_CODES as MAX_CODES
from vqpipe.quantizers.fsq import FsqParams as FsqParams
from vqpipe.quantizers.lfq import LfqParams as LfqParams
