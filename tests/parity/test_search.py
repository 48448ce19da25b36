"""The tiled search, and the fused kernel interpreted on the CPU, against the naive form that defines them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.searches import KINDS, naive, naive_topk
from tests.storage import LargestOutput
from vqpipe.codebooks.search import Metric, _exact, nearest, nearest_topk, searcher

ROOT = Path(__file__).parents[2]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(0, 40), st.integers(1, 90), st.integers(1, 40), st.integers(0, 2**31),
        st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(KINDS)), st.sampled_from(["euclidean", "cosine"]), st.sampled_from([None, 1, 64,
        500]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_equals_the_naive_form(
    n: int,
    k: int,
    d: int,
    seed: int,
    left: str,
    right: str,
    metric: Metric,
    tile: int | None,
    doubled: bool,
    on: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z, codes = KINDS[left](generator, n, d), KINDS[right](generator, k, d)
    if doubled:  # every code twice, out of order: the lower index must win
        codes = torch.cat([codes, codes])[torch.randperm(2 * k, generator=generator)]
    if on and n:  # rows that are codes, and rows half-way between two
        z[0] = codes[-1]
        z[-1] = (codes[0] + codes[-1]) / 2
    assert torch.equal(nearest(z, codes, metric, tile), naive(z, codes, metric))
    num = 1 + seed % min(len(codes), 20)
    assert torch.equal(nearest_topk(z, codes, num, metric, tile), naive_topk(z, codes, num, metric))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("k", "d"), [(1024, 8), (1025, 32), (3000, 256)])
def test_equals_the_naive_form_over_many_tiles(metric: Metric, k: int, d: int) -> None:
    torch.manual_seed(k)
    z, codes = torch.randn(60, d), torch.randn(k, d)
    codes[k // 2 :] = codes[: k - k // 2] * (1 + 1e-7)  # near ties everywhere, some of them exact
    assert torch.equal(nearest(z, codes, metric), naive(z, codes, metric))
    for num in (2, 70):
        assert torch.equal(nearest_topk(z, codes, num, metric), naive_topk(z, codes, num, metric))


def test_a_collapsed_codebook_takes_the_first_codes() -> None:
    z, codes = torch.randn(50, 4), torch.ones(5000, 4)
    assert torch.equal(nearest(z, codes, tile=4096), torch.zeros(50, dtype=torch.int64))
    assert torch.equal(nearest_topk(z, codes, 3, tile=4096), torch.tensor([0, 1, 2]).expand(50, 3))


@pytest.mark.parametrize("kind", ["equal codes", "some equal codes", "equal rows", "one code"])
def test_equal_vectors_leave_little_to_float64(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: pairs of a row and a code that float64 compares; of equal codes one for each tile of 1,024."""
    torch.manual_seed(0)
    z, codes = torch.randn(50, 4), torch.randn(5000, 4)
    most = 20
    if kind == "equal codes":
        codes, most = codes[:1].repeat(5000, 1), 5 * 50
    elif kind == "some equal codes":
        codes, most = codes[torch.randint(100, (5000,))], 5 * 50 + 20
    elif kind == "equal rows":
        z, most = z[:1].repeat(50, 1), 0
    else:
        codes, most = codes[:1], 0
    compared: list[int] = []

    def exact(own: Tensor, theirs: Tensor, metric: Metric) -> Tensor:
        compared.append(len(own))
        return _exact(own, theirs, metric)

    monkeypatch.setattr("vqpipe.codebooks.search._exact", exact)
    assert torch.equal(nearest(z, codes), naive(z, codes, "euclidean"))
    assert sum(compared) <= most


def test_low_precision_settings_do_not_reach_the_search() -> None:
    torch.manual_seed(0)
    z, codes = torch.randn(200, 16), torch.randn(500, 16)
    expected = naive(z, codes, "euclidean")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(nearest(z, codes), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_rows_that_are_not_finite_leave_the_others_alone() -> None:
    torch.manual_seed(0)
    codes = torch.randn(50, 6)
    z = codes[[3, 7, 9]].clone()
    z[1, 2] = torch.nan
    assert nearest(z, codes, "cosine").tolist() == [3, 0, 9]
    assert nearest(z, codes).tolist() == [3, 0, 9]
    z[1, 2] = torch.inf
    assert nearest(z, codes).tolist() == [3, 0, 9]
    assert nearest_topk(z, codes, 2)[:, 0].tolist() == [3, 0, 9]
    assert nearest_topk(z, codes, 2)[1].tolist() == [0, 1]


def test_no_codes_or_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot search"):
        nearest(torch.zeros(2, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match="cannot search"):
        nearest(torch.zeros(2, 3), torch.zeros(4, 5))
    for num in (0, 5):
        with pytest.raises(ValueError, match="cannot take"):
            nearest_topk(torch.zeros(2, 3), torch.zeros(4, 3), num)


@pytest.mark.parametrize("codes_collapsed", [False, True])
def test_memory_is_bounded_by_the_tile(codes_collapsed: bool) -> None:
    """n = 4,096 and K = 100,000: the naive form holds 1.6 GB; no tensor here passes the default tile's few
    megabytes."""
    torch.manual_seed(0)
    z = torch.randn(4096, 8)
    codes = torch.randn(100_000, 8)
    if codes_collapsed:  # ties fill the list of candidates, which must stay bounded too
        z, codes = z[:16], codes[:1].expand(100_000, 8).contiguous()
    with LargestOutput() as outputs:
        index = nearest(z, codes)
    assert outputs.peak <= 48 << 20
    assert outputs.peak >= 1 << 20  # the recorder did see the tile
    picked = torch.randperm(len(z))[:5]
    assert torch.equal(index[picked], naive(z[picked], codes, "euclidean"))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux alone")
def test_the_fused_search_equals_the_naive_form() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.searches"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compared"] == 52
    assert found["different"] == []
    assert found["not_finite"] == {  # rows that are not: 0; codes that are not: never found
        "rows": [0, 0], "all codes": [0] * 3, "some codes, euclidean": [0] * 4, "some codes, cosine": [0] * 4,
    }  # fmt: skip
    # Rows that float64 decides, and parts of the codes that it searches: by rows, not by what is equal.
    counts = found["counts"]
    for easy in ("equal codes", "one code"):
        assert counts[easy] == [0, 0]
    for usual in ("ordinary", "deep", "codes twice"):
        assert counts[usual][0] <= 5  # of 50
        assert counts[usual][1] == 0
    assert counts["equal rows"] == [0, 0]
    assert counts["rows between two codes"] == [50, 0]
    assert counts["rows between eight codes"] == [40, 40]
    # Codes are prepared once, and a slab of rows takes three kernels for any number of codes; none of them waits for
    # the device.
    prepare = ["zeros", "full", "mean", "_insert", "_pack"]
    assert found["launched"] == [*prepare, "zeros", *["_pack", "_three_least", "_choose"] * 2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux alone")
def test_the_kernels_compile_for_tensor_cores(tmp_path: Path) -> None:
    """For compute capabilities 8.0 and 9.0, in a process of its own; no GPU is needed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.searches", "--compiled"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 14
    for name, code in found.items():
        assert (code["products"] > 0) == name.startswith("_three_least"), name
        assert code["shared"] <= (227 if name.endswith("90") else 99) << 10, name


def _parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float32 values as three bfloat16 parts, in float64."""
    high = x.bfloat16().float()
    middle = (x - high).bfloat16().float()
    low = (x - high - middle).bfloat16().float()
    return high.double(), middle.double(), low.double()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux alone")
def test_what_bfloat16_parts_leave_out_is_within_the_bound() -> None:
    from vqpipe.codebooks.fused import LEFT_OUT

    draw = torch.Generator().manual_seed(0)
    # Significands of all kinds, among them those whose high part rounds by nearly 2^-8.
    q = 1 + torch.rand(1 << 20, generator=draw)
    q[: 1 << 19] = 1 + 2.0**-8 * (1 - torch.rand(1 << 19, generator=draw) * 2.0**-8)
    k = q[torch.randperm(len(q), generator=draw)]
    k[: 1 << 18] = q[: 1 << 18]
    (qh, qm, ql), (kh, km, kl) = _parts(q), _parts(k)
    assert torch.equal(qh + qm + ql, q.double())
    exact = q.double() * k.double()
    three = qm * kh + qh * km + qh * kh
    left_out = {3: three, 6: three + ql * kh + qh * kl + qm * km}
    for sections, found in left_out.items():
        worst = float(((exact - found).abs() / exact).max()) * 2**24
        assert worst <= LEFT_OUT[sections]
        assert worst >= LEFT_OUT[sections] / 8  # the bound is about this error


def _truncated(x: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    return (x / unit).trunc() * unit


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch brings Triton on Linux alone")
@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize(("dim", "sections"), [(1, 6), (21, 6), (24, 3), (200, 3)])
def test_sums_on_tensor_cores_are_within_the_bound(block: int, dim: int, sections: int) -> None:
    """A model of them: blocks of products and the accumulator, aligned to the largest of them and truncated."""
    from vqpipe.codebooks.fused import SUMMED

    draw = torch.Generator().manual_seed(dim)
    q, k = 1 + torch.rand(2, 500, dim, generator=draw)  # of one sign: every truncation has the same direction
    (qh, qm, ql), (kh, km, kl) = (tuple(part.abs() for part in _parts(x)) for x in (q, k))
    pairs = [(qm, kh), (qh, km), (qh, kh)]
    if sections == 6:
        pairs = [(ql, kh), (qh, kl), (qm, km), *pairs]
    terms = torch.cat([left * right for left, right in pairs], 1)
    found = torch.zeros(len(terms), dtype=torch.float64)
    for start in range(0, terms.shape[1], block):
        added = torch.cat([found[:, None], terms[:, start : start + block]], 1)
        unit = 2.0 ** (added.amax(1).log2().floor() - 23)
        total = _truncated(added, unit[:, None]).sum(1)
        found = _truncated(total, 2.0 ** (total.log2().floor() - 23))
    error = (terms.sum(1) - found) / (q * k).double().sum(1) * 2**24
    assert float(error.max()) <= SUMMED * (dim + 16)
    assert float(error.max()) >= 0.25  # the model does round


def test_a_searcher_prepared_once_gives_the_same_answers() -> None:
    torch.manual_seed(0)
    codes = torch.randn(300, 5)
    for metric in ("euclidean", "cosine"):
        search = searcher(codes, metric)  # type: ignore[arg-type]
        for rows in (1, 70):
            z = torch.randn(rows, 5)
            assert torch.equal(search(z), naive(z, codes, metric))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot search"):
        search(torch.zeros(2, 3))
