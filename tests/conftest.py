"""Every test, and every process that one starts, runs this checkout's code without the caller's settings.

Markers say what a test costs. `pytest -m fast` (`make test-fast`) runs the tests of the folders `unit` and `guards`
but those marked `slow`: the ones that start processes or take seconds for another reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

for name in [name for name in os.environ if name.startswith(("VQPIPE_", "GIT_"))]:
    del os.environ[name]
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
# A slow example is a busy machine's, not a fault.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")

MARKERS = {
    "fast": "a quick test of one part, without a pipeline; set by the folder",
    "slow": "a test of one part that takes seconds, left out of the fast ones; set at the test",
}
FAST = {"unit", "guards"}
PIPELINE = "tests/pipeline/"


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in FAST and not item.get_closest_marker("slow"):
            item.add_marker("fast")


@pytest.fixture(autouse=True, scope="session")
def parsed_once() -> Iterator[None]:
    """Params are parsed once and copied: the text of a preset or a board takes most of a second, and a thousand tests
    read one."""
    from vqpipe.cli import presets
    from vqpipe.params import base, bounded_yaml

    parsed = lru_cache(bounded_yaml.parse_yaml)

    def parse(text: str, source: str, limits: Any = bounded_yaml.PARAMS, yaml: Any = None) -> Any:
        if yaml is not None:
            return bounded_yaml.parse_yaml(text, source, limits, yaml)
        return deepcopy(parsed(text, source, limits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_parsed", parsed)  # of which `read_yaml` makes the copy
        patch.setattr(presets, "parse_yaml", parse)
        yield


class Scheduling(LoadScopeScheduling):
    """One process runs a file's tests, which share fixtures, and all of the pipeline, whose checkout takes minutes.

    Files begin in the order of their names: those of `unit` come last and are short, so that all processes end at about
    the same time. By the number of tests, as xdist has it, files of few and slow tests would be last.
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return PIPELINE if nodeid.startswith(PIPELINE) else nodeid.split("::", 1)[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)
