"""Every test, and every process that one starts, runs this checkout's code without the caller's settings.

Markers say what a test costs. `fast` and `slow` are set here: `pytest -m fast` (`make test-fast`) runs the tests of
the folders `unit` and `guards` but those of the files in `SLOW`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

for name in [name for name in os.environ if name.startswith(("VQPIPE_", "GIT_"))]:
    del os.environ[name]
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
# A slow example is a busy machine's, not a fault.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

MARKERS = {
    "fast": "a test of one part, without a pipeline; set by the folder",
    "slow": "a unit test that takes many seconds, left out of the fast ones; set by the file",
}
FAST = {"unit", "guards"}
SLOW = {"test_library_export.py", "test_runtime_ray.py", "test_training_ranks.py"}
"""Files of unit tests that start many processes or export every quantizer; together they take over a minute."""


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in FAST:
            item.add_marker("slow" if item.path.name in SLOW else "fast")
