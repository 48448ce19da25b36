"""Moved."""
# shim: moved
from vqpipe.quantizers.soft import ConstantSchedule, CosineSchedule, ExponentialSchedule, ScheduleParams, SoftCodeParams, EntropyParams  # noqa: F401
from vqpipe.quantizers.gumbel import GumbelParams  # noqa: F401
from vqpipe.quantizers.sq_vae import SqVaeParams  # noqa: F401
from vqpipe.quantizers.ibq import IbqParams  # noqa: F401
