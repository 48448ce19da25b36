"""Moved."""
# shim: moved
from vqpipe.quantizers.gumbel import GumbelParams as GumbelParams
from vqpipe.quantizers.ibq import IbqParams as IbqParams
from vqpipe.quantizers.soft import ConstantSchedule as ConstantSchedule
from vqpipe.quantizers.soft import CosineSchedule as CosineSchedule
from vqpipe.quantizers.soft import EntropyParams as EntropyParams
from vqpipe.quantizers.soft import ExponentialSchedule as ExponentialSchedule
from vqpipe.quantizers.soft import ScheduleParams as ScheduleParams
from vqpipe.quantizers.soft import SoftCodeParams as SoftCodeParams
from vqpipe.quantizers.sq_vae import SqVaeParams as SqVaeParams
