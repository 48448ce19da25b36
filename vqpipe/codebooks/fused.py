"""Nearest codes on CUDA: Triton kernels that write no score to memory, and never wait for the device.

They give the answers of `vqpipe.codebooks.search`, in three steps:

1. *Prepare.* Codes and rows are scaled and shifted as there, and each value x is split into bfloat16 parts
   x = h + m (+ l) + rest. The parts lie next to each other in *sections*, so that one bfloat16 product of `width`
   columns is a sum of products of parts: qm.kh + qh.km + qh.kh (3 sections), or with all six products above
   2^-24 where that is short (d <= 21). A code that equals an earlier one is found by a hash and takes part no more.
2. *Three least.* Per row and part of the codes the three least scores |k|^2 / 2 + q.k, two of them with their
   codes, on tensor cores.
3. *Choose.* Codes whose score is further than twice the bound above the row's least cannot win. Where one code is left
   the row is settled. Else the float64 definition decides, among the codes that are left in parts with one or two, and
   among all codes of a part with three or more.

Bound. Let B = sum_j |q_j k_j| <= |q| |k| and u = 2^-24. A bfloat16 rounds to 8 bits: |x - h| <= 2^-8 |x| and
|x - h - m| <= 2^-16 |x|; with l nothing is left of 24 bits. So 3 sections leave out qm.km, and the rest of q or k
times the other: at most 2^-16 (3 + 2^-6) B < 3.1 * 2^-16 B = `LEFT_OUT[3]` u B. Six leave out m.l, l.m and l.l: at
most 2^-23 (1 + 2^-8) B < `LEFT_OUT[6]` u B.

Products of bfloat16 are exact in float32. Tensor cores add b of them and the accumulator at once, aligned to the
largest and truncated: an error below 2^-23 of the largest for each of them and for the result, b from 4 to 16 (Fasi et
al. 2021, PeerJ Computer Science 7:e330; Khattak and Mikaitis 2025, arXiv 2512.07004, model later cards, which align
more finely). A section may begin in a block of the one before. So the last, qh.kh, adds at most d + b - 1 products, and
an accumulator and a result for each of (d + 2 b) / b blocks: d (1 + 2 / b) + b + 3 <= 1.5 (d + 16) such errors, each
below 1.016 * 2^-23 B. The sections before it are summed first; with their partial sums they are below 2^-7 * 1.01 B,
which adds a fiftieth at most. In all `SUMMED` (d + 16) u B with `SUMMED` = 3.1. Scaling, shifting, the height and its
addition are in `slack`. The rounding of the definition itself, (d + slack) 2^-53 (|q|^2 + |k|^2), is added. Where a
part or a product underflows, the error is at most 2^-126 times the other factor: `tiny` covers it for norms up to 1,
the rounding of the definition for longer ones.

Extremes. Codes are scaled to a largest value between 1 and 2. A row of a norm above 2^99 is then so far away that
float64 gives all codes the same cost: each difference of a value above 2^56 is that value, and all others are lost in
the sum. Its answer is 0, as for a row that is not finite, and all other scores are finite. A code that is not finite is
never found.

With `TRITON_INTERPRET=1` the kernels run on a CPU, slowly, which is how they are tested there; parts are then bfloat16
values in float32, since the interpreter has no bfloat16 product.

Letters: n rows, K codes, d dimensions, w columns of operands, p parts of the codes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int32, Int64
from torch import Tensor

LEFT_OUT = {3: 794.0, 6: 2.1}
"""Products of parts that are left out, in units of 2^-24 |q| |k|, by the number of sections."""
SUMMED = 3.1
"""Rounding of a sum on tensor cores, in units of 2^-24 |q| |k| for each column of the last section."""
ONCE = 128
"""Operands of at most so many columns are one tile wide: a program loads its rows once."""
_LIMIT = tl.constexpr(2.0**198)
"""Squared norms of vectors that take part; no score of theirs overflows float32. Above it float64 cannot tell codes
apart."""
_LARGE = tl.constexpr(1e300)
"""Squared norms of vectors that are finite, which is all that cosine needs."""
PROGRAMS = 528
"""Programs that fill a device: four for each of an H100's processors."""
MOST_PARTS, FEWEST_PARTS = 32, 8
"""Parts of the codes per row: what is searched again in float64 is a part; each row and part takes 20 bytes."""


LARGE = (9, 10)
"""First numbers of compute capabilities with 227 KB of shared memory per program."""


@dataclass(frozen=True)
class Shape:
    """How the scores are tiled."""

    rows: int
    codes: int
    dim: int
    """Columns of operands that are multiplied at once."""
    warps: int
    stages: int


def shape_for(width: int, large: bool) -> Shape:
    """The tiling for operands of `width` columns; `large` on devices with 227 KB of shared memory per program.

    Deep products take the largest tile whose accumulators fit the registers (128 of 255 per thread) and whose three
    stages of operands fit shared memory (147 KB). Shallow ones spend their time on minima, and take a
    tile of which two or three programs share a processor: one's products overlap the other's minima.
    """
    if width <= ONCE:
        return Shape(64, 128, width, 4, 3 if width <= 64 else 2)
    return Shape(128, 256, 64, 8, 3) if large else Shape(128, 128, 32, 8, 3)


@dataclass(frozen=True)
class Found:
    """Nearest codes, and how they were found, still on the device."""

    index: Int64[Tensor, " n"]
    counts: Int32[Tensor, " 2"]
    """Rows where float64 compared codes, and pairs of a row and a part that were searched again."""


@triton.jit  # type: ignore[untyped-decorator]
def _insert(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled, or interpreted in a child process
    codes, table, slots, extremes, num_codes, dim, last_slot, ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Hash each code; a slot of the table gets its lowest code. Also the largest absolute value, as bits."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < num_codes
    hashed = tl.zeros((ROWS,), tl.uint32)
    most = tl.zeros((ROWS,), tl.int32)
    for at in range(0, dim, DIM):
        dims = at + tl.arange(0, DIM)
        inside = there[:, None] & (dims < dim)[None, :]
        x = tl.load(codes + rows[:, None].to(tl.int64) * dim + dims[None, :], mask=inside, other=0.0)
        x = tl.where(x == 0, 0.0, x)  # -0 equals 0
        most = tl.maximum(most, tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1))
        bits = x.to(tl.uint32, bitcast=True) + (dims.to(tl.uint32) * 0x9E3779B1)[None, :]
        bits = (bits ^ (bits >> 16)) * 0x7FEB352D
        bits = (bits ^ (bits >> 15)) * 0x846CA68B
        hashed += tl.sum(tl.where(inside, bits ^ (bits >> 16), 0), 1).to(tl.uint32)
    slot = ((hashed ^ (hashed >> 15)) & last_slot).to(tl.int32)
    tl.store(slots + rows, slot, mask=there)
    tl.atomic_min(table + slot, rows, mask=there)
    tl.atomic_max(extremes, tl.max(tl.where(there, most, 0)))


@triton.jit  # type: ignore[untyped-decorator]
def _rounded(x):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The nearest bfloat16 value, as float32; x is finite."""
    bits = x.to(tl.uint32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _moved(x, mean, dims, inside_dim, scale, COSINE: tl.constexpr):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Values in float64: as they are for cosine, else scaled and shifted by the codes' mean."""
    wide = x.to(tl.float64)
    if not COSINE:
        shift = tl.load(mean + dims, mask=inside_dim, other=0.0)
        shift = tl.where(shift - shift == 0, shift, 0.0).to(tl.float64)
        wide = (wide - shift[None, :]) * scale
    return wide


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _pack(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled, or interpreted in a child process
    x, mean, extremes, table, slots, out, lengths, num_rows, dim, width, row_stride, column_stride,
    KEYS: tl.constexpr, SECTIONS: tl.constexpr, COSINE: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Operands of codes (`KEYS`) or rows, and the codes' heights or the rows' norms.

    The norm of a row that takes no part is NaN, and its operands are 0. The height of a code that takes no part, or
    equals an earlier one, is infinite.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < num_rows
    start = rows[:, None].to(tl.int64) * row_stride
    # The power of two that brings the codes' largest value to between 1 and 2; 1 where it is not finite.
    exponent = tl.load(extremes) >> 23
    exponent = tl.where(exponent == 255, 127, tl.minimum(tl.maximum(254 - exponent, 7), 247))
    scale = (exponent << 23).to(tl.float32, bitcast=True).to(tl.float64)
    earlier = rows
    if KEYS:
        earlier = tl.load(table + tl.load(slots + rows, mask=there, other=0), mask=there, other=0)
    twin = there & (earlier < rows)
    compare = tl.max(twin.to(tl.int32)) > 0
    square = tl.zeros((ROWS,), tl.float64)
    for at in range(0, dim, DIM):
        dims = at + tl.arange(0, DIM)
        inside = there[:, None] & (dims < dim)[None, :]
        values = tl.load(x + start + dims[None, :] * column_stride, mask=inside, other=0.0)
        moved = tl.where(inside, _moved(values, mean, dims, dims < dim, scale, COSINE), 0.0)
        square += tl.sum(moved * moved, 1)
        if compare:
            first = earlier[:, None].to(tl.int64) * row_stride
            others = tl.load(
                x + first + dims[None, :] * column_stride, mask=inside & twin[:, None], other=0.0
            )
            twin = twin & (tl.sum(((values != others) & inside).to(tl.int32), 1) == 0)
    if COSINE:
        usable = square < _LARGE
    else:
        usable = square < _LIMIT
    norm = tl.sqrt(square)
    length = tl.full((ROWS,), 1.0, tl.float64)
    if COSINE:
        length = tl.where(norm > 0, norm, 1.0)
        norm = norm / length
    if not KEYS:
        length = -length
    for at in range(0, dim, DIM):
        dims = at + tl.arange(0, DIM)
        inside = there[:, None] & (dims < dim)[None, :]
        values = tl.load(x + start + dims[None, :] * column_stride, mask=inside & usable[:, None], other=0.0)
        moved = _moved(values, mean, dims, dims < dim, scale, COSINE) / length[:, None]
        body = tl.where(inside & usable[:, None], moved, 0.0).to(tl.float32)
        high = _rounded(body)
        middle = _rounded(body - high)
        spot = out + rows[:, None].to(tl.int64) * width + dims[None, :]
        if SECTIONS == 3:
            if KEYS:
                tl.store(spot, high, mask=inside)
                tl.store(spot + dim, middle, mask=inside)
            else:
                tl.store(spot, middle, mask=inside)
                tl.store(spot + dim, high, mask=inside)
            tl.store(spot + 2 * dim, high, mask=inside)
        else:
            low = _rounded(body - high - middle)
            tl.store(spot + dim, middle, mask=inside)
            tl.store(spot + 5 * dim, high, mask=inside)
            if KEYS:
                tl.store(spot, high, mask=inside)
                tl.store(spot + 2 * dim, low, mask=inside)
                tl.store(spot + 3 * dim, high, mask=inside)
                tl.store(spot + 4 * dim, middle, mask=inside)
            else:
                tl.store(spot, low, mask=inside)
                tl.store(spot + 2 * dim, high, mask=inside)
                tl.store(spot + 3 * dim, middle, mask=inside)
                tl.store(spot + 4 * dim, high, mask=inside)
    for at in range(SECTIONS * dim, width, DIM):
        rest = at + tl.arange(0, DIM)
        blank = tl.zeros((ROWS, DIM), tl.float32)
        inside = there[:, None] & (rest < width)[None, :]
        tl.store(out + rows[:, None].to(tl.int64) * width + rest[None, :], blank, mask=inside)
    if KEYS:
        taken = there & usable & (twin == 0)
        height = square * 0.5
        if COSINE:
            height = tl.zeros((ROWS,), tl.float64)
        tl.store(lengths + rows, tl.where(taken, height, float("inf")).to(tl.float32), mask=there)
        norm = tl.where(taken, norm, 0.0).to(tl.float32)
        height = tl.where(taken, height, 0.0).to(tl.float32)
        tl.atomic_max(extremes + 1, tl.max(norm.to(tl.int32, bitcast=True)))
        tl.atomic_max(extremes + 2, tl.max(height.to(tl.int32, bitcast=True)))
    else:
        tl.store(lengths + rows, tl.where(usable, norm, float("nan")).to(tl.float32), mask=there)


@triton.jit(do_not_specialize=["num_rows", "share", "parts"])  # type: ignore[untyped-decorator]
def _three_least(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled, or interpreted in a child process
    queries, keys, heights, low, place, num_rows, num_codes, width, share, parts,
    ROWS: tl.constexpr, CODES: tl.constexpr, DIM: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """The three least scores of rows among one part of the codes, and the codes of the first two."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    there = rows < num_rows
    first = part * share
    stop = tl.minimum(first + share, num_codes)
    low1 = tl.full((ROWS,), float("inf"), tl.float32)
    low2 = low1
    low3 = low1
    place1 = tl.zeros((ROWS,), tl.int32)
    place2 = place1
    columns = tl.arange(0, CODES)
    dims = tl.arange(0, DIM)
    own = queries + rows[:, None].to(tl.int64) * width + dims[None, :]
    if ONCE:
        q = tl.load(own, mask=there[:, None], other=0.0)
    for start in range(first, stop, CODES):
        codes = start + columns
        inside = codes < stop
        theirs = keys + codes[None, :].to(tl.int64) * width + dims[:, None]
        scores = tl.zeros((ROWS, CODES), tl.float32)
        if ONCE:
            k = tl.load(theirs, mask=inside[None, :], other=0.0)
            scores = tl.dot(q, k, scores, input_precision="ieee")
        else:
            for at in range(0, width, DIM):
                part_q = tl.load(own + at, mask=there[:, None], other=0.0)
                part_k = tl.load(theirs + at, mask=inside[None, :], other=0.0)
                scores = tl.dot(part_q, part_k, scores, input_precision="ieee")
        scores += tl.load(heights + codes, mask=inside, other=float("inf"))[None, :]
        least1, at1 = tl.min(scores, 1, return_indices=True)
        scores = tl.where(columns[None, :] == at1[:, None], float("inf"), scores)
        least2, at2 = tl.min(scores, 1, return_indices=True)
        scores = tl.where(columns[None, :] == at2[:, None], float("inf"), scores)
        least3 = tl.min(scores, 1)
        # Merge two sorted triples; the third least of both is a least of maxima.
        low3 = tl.minimum(
            tl.minimum(low3, least3), tl.minimum(tl.maximum(low2, least1), tl.maximum(low1, least2))
        )
        ahead = least1 < low1
        rival = tl.where(ahead, low1, low2)
        rival_place = tl.where(ahead, place1, place2)
        fresh = tl.where(ahead, least2, least1)
        fresh_place = start + tl.where(ahead, at2, at1)
        low2 = tl.minimum(rival, fresh)
        place2 = tl.where(fresh < rival, fresh_place, rival_place)
        place1 = tl.where(ahead, start + at1, place1)
        low1 = tl.minimum(low1, least1)
    spot = part * num_rows + rows
    layer = parts * num_rows
    tl.store(low + spot, low1, mask=there)
    tl.store(low + layer + spot, low2, mask=there)
    tl.store(low + 2 * layer + spot, low3, mask=there)
    tl.store(place + spot, place1, mask=there)
    tl.store(place + layer + spot, place2, mask=there)


@triton.jit(do_not_specialize=["num_rows", "share", "parts"])  # type: ignore[untyped-decorator]
def _choose(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled, or interpreted in a child process
    z, codes, norms, extremes, low, place, answer, counts,
    num_rows, num_codes, dim, row_stride, column_stride, share, parts, product, height, square, tiny,
    COSINE: tl.constexpr, DIM: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The nearest code of one row, from the least scores of all parts.

    Codes compete by the definition's cost in pages of 2 `PARTS`: one page of what is left in parts with one or two,
    then the pages of each part with three or more. All pages are summed by the same instructions, so that costs which
    are sums of the same terms in the same order are equal here too; of these the lowest code wins.
    """
    row = tl.program_id(0)
    layer = parts * num_rows
    entries = tl.arange(0, 2 * PARTS)
    part, second = entries % PARTS, entries // PARTS
    inside = part < parts
    spot = part * num_rows + row
    score = tl.load(low + second * layer + spot, mask=inside, other=float("inf")).to(tl.float64)
    third = tl.load(low + 2 * layer + spot, mask=inside, other=float("inf")).to(tl.float64)
    picked = tl.load(place + second * layer + spot, mask=inside, other=0)
    norm = tl.load(norms + row).to(tl.float64)
    key_norm = tl.load(extremes + 1).to(tl.float32, bitcast=True).to(tl.float64)
    key_height = tl.load(extremes + 2).to(tl.float32, bitcast=True).to(tl.float64)
    error = norm * key_norm * product + key_height * height
    error += (norm * norm + key_norm * key_norm) * square + tiny
    best, winner = tl.min(score, 0, return_indices=True)
    limit = best + 2 * error
    near = inside & (score <= limit)
    many = inside & (third <= limit)
    found = tl.sum(tl.where(entries == winner, picked, 0), 0)
    # Comparisons with NaN are false. Where all codes take no part, the limit is infinite.
    found = tl.where(limit < float("inf"), found, 0)
    if (limit < float("inf")) & (tl.sum(near.to(tl.int32), 0) > 1):
        least = tl.full((), float("inf"), tl.float64)
        found = tl.full((), num_codes, tl.int32)
        for turn in range(-1, parts):
            listed = turn < 0
            whole = tl.sum((many & (entries == turn)).to(tl.int32), 0) > 0
            first = tl.where(listed, 0, turn * share)
            stop = tl.where(listed, 1, tl.where(whole, tl.minimum(first + share, num_codes), first))
            for start in range(first, stop, 2 * PARTS):
                page = tl.where(listed, picked, start + entries)
                taken = tl.where(listed, near & (many == 0), start + entries < stop)
                total = tl.zeros((2 * PARTS,), tl.float64)
                length = tl.zeros((2 * PARTS,), tl.float64)
                for at in range(0, dim, DIM):
                    dims = at + tl.arange(0, DIM)
                    own = z + row.to(tl.int64) * row_stride + dims * column_stride
                    x = tl.load(own, mask=dims < dim, other=0.0).to(tl.float64)[None, :]
                    theirs = codes + page[:, None].to(tl.int64) * dim + dims[None, :]
                    c = tl.load(theirs, mask=taken[:, None] & (dims < dim)[None, :], other=0.0).to(tl.float64)
                    if COSINE:
                        total -= tl.sum(x * c, 1)
                        length += tl.sum(c * c, 1)
                    else:
                        total += tl.sum((x - c) * (x - c), 1)
                if COSINE:
                    total = total / tl.where(length > 0, tl.sqrt(length), 1.0)
                total = tl.where(taken & (total == total), total, float("inf"))
                cost = tl.min(total, 0)
                code = tl.min(tl.where(taken & (total == cost), page, num_codes), 0)
                better = (cost < least) | ((cost == least) & (code < found))
                least = tl.where(better, cost, least)
                found = tl.where(better, code, found)
        found = tl.where(found < num_codes, found, 0)
        tl.atomic_add(counts, 1)
        tl.atomic_add(counts + 1, tl.sum((many & (second == 0)).to(tl.int32), 0))
    tl.store(answer + row, found.to(tl.int64))


class FusedCodes:
    """Codes prepared for any number of searches; float32 on a CUDA device (or a CPU, interpreted)."""

    def __init__(self, codes: Float[Tensor, "K d"], cosine: bool, slack: float, tiny: float) -> None:
        """Prepare codes in five launches; memory 2 to 6 times that of the codes where d > 21, else up to 2 w / d.

        Args:
            codes: the codebook; must not change while it is searched.
            cosine: the largest cosine similarity, else the least distance.
            slack: roundings of scaling, shifting and norms; see `vqpipe.codebooks.search`.
            tiny: absolute part of the bound.
        """
        self.codes, self.cosine = codes.contiguous(), cosine
        num_codes, dim = self.codes.shape
        device = codes.device
        self.sections = 6 if 6 * dim <= ONCE else 3
        width = self.sections * dim
        self.width = max(16, triton.next_power_of_2(width)) if width <= ONCE else -(-width // 64) * 64
        self.operand = torch.bfloat16 if device.type == "cuda" else torch.float32
        large = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in LARGE
        self.shape = shape_for(self.width, large)
        unit, unit64 = 2.0**-24, 2.0**-53
        self.bound = (
            (SUMMED * (dim + 16) + LEFT_OUT[self.sections] + slack) * unit, slack * unit, (dim + slack) * unit64, tiny,
        )  # fmt: skip
        self.heights = torch.empty(num_codes, device=device)
        self.keys = torch.empty(num_codes, self.width, dtype=self.operand, device=device)
        self.extremes = torch.zeros(3, dtype=torch.int32, device=device)
        """Largest absolute value, norm and height of the codes, as the bits of a float32."""
        num_slots = 8 * triton.next_power_of_2(num_codes)
        table = torch.full((num_slots,), torch.iinfo(torch.int32).max, dtype=torch.int32, device=device)
        slots = torch.empty(num_codes, dtype=torch.int32, device=device)
        self.mean = self.codes.mean(0)
        with _on(device):
            _insert[(triton.cdiv(num_codes, 32),)](
                self.codes, table, slots, self.extremes, num_codes, dim, num_slots - 1, ROWS=32, DIM=self._columns,
            )  # fmt: skip
            self._pack(self.codes, table, slots, self.keys, self.heights, keys=True)

    @property
    def _columns(self) -> int:
        return min(64, triton.next_power_of_2(self.codes.shape[1]))

    def _pack(
        self, x: Tensor, table: Tensor, slots: Tensor, out: Tensor, lengths: Tensor, *, keys: bool
    ) -> None:
        _pack[(triton.cdiv(len(x), 32),)](
            x, self.mean, self.extremes, table, slots, out, lengths, len(x), x.shape[1], self.width, *x.stride(),
            KEYS=keys, SECTIONS=self.sections, COSINE=self.cosine, ROWS=32, DIM=self._columns,
        )  # fmt: skip

    def nearest(self, z: Float[Tensor, "n d"], most: int) -> Found:
        """The nearest code of each row of `z`, in slabs of rows: three launches for each.

        Args:
            z: float32 rows on the codes' device, with any strides.
            most: numbers of operands that exist at once, but for one row at least.
        """
        index = torch.empty(len(z), dtype=torch.int64, device=z.device)
        counts = torch.zeros(2, dtype=torch.int32, device=z.device)
        slab = max(1, most // max(self.width, ONCE))
        with _on(z.device):
            for top in range(0, len(z), slab):
                self._slab(z[top : top + slab], index[top : top + slab], counts)
        return Found(index, counts)

    def _slab(self, z: Tensor, index: Tensor, counts: Tensor) -> None:
        num_rows, num_codes, shape = len(z), len(self.codes), self.shape
        queries = torch.empty(num_rows, self.width, dtype=self.operand, device=z.device)
        norms = torch.empty(num_rows, device=z.device)
        self._pack(z, self.extremes, self.extremes, queries, norms, keys=False)
        tiles, blocks = triton.cdiv(num_codes, shape.codes), triton.cdiv(num_rows, shape.rows)
        parts = min(tiles, MOST_PARTS, max(FEWEST_PARTS, triton.cdiv(PROGRAMS, blocks)))
        share = triton.cdiv(tiles, parts) * shape.codes
        parts = triton.cdiv(num_codes, share)
        low = torch.empty(3, parts, num_rows, device=z.device)
        place = torch.empty(2, parts, num_rows, dtype=torch.int32, device=z.device)
        _three_least[(blocks, parts)](
            queries, self.keys, self.heights, low, place, num_rows, num_codes, self.width, share, parts,
            ROWS=shape.rows, CODES=shape.codes, DIM=shape.dim, ONCE=self.width == shape.dim,
            num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
        # Few registers where there are many rows; few steps where there are many dimensions.
        columns = 8 if z.shape[1] <= 64 else 32
        _choose[(num_rows,)](
            z, self.codes, norms, self.extremes, low, place, index, counts,
            num_rows, num_codes, z.shape[1], *z.stride(), share, parts, *self.bound,
            COSINE=self.cosine, DIM=columns, PARTS=MOST_PARTS, enable_fp_fusion=False,
        )  # fmt: skip


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Launch on the tensors' device, which need not be the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
