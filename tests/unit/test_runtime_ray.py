"""The shard map on a Ray of this machine. Workers import this file, so it imports little."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from vqpipe.errors import DataError, SetupError
from vqpipe.runtime.shards import map_shards

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def fail_on_three(value: int) -> int:
    if value == 3:
        raise DataError("three is too many", found=value)
    return value


def die_once(folder: Path, value: int) -> int:
    marker = folder / str(value)
    if value == 4 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


@pytest.fixture(scope="module")
def a_ray() -> Iterator[None]:
    """Two CPUs of this machine; the workers import this file and vqpipe from this checkout."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    places = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=128 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def on_ray(a_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_ENGINE", "ray")


@pytest.mark.usefixtures("on_ray")
def test_results_come_in_order_though_a_worker_is_killed(tmp_path: Path) -> None:
    assert list(map_shards(partial(die_once, tmp_path), range(9))) == [i * i for i in range(9)]
    assert (tmp_path / "4").exists()


@pytest.mark.usefixtures("on_ray")
def test_a_users_mistake_comes_through_as_itself() -> None:
    with pytest.raises(DataError) as caught:
        list(map_shards(fail_on_three, range(9)))
    assert str(caught.value) == "three is too many\n  found:    3"


@pytest.mark.usefixtures("on_ray")
def test_words_and_graph_have_the_bytes_of_a_local_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.text_captions import digests

    on_ray = digests(tmp_path / "ray", monkeypatch)
    monkeypatch.setenv("VQPIPE_ENGINE", "local")
    monkeypatch.setenv("VQPIPE_WORKERS", "1")
    assert on_ray == digests(tmp_path / "local", monkeypatch)


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("VQPIPE_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(SetupError, match=r"(?s)Ray cannot be reached.*RAY_ADDRESS=127.0.0.1:1.*ray status"):
        list(map_shards(fail_on_three, range(2)))


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VQPIPE_ENGINE", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r"pip install 'vqpipe\[ray\]'"):
        list(map_shards(fail_on_three, range(2)))
