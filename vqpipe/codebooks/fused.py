"""The two least scores of each row over many codes, fused into one Triton kernel.

The kernel makes a tile of scores in registers and keeps of it what can matter, so that no score is ever written
to memory. It is the first pass of `vqpipe.codebooks.search` on CUDA; that module says which rows it settles.

It runs wherever Triton does; with `TRITON_INTERPRET=1` also on a CPU, slowly, which is how it is tested there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

ROWS = 64
"""Rows of a program."""
CODES = 64
"""Codes of a program's tile of scores."""
PROGRAMS = 1024
"""Programs that keep a device busy: with fewer blocks of rows, the codes are shared out among several."""


@triton.jit  # type: ignore[untyped-decorator]
def _two_least(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled, or interpreted in a child process
    queries, keys, least, index, second, num_rows, num_codes, dim, query_stride, key_stride, share,
    ROWS: tl.constexpr, CODES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    row_there = rows < num_rows
    first = part * share
    stop = tl.minimum(first + share, num_codes)
    low = tl.full((ROWS,), float("inf"), tl.float32)
    next_low = tl.full((ROWS,), float("inf"), tl.float32)
    where = tl.zeros((ROWS,), tl.int32)
    columns = tl.arange(0, CODES)
    for start in range(first, stop, CODES):
        codes = start + columns
        code_there = codes < stop
        scores = tl.zeros((ROWS, CODES), tl.float32)
        for at in range(0, dim, DIM):
            dims = at + tl.arange(0, DIM)
            inside = dims < dim
            q = tl.load(
                queries + rows[:, None].to(tl.int64) * query_stride + dims[None, :],
                mask=row_there[:, None] & inside[None, :], other=0.0,
            )  # fmt: skip
            k = tl.load(
                keys + codes[None, :].to(tl.int64) * key_stride + dims[:, None],
                mask=code_there[None, :] & inside[:, None], other=0.0,
            )  # fmt: skip
            scores = tl.dot(q, k, scores, input_precision="ieee")
        height = tl.load(keys + codes.to(tl.int64) * key_stride + dim, mask=code_there, other=float("inf"))
        scores += height[None, :]
        scores = tl.where(scores == scores, scores, float("inf"))  # a row that is not a number takes no code
        tile_low = tl.min(scores, 1)
        tile_where = tl.argmin(scores, 1)
        others = tl.where(columns[None, :] == tile_where[:, None], float("inf"), scores)
        next_low = tl.minimum(tl.minimum(next_low, tl.min(others, 1)), tl.maximum(low, tile_low))
        where = tl.where(tile_low < low, start + tile_where, where)
        low = tl.minimum(low, tile_low)
    out = part.to(tl.int64) * num_rows + rows
    tl.store(least + out, low, mask=row_there)
    tl.store(index + out, where, mask=row_there)
    tl.store(second + out, next_low, mask=row_there)


def two_least(
    queries: Float[Tensor, "n w"], keys: Float[Tensor, "K w"]
) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Per row the least score, a code that has it, and the least score of the other codes (inf where K = 1).

    The score of row i and code k is queries[i] . keys[k], where the last column of `queries` is taken to be 1; float32
    products, summed in float32. Memory beyond inputs and outputs: 12 bytes for each row and share of the codes.

    Args:
        queries: rows, contiguous along their last axis.
        keys: codes likewise; the last column is added to the product of the others.
    """
    num_rows, num_codes, dim = len(queries), len(keys), queries.shape[1] - 1
    blocks = triton.cdiv(num_rows, ROWS)
    parts = max(1, min(triton.cdiv(num_codes, 8 * CODES), PROGRAMS // max(1, blocks)))
    share = triton.cdiv(triton.cdiv(num_codes, parts), CODES) * CODES
    parts = triton.cdiv(num_codes, share)
    least = torch.empty(parts, num_rows, device=queries.device)
    second = torch.empty_like(least)
    index = torch.empty(parts, num_rows, dtype=torch.int32, device=queries.device)
    chunk = min(64, max(16, triton.next_power_of_2(dim)))
    _two_least[(blocks, parts)](
        queries, keys, least, index, second, num_rows, num_codes, dim, queries.stride(0), keys.stride(0), share,
        ROWS=ROWS, CODES=CODES, DIM=chunk,
    )  # fmt: skip
    order = torch.cat([least, second]).sort(dim=0).values[:2]
    winner = least.argmin(0, keepdim=True)
    return order[0], index.gather(0, winner)[0].long(), order[1]
