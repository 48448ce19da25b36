"""Speed on one GPU beside peers: code search, k-means assignment, training steps, sampling.

Run: python -m tests.bench.gpu [--out gpu.json] [--only search --only sampling] [--tiny]

Prints a table for each part and writes all of it as JSON. Every form of a case runs in this process, one after the
other, on the same random data; times are medians between device events after a warm-up. `--tiny` takes sizes that a
CPU finishes in seconds: it shows that the script works and measures nothing. Peers that are not installed are named as
missing. Needs torch, numpy, pydantic, ruamel.yaml, safetensors and pyarrow alone; about 9 minutes on an H100, most of
it compiling.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Row = dict[str, Any]
UNUSED = {"jaxtyping": ("jaxtyping",), "PIL": ("PIL", "PIL.Image")}
"""Packages that vqpipe imports and nothing here calls, with their modules: names of annotations, images in files."""


class _Anything(type):
    """A class that has every attribute and subscript, all of them itself."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, key: object) -> Any:
        return cls


class Unused(metaclass=_Anything):
    """What a package that is not installed is made of."""


def stand_in_for_missing() -> None:
    """Let vqpipe be imported where packages of `UNUSED` are not installed."""
    for package, modules in UNUSED.items():
        if find_spec(package) is None:
            for name in modules:
                module = ModuleType(name)
                module.__getattr__ = lambda attribute: getattr(Unused, attribute)  # type: ignore[method-assign]
                module.__path__ = []
                sys.modules[name] = module


stand_in_for_missing()


def seconds(work: Callable[[], object], budget: float = 0.6, most: int = 30) -> float:
    """Median time of a call after one warm-up, over at least 3 calls and about `budget` seconds."""
    work()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < most):
        times.append(_timed(work))
    return statistics.median(times)


def _timed(work: Callable[[], object]) -> float:
    if DEVICE.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    work()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def extra_bytes(work: Callable[[], object]) -> int | None:
    """Peak device memory of a call beyond what is allocated before it; None on a CPU."""
    if DEVICE.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(work: Callable[[], object]) -> Row:
    """Kernels launched, scalars read by Python (the optimiser's counters, which lie on the CPU, are among them) and
    synchronisations with the device in one call; nothing on a CPU."""
    if DEVICE.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
    counts = {event.key: event.count for event in found.key_averages()}

    def total(*parts: str) -> int:
        return sum(count for name, count in counts.items() if any(part in name for part in parts))

    return {
        "kernels": total("cudaLaunchKernel", "cuLaunchKernel"),
        "scalar_reads": total("aten::_local_scalar_dense"),
        "synchronisations": total("cudaStreamSynchronize", "cudaDeviceSynchronize") - 1,
    }


def naive(z: Tensor, codes: Tensor) -> Tensor:
    """One matrix product, all scores at once."""
    return ((codes.square().sum(1) - 2 * (z @ codes.T)) + z.square().sum(1)[:, None]).argmin(1)


def chunked(z: Tensor, codes: Tensor) -> Tensor:
    """The naive form over blocks of rows of about 4 GB of scores."""
    rows = max(1, (1 << 30) // len(codes))
    return torch.cat([naive(part, codes) for part in z.split(rows)])


def cuvs(codes: Tensor) -> Callable[[Tensor], Tensor]:
    """cuVS's brute force, of the `gpu` extra; what it builds on the codes once is not timed."""
    from cuvs.neighbors import brute_force

    index = brute_force.build(codes)
    return lambda z: torch.as_tensor(brute_force.search(index, z, 1)[1], device=DEVICE)[:, 0]


def faiss(codes: Tensor) -> Callable[[Tensor], Tensor]:
    """faiss's flat search on the device; what it builds on the codes once is not timed."""
    import faiss as package
    import faiss.contrib.torch_utils  # searches tensors where they are

    if DEVICE.type == "cuda" and not hasattr(package, "StandardGpuResources"):
        raise ImportError("the installed faiss has no GPU")
    index = package.IndexFlatL2(codes.shape[1])
    if DEVICE.type == "cuda":
        index = package.index_cpu_to_gpu(package.StandardGpuResources(), 0, index)
    index.add(codes)
    return lambda z: index.search(z, 1)[1][:, 0]


def vector_quantize(codes: Tensor) -> Callable[[Tensor], Tensor]:
    """`vector-quantize-pytorch`'s `VectorQuantize` in evaluation; what it builds on the codes once is not timed."""
    from vector_quantize_pytorch import VectorQuantize

    with DEVICE:
        module = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval()
    module.codebook = codes
    return lambda z: module(z[None])[1][0]


def exact(z: Tensor, codes: Tensor) -> Tensor:
    """The naive form in float64, over blocks."""
    rows = max(1, (1 << 27) // len(codes))
    wide = codes.double()
    return torch.cat([naive(part.double(), wide) for part in z.split(rows)])


def _by_differences(z: Tensor, codes: Tensor) -> Tensor:
    """The definition in float64, row by row: the naive form's rounding would make ties of nearly equal codes."""
    wide = codes.double()
    return torch.stack([(row - wide).square().sum(1).argmin() for row in z.double()])


class _Precision:
    """TF32 products inside, or not."""

    def __init__(self, tf32: bool) -> None:
        self.name = "high" if tf32 else "highest"

    def __enter__(self) -> None:
        self.before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.name)

    def __exit__(self, *_: object) -> None:
        torch.set_float32_matmul_precision(self.before)


def search(tiny: bool) -> Iterator[Row]:
    """Nearest codes: ours beside the naive form, cdist, `vector-quantize-pytorch`, cuVS and faiss.

    `equal` is the share of equal answers to float64 among at most 2,048.
    `goal` is of the ratio; `decided` are rows in which float64 compared codes, `again` parts of the codes that were
    searched again for a row. The last two rows are hard: all codes equal, and every code nearly equal to three others.
    """
    cases = [(4096, k, 8, 1.0) for k in (1_024, 16_384, 100_000, 262_144)]
    cases += [(65_536, 100_000, 8, 0.5), (65_536, 16_384, 256, 0.6), (65_536, 100_000, 256, 0.6)]
    for n, k, d, goal in [(256, 512, 8, 1.0)] if tiny else cases:
        yield _search_row(n, k, d, chunks=False) | {"goal": goal}
    n, k, d = (64, 512, 8) if tiny else (4096, 16_384, 64)
    for kind in ("equal codes", "near codes"):
        yield _search_row(n, k, d, chunks=False, kind=kind)


def assignment(tiny: bool) -> Iterator[Row]:
    """K-means' nearest centroids: ours beside the naive form over blocks, cuVS and faiss.

    `pass` is a whole pass of `vqpipe.vision.assignment`: vectors from host memory, their distances, sums and counts.
    """
    cases = [(2_000_000, 16_384, 64, 0.6), (200_000, 100_000, 768, 0.4)]
    for n, k, d, goal in [(64, 512, 16, 1.0)] if tiny else cases:
        row = _search_row(n, k, d, chunks=True) | {"goal": goal}
        yield row | _guarded("pass", lambda n=n, k=k, d=d: {"pass": _assignment_pass(n, k, d)})


def _assignment_pass(n: int, k: int, d: int) -> float:
    from vqpipe.vision.assignment import SEARCH_METHODS, assign
    from vqpipe.vision.vectors import RankPart

    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(n, d, generator=draw)
    part = RankPart.own(vectors.numpy(), DEVICE)
    centroids = torch.randn(k, d, generator=draw).to(DEVICE)
    return seconds(lambda: assign(part, centroids, SEARCH_METHODS["torch"], float(vectors.abs().max())), 0)


def _decided(z: Tensor, codes: Tensor) -> Row:
    """What was left to float64; nothing where the fused kernels do not run."""
    from vqpipe.codebooks import search

    if not search.fusible(z):
        return {}
    from vqpipe.codebooks.fused import FusedCodes

    counts = FusedCodes(codes, False, search._SLACK, search._TINY).nearest(z, search._TILE).counts.tolist()
    return {"decided": counts[0], "again": counts[1]}


def _search_row(n: int, k: int, d: int, chunks: bool, kind: str = "") -> Row:
    from vqpipe.codebooks.search import nearest

    draw = torch.Generator(DEVICE).manual_seed(0)
    z = torch.randn(n, d, device=DEVICE, generator=draw)
    codes = torch.randn(k, d, device=DEVICE, generator=draw)
    if kind == "equal codes":
        codes = codes[:1].repeat(k, 1)
    elif kind == "near codes":
        codes = codes[: k // 4].repeat(4, 1) * (1 + 1e-7 * torch.arange(k, device=DEVICE)[:, None] * 4 / k)
    peers: dict[str, Callable[[], Tensor]] = {
        "blocks fp32" if chunks else "naive fp32": lambda: (chunked if chunks else naive)(z, codes)
    }
    if not chunks:
        peers["cdist"] = lambda: torch.cdist(z, codes).argmin(1)
        module = cache(lambda: vector_quantize(codes))  # built by the call before the timed ones
        peers["vector-quantize-pytorch"] = lambda: module()(z)
    row: Row = {"case": f"n {n:,} K {k:,} d {d}" + (f", {kind}" if kind else "")}
    with _Precision(tf32=False):
        row["ours"] = seconds(lambda: nearest(z, codes))
        row["ours_bytes"] = extra_bytes(lambda: nearest(z, codes))
        row |= launches(lambda: nearest(z, codes)) | _decided(z, codes)
        for name, peer in peers.items():
            row |= _guarded(name, lambda p=peer, o=name: {o: seconds(p), f"{o}_bytes": extra_bytes(p)})
        for package in (cuvs, faiss):
            row |= _guarded(package.__name__, lambda p=package: {p.__name__: _built(p(codes), z)})
    first = next(iter(peers))
    with _Precision(tf32=True):
        row |= _guarded("tf32", lambda: {"tf32": seconds(peers[first])})
    some = z[:2048]
    row["ratio"] = row["ours"] / row[first] if isinstance(row.get(first), float) else None
    row["equal"] = float(
        (nearest(some, codes) == (exact if not kind else _by_differences)(some, codes)).float().mean()
    )
    return row


def _built(peer: Callable[[Tensor], Tensor], z: Tensor) -> float:
    return seconds(lambda: peer(z))


def _guarded(name: str, work: Callable[[], Row]) -> Row:
    """A peer's figures, or why there are none: it does not fit, or cannot run here."""
    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        return {name: "out of memory"}
    except Exception as error:
        return {name: f"{type(error).__name__}: {error}"[:160]}
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def training(tiny: bool) -> Iterator[Row]:
    """Steps of the paper's f16 trunk with its discriminator, without a perceptual net; images on the device."""
    cases: list[tuple[str, int, Row]] = [
        ("bf16", 8, {}),
        ("bf16", 8, {"channels_last": True}),
        ("bf16", 8, {"compile": True}),
        ("bf16", 8, {"compile": True, "channels_last": True}),
        ("fp32", 32, {}),
        ("fp32", 32, {"compile": True}),
    ]
    if tiny:
        cases = [("fp32", 1, {})]
    variant = "vq" if tiny else "fc"
    for precision, batch, options in cases:
        name = ", ".join([f"batch {batch}", precision, *options])
        row: Row = {"case": name}
        with _Precision(tf32=True):
            row |= _guarded(
                "ours", lambda p=precision, b=batch, o=options: _step(variant, p, b, o, None, tiny)
            )
        yield row


def large_codebooks(tiny: bool) -> Iterator[Row]:
    """The step of `lc` at several K, bf16, batch 16, without a discriminator's loss: what K alone costs."""
    first: float | None = None
    for k in (64, 128) if tiny else (1_024, 16_384, 100_000):
        row: Row = {"case": f"K {k:,}"}
        batch = 1 if tiny else 16
        row |= _guarded("ours", lambda k=k, b=batch: _step("lc", "fp32" if tiny else "bf16", b, {}, k, tiny))
        first = first or row.get("step")
        yield row | {"ratio": row["step"] / first if first and "step" in row else None}


def _step(variant: str, precision: str, batch: int, options: Row, num_codes: int | None, tiny: bool) -> Row:
    """Seconds, images per second and memory of a training step through the engine's own stepper."""
    from vqpipe.cli.presets import load_preset
    from vqpipe.codebooks.patches import PatchesCodebook
    from vqpipe.params.base import merged, validate
    from vqpipe.quantizers import build
    from vqpipe.tokenizers.objective import TokenizerObjective
    from vqpipe.tokenizers.tokenizer import Tokenizer, TokenizerParams
    from vqpipe.training.loop import _compiled, _prepare, _set_channels_last
    from vqpipe.training.step import Stepper

    section = load_preset("pico" if tiny else "imagenet")["tokenizer"]
    content = merged(section["common"], section["variants"][variant])
    changes: Row = {
        "losses": {"perceptual": {"kind": "none"}, "adversarial": {"start": 0.0}},
        "training": {
            "precision": precision,
            "batch_size": batch,
            "accumulate": 1,
            "num_steps": 10_000,
            "compile": False,
            **options,
        },
    }
    if num_codes is not None:
        changes["quantizer"] = {"num_codes": num_codes, "dim": 8}
    config = validate(merged(content, changes), "tokenizer", TokenizerParams)
    prior = None
    if num_codes is not None:
        prior = PatchesCodebook(torch.randn(num_codes, 768), torch.ones(num_codes, dtype=torch.int64), {})
    torch.manual_seed(0)
    run = TokenizerObjective(config, Tokenizer(config, build(config.quantizer, prior)), None)
    run.module.to(DEVICE).train()
    if config.training.channels_last:
        _set_channels_last(run.module)
    state = _prepare(run, config.training, DEVICE)
    side = config.resolution
    images = torch.rand(batch, 3, side, side, device=DEVICE) * 2 - 1
    with ExitStack() as stack:
        if config.training.compile:
            stack.enter_context(_compiled(run))
        stepper = Stepper(run, state, config.training, DEVICE)

        def step() -> None:
            if stepper.step(images) is None:
                raise RuntimeError("the step was not finite")
            state.step += 1

        for _ in range(1 if tiny else 3):
            step()
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(step, 0 if tiny else 2)
        peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None
        return {"step": taken, "images_per_second": batch / taken, "peak_bytes": peak, **launches(step)}


def sampling(tiny: bool) -> Iterator[Row]:
    """Tokens per second of the class-conditional GPT of 337 million weights, 16 x 16 tokens, K 16,384.

    Of calls after the first one, which captures the step; `first` is how many seconds that one takes.
    """
    cases = [
        (16, "fp32", False, 20_000), (16, "bf16", False, 20_000), (16, "bf16", True, 12_000),
        (64, "bf16", False, 60_000),
    ]  # fmt: skip
    for batch, precision, guided, goal in [(2, "fp32", True, 0)] if tiny else cases:
        row: Row = {"case": f"batch {batch}, {precision}" + (", guidance 2, top-k 2,000" if guided else "")}
        row |= _guarded("ours", lambda b=batch, p=precision, g=guided: _sample(b, p, g, tiny)) | {
            "goal": goal
        }
        if not guided:
            row |= _guarded("gpt2 static", lambda b=batch, p=precision: _transformers(b, p, tiny))
        yield row


def _gpt(codes: int, tiny: bool, changes: Row) -> Any:
    """The GPT of the preset `imagenet` with 337 million weights at 16,384 codes, on the device."""
    from vqpipe.cli.presets import load_preset
    from vqpipe.params.base import merged, validate
    from vqpipe.priors import PRIORS
    from vqpipe.priors.contract import ImageSpace
    from vqpipe.priors.gpt import GPT, GPTParams

    section = load_preset("imagenet")["prior"]
    shape = (
        {"num_layers": 2, "num_heads": 2, "width": 32}
        if tiny
        else {"num_layers": 24, "num_heads": 16, "width": 1024}
    )
    entry = PRIORS.entry("prior.pairs", section["common"], section["pairs"]["fc-gpt"])
    config = validate(
        merged(entry, {"condition": "class", "condition_drop": 0.1, "model": shape, **changes}),
        "prior",
        GPTParams,
    )
    torch.manual_seed(0)
    space = ImageSpace((codes,), (4, 4) if tiny else (16, 16), tuple(map(str, range(1000))))
    with DEVICE:  # half a billion normal numbers take seconds on a CPU
        return GPT(config, space)


def _sample(batch: int, precision: str, guided: bool, tiny: bool) -> Row:
    from vqpipe.priors.contract import Condition

    codes = 64 if tiny else 16_384
    settings: Row = {"guidance": 1.0, "top_k": None, "top_p": 1.0, "precision": precision, "batch": None}
    if guided:
        settings |= {"guidance": 2.0, "top_k": min(2000, codes)}
    model = _gpt(codes, tiny, {"sampling": settings}).eval()
    labels = Condition(labels=torch.zeros(batch, dtype=torch.int64, device=DEVICE))

    def draw() -> Tensor:
        return model.sample(labels, batch, model.config.sampling, torch.Generator().manual_seed(0))

    first, taken, peak = _timed(draw), seconds(draw, 0), extra_bytes(draw)
    return {"ours": batch * model.num_positions / taken, "first": first, "ours_bytes": peak, **launches(draw)}


def prior_loss(tiny: bool) -> Iterator[Row]:
    """A training step of the GPT of 24 layers and width 1,024 with AdamW, 256 tokens, bf16, by K.

    `peak_bytes` is all memory of the step, weights and moments too. `plain` has all logits in memory at once.
    """
    cases = [(64, 4)] if tiny else [(16_384, 64), (100_000, 64)]
    for codes, batch in cases:
        row: Row = {"case": f"K {codes:,} batch {batch}", "goal_bytes": 24_000_000_000}
        row |= _guarded("step", lambda k=codes, b=batch: _prior_step(k, b, tiny, plain=False))
        yield row | _guarded("plain", lambda k=codes, b=batch: _prior_step(k, b, tiny, plain=True))


def _prior_step(codes: int, batch: int, tiny: bool, plain: bool) -> Row:
    from vqpipe.priors import cross_entropy
    from vqpipe.priors.contract import Condition

    model = _gpt(codes, tiny, {}).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=DEVICE.type == "cuda")
    tokens = torch.randint(codes, (batch, 1, *model.grid), device=DEVICE)
    labels = Condition(labels=torch.zeros(batch, dtype=torch.int64, device=DEVICE))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = model.loss(tokens, labels)
        loss.backward()
        optimizer.step()

    before, cross_entropy.LOGITS = cross_entropy.LOGITS, 1 << 62 if plain else cross_entropy.LOGITS
    try:
        step()
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(step, 0)
    finally:
        cross_entropy.LOGITS = before
    peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None
    return {"plain": taken, "plain_bytes": peak} if plain else {"step": taken, "peak_bytes": peak}


def _transformers(batch: int, precision: str, tiny: bool) -> Row:
    """`transformers`' GPT-2 of the same shape with a static cache, sampling without top-k."""
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, heads, width, codes, tokens = (2, 2, 32, 64, 16) if tiny else (24, 16, 1024, 16_384, 256)
    config = GPT2Config(
        vocab_size=codes, n_positions=tokens + 1, n_embd=width, n_layer=layers, n_head=heads,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = GPT2LMHeadModel(config).to(DEVICE, dtype).eval()
    start = torch.zeros(batch, 1, dtype=torch.int64, device=DEVICE)

    @torch.no_grad()
    def draw() -> Tensor:
        return model.generate(
            start, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=True, top_k=0,
            cache_implementation="static",
        )  # fmt: skip

    return {"gpt2 static": batch * tokens / seconds(draw, 0)}


PARTS: dict[str, tuple[Callable[[bool], Iterator[Row]], str]] = {
    "search": (search, "nearest code; ms, ratio to naive fp32"),
    "assignment": (assignment, "k-means assignment; ms, ratio to fp32 in blocks"),
    "sampling": (sampling, "sampling; tokens per second"),
    "prior_loss": (prior_loss, "training step of the GPT by K; ms"),
    "large_codebooks": (large_codebooks, "step of lc by K; ms, ratio to the first"),
    "training": (training, "training step, 256 px, f16 trunk and discriminator"),
}
UNITS = {"step": (1e3, "ms"), "tf32": (1e3, "ms"), "cdist": (1e3, "ms"), "naive fp32": (1e3, "ms"),
         "blocks fp32": (1e3, "ms"), "pass": (1e3, "ms"), "cuvs": (1e3, "ms"), "faiss": (1e3, "ms"),
         "plain": (1e3, "ms"), "vector-quantize-pytorch": (1e3, "ms")}  # fmt: skip


def shown(part: str, row: Row) -> str:
    """A row as one line."""
    cells = []
    for name, value in row.items():
        if name == "case" or value is None:
            continue
        if name.endswith("bytes"):
            cells.append(f"{name.removesuffix('_bytes')} {value / 1e6:,.0f} MB")
        elif isinstance(value, float):
            timed = name in UNITS or (name == "ours" and part in ("search", "assignment"))
            factor, unit = (1e3, " ms") if timed else (1.0, "")
            cells.append(
                f"{name} {value * factor:,.3f}{unit}"
                if value * factor < 100
                else f"{name} {value * factor:,.0f}{unit}"
            )
        else:
            cells.append(f"{name} {value}")
    return f"{row['case']:<34s} " + " | ".join(cells)


def versions() -> Row:
    """The card, and the packages that the figures depend on."""
    found = {}
    for name in (
        "torch", "numpy", "triton", "vector-quantize-pytorch", "transformers", "cuvs-cu13", "faiss-gpu-cuvs",
    ):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    card = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU, for a trial of the script"
    return {"card": card, "cuda": torch.version.cuda, "python": platform.python_version(), **found}


def main(out: Path | None = None, only: list[str] | None = None, tiny: bool = False) -> None:
    """Time the parts and print their tables.

    Args:
        out: JSON file for all figures.
        only: parts to run; all without it.
        tiny: sizes for a trial on a CPU.
    """
    if DEVICE.type != "cuda" and not tiny:
        sys.exit("there is no CUDA device; --tiny tries the script on a CPU")
    content: Row = {"versions": versions(), "parts": {}}
    print(" ".join(f"{name} {value}" for name, value in content["versions"].items()), flush=True)
    for name in only or PARTS:
        work, title = PARTS[name]
        begun = time.perf_counter()
        print(f"\n{name}: {title}", flush=True)
        rows = content["parts"].setdefault(name, [])
        for row in work(tiny):
            rows.append(row)
            print(shown(name, row), flush=True)
            if out is not None:
                out.write_text(json.dumps(content, indent=2) + "\n")
        print(f"({time.perf_counter() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Times vqpipe on a GPU beside peers.")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part to run; all without it")
    parser.add_argument("--tiny", action="store_true", help="sizes for a trial on a CPU")
    main(**vars(parser.parse_args()))
