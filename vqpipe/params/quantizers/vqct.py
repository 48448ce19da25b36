"""Moved."""
# shim: moved
from vqpipe.quantizers.transfer import GcnTransferParams as GcnTransferParams
from vqpipe.quantizers.transfer import MlpTransferParams as MlpTransferParams
from vqpipe.quantizers.transfer import NoTransferParams as NoTransferParams
from vqpipe.quantizers.transfer import TransferParams as TransferParams
from vqpipe.quantizers.vqct import VqctParams as VqctParams
