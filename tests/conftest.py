"""Every test, and every process that one starts, runs this checkout's code without the settings of whoever calls."""

from __future__ import annotations

import os
from pathlib import Path

for name in [name for name in os.environ if name.startswith(("VQPIPE_", "GIT_"))]:
    del os.environ[name]
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
