"""Values that change over a training run, as a function of its progress."""

from __future__ import annotations

import math

from vqpipe.params.quantizers.soft import ConstantSchedule, CosineSchedule, ScheduleParams


def value_at(schedule: ScheduleParams, progress: float) -> float:
    """The schedule's value at a part of the training; `progress` outside [0, 1] counts as its nearer end."""
    if isinstance(schedule, ConstantSchedule):
        return schedule.value
    part = min(max(progress / (schedule.until or 1.0), 0.0), 1.0)
    if isinstance(schedule, CosineSchedule):
        return schedule.end + (schedule.start - schedule.end) * (1 + math.cos(math.pi * part)) / 2
    return math.exp((1 - part) * math.log(schedule.start) + part * math.log(schedule.end))


def rise(warmup: float | None, progress: float) -> float:
    """From 0 to 1 along half a cosine over the first `warmup` of the training; always 1 where it is None."""
    if warmup is None:
        return 1.0
    return (1 - math.cos(math.pi * min(max(progress / warmup, 0.0), 1.0))) / 2
