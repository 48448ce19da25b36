"""Nearest-code search beside the naive form, `vector-quantize-pytorch` and faiss: time and peak memory.

Run: python -m tests.bench.search [--step]

Each form of each case runs in a process of its own, so that one's memory cannot hide in another's; extra memory is
the highest resident size above what stood before the first call. Times are medians after one warm-up call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
ROWS = 4096
"""A batch of 16 maps of 16 x 16."""
CODES = (1_024, 16_384, 100_000, 262_144)
DIMS = (8, 256)
FORMS = ("ours", "naive", "vector-quantize-pytorch", "faiss flat")


def search_of(form: str, codes: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from rows to indices; what it builds on the codes once is not timed."""
    if form == "ours":
        from vqpipe.codebooks.search import nearest

        return lambda z: nearest(z, codes)
    if form == "naive":
        return lambda z: ((codes.square().sum(1) - 2 * (z @ codes.T)) + z.square().sum(1)[:, None]).argmin(1)
    if form == "vector-quantize-pytorch":
        from vector_quantize_pytorch import VectorQuantize

        module = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval()
        module.codebook = codes
        return lambda z: module(z[None])[1][0]
    import faiss

    index = faiss.IndexFlatL2(codes.shape[1])
    index.add(codes.numpy())
    return lambda z: torch.from_numpy(index.search(z.numpy(), 1)[1][:, 0])


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@torch.no_grad()
def one(form: str, num_codes: int, dim: int) -> dict[str, float]:
    """Measure one form in this process."""
    torch.manual_seed(0)
    z, codes = torch.randn(ROWS, dim), torch.randn(num_codes, dim)
    search = search_of(form, codes)
    search(z[:8])  # kernels and threads start
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    index = search(z)
    extra = max(0, resident("VmHWM") - before)
    times = []
    while len(times) < 3 or (sum(times) < 1 and len(times) < 15):
        start = time.perf_counter()
        search(z)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "extra_bytes": extra, "checksum": float(index.sum())}


def table() -> None:
    print(f"{ROWS} rows, float32, {torch.get_num_threads()} threads; time, and memory beyond inputs")
    print(f"{'K':>8s} {'d':>4s}  " + "".join(f"{form:>28s}" for form in FORMS) + f"{'ours / fastest':>16s}")
    for num_codes in CODES:
        for dim in DIMS:
            found = {}
            for form in FORMS:
                done = subprocess.run(
                    [sys.executable, "-m", "tests.bench.search", "--one", form, str(num_codes), str(dim)],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found[form] = json.loads(done.stdout)
            cells = "".join(
                f"{f['seconds'] * 1e3:14.1f} ms {f['extra_bytes'] / 1e6:8.1f} MB" for f in found.values()
            )
            fastest = min(f["seconds"] for name, f in found.items() if name != "ours")
            print(
                f"{num_codes:8d} {dim:4d}  {cells}{found['ours']['seconds'] / fastest:16.2f}"
                f"   memory {found['ours']['extra_bytes'] / max(1, found['naive']['extra_bytes']):.3f} of naive",
                flush=True,
            )


def steps() -> None:
    """A training step on frozen centroids of dimension 768, projected to 8: K = 100,000 beside K = 1,024."""
    print(
        f"{'trunk':34s} {'K = 1,024':>12s} {'K = 100,000':>12s}   ratio of the medians    goal: 1.3 on the paper's"
    )
    for preset, resolution, batch in (("imagenet", 128, 4), ("imagenet", 256, 2), ("scenes", 64, 8)):
        runs = {
            num_codes: training_step(preset, resolution, batch, num_codes) for num_codes in (1_024, 100_000)
        }
        times: dict[int, list[float]] = {num_codes: [] for num_codes in runs}
        for turn in range(4):
            for num_codes, run in runs.items():  # turn about, so that other load hits both
                start = time.perf_counter()
                run()
                if turn:
                    times[num_codes].append(time.perf_counter() - start)
        small, large = (statistics.median(found) for found in times.values())
        what = f"{preset}, {resolution} px, batch {batch}"
        print(f"{what:34s} {small:10.3f} s {large:10.3f} s   {large / small:.3f}", flush=True)


def training_step(preset: str, resolution: int, batch: int, num_codes: int) -> Callable[[], None]:
    """One step of a preset's trunk with `lc`: pixel and code losses, AdamW; without judges and discriminator."""
    from vqpipe.cli.presets import load_preset
    from vqpipe.codebooks.patches import PatchesCodebook
    from vqpipe.params.base import merged, validate
    from vqpipe.quantizers import build
    from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams

    section = load_preset(preset)["tokenizer"]
    changes = {"resolution": resolution, "quantizer": {"num_codes": num_codes, "dim": 8}}
    content = merged(merged(section["common"], section["variants"]["lc"]), changes)
    config = validate(content, "tokenizer", TokenizerParams)
    torch.manual_seed(0)
    centroids = PatchesCodebook(torch.randn(num_codes, 768), torch.ones(num_codes, dtype=torch.int64), {})
    tokenizer = Tokenizer(config, build(config.quantizer, centroids)).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters())
    images = torch.rand(batch, 3, resolution, resolution) * 2 - 1

    def step() -> None:
        optimizer.zero_grad()
        recon, quantized = tokenizer(images)
        ((recon - images).abs().mean() + quantized.loss).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=3, metavar=("FORM", "K", "D"))
    parser.add_argument("--step", action="store_true", help="time training steps instead")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], int(options.one[1]), int(options.one[2]))))
    elif options.step:
        steps()
    else:
        table()
