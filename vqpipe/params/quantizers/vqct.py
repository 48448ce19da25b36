"""Moved."""
# shim: moved
from vqpipe.quantizers.vqct import VqctParams as VqctParams  # noqa: F401
from vqpipe.quantizers.transfer import GcnTransferParams as GcnTransferParams, MlpTransferParams as MlpTransferParams, NoTransferParams as NoTransferParams, TransferParams as TransferParams  # noqa: F401
