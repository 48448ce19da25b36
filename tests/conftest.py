"""Every test, and every process that one starts, runs this checkout's code without the settings of whoever calls."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

for name in [name for name in os.environ if name.startswith(("VQPIPE_", "GIT_"))]:
    del os.environ[name]
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
# A slow example is a busy machine's, not a fault.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")
