"""Moved."""
# shim: moved
from vqpipe.quantizers.vqct import VqctParams  # noqa: F401
from vqpipe.quantizers.transfer import GcnTransferParams, MlpTransferParams, NoTransferParams, TransferParams  # noqa: F401
