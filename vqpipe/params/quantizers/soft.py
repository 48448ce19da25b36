"""Moved."""
# shim: moved
from vqpipe.quantizers.soft import ConstantSchedule as ConstantSchedule, CosineSchedule as CosineSchedule, ExponentialSchedule as ExponentialSchedule, ScheduleParams as ScheduleParams, SoftCodeParams as SoftCodeParams, EntropyParams as EntropyParams  # noqa: F401
from vqpipe.quantizers.gumbel import GumbelParams as GumbelParams  # noqa: F401
from vqpipe.quantizers.sq_vae import SqVaeParams as SqVaeParams  # noqa: F401
from vqpipe.quantizers.ibq import IbqParams as IbqParams  # noqa: F401
