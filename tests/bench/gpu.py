"""Speed on one GPU beside peers: code search, k-means assignment, training steps, sampling.

Run: python -m tests.bench.gpu [--out gpu.json] [--only search --only sampling] [--tiny]

Prints a table for each part and writes all of it as JSON. Every form of a case runs in this process, one after the
other, on the same random data; times are medians between device events after a warm-up. `--tiny` takes sizes that a
CPU finishes in seconds: it shows that the script works and measures nothing. Peers that are not installed are named as
missing. Needs torch, numpy, pydantic, ruamel.yaml, safetensors and pyarrow alone.

A run takes at most 8 minutes by its own account: each row has seconds allotted to it, and a row whose seconds are no
longer left is not begun and says so. `took` is what a row took. Half of the sum is for compiling. The part `layouts`
runs where it is named (`--only layouts`).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tests.bench.gpu_search import assignment, search
from tests.bench.gpu_timing import (
    DEVICE,
    LIMIT,
    Case,
    Precision,
    Row,
    extra_bytes,
    guarded,
    launches,
    measured,
    seconds,
    timed,
)

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


def training(tiny: bool) -> list[Case]:
    """Steps of the paper's f16 trunk with its discriminator, without a perceptual net; images on the device.

    fp32 is with TF32 products. `goal` is of the images per second: in bf16 of the compiled step, in fp32 of any.
    """
    forms: list[tuple[str, int, Row, Row, float]] = [
        ("bf16", 8, {}, {}, 8),
        ("bf16", 8, {"channels_last": True}, {}, 8),
        ("fp32", 32, {}, {"goal": 120}, 11),
        ("bf16", 8, {"compile": True}, {"goal": 150}, 105),
        ("fp32", 32, {"compile": True}, {"goal": 120}, 105),
    ]
    return _training_cases([("fp32", 1, {}, {"goal": 0}, 8)] if tiny else forms, tiny)


def layouts(tiny: bool) -> list[Case]:
    """The compiled step in either layout of images and weights, in one run."""
    options: list[Row] = [{} if tiny else {"compile": True}]
    options.append({"channels_last": True, **options[0]})
    form = ("fp32", 1) if tiny else ("bf16", 8)
    return _training_cases([(*form, own, {}, 105) for own in options], tiny)


def _training_cases(forms: list[tuple[str, int, Row, Row, float]], tiny: bool) -> list[Case]:
    return [
        Case(
            ", ".join([f"batch {batch}", precision, *options]),
            allotted,
            partial(_training_row, precision, batch, options, tiny),
            goal,
        )
        for precision, batch, options, goal, allotted in forms
    ]


def _training_row(precision: str, batch: int, options: Row, tiny: bool) -> Row:
    with Precision(tf32=True):
        return guarded("ours", lambda: _step("vq" if tiny else "fc", precision, batch, options, None, tiny))


def large_codebooks(tiny: bool) -> list[Case]:
    """The step of `lc` at several K, bf16, batch 16, without a discriminator's loss: what K alone costs.

    `ratio` is to the step at the first K; `goal` is of the ratio at the last.
    """
    sizes = (64, 128) if tiny else (1_024, 16_384, 100_000)
    steps: dict[int, float] = {}

    def work(k: int) -> Row:
        batch, precision = (1, "fp32") if tiny else (16, "bf16")
        row = guarded("ours", lambda: _step("lc", precision, batch, {}, k, tiny))
        if "step" in row:
            steps[k] = row["step"]
        known = steps.keys() >= {k, sizes[0]}
        return row | {"ratio": steps[k] / steps[sizes[0]] if known else None}

    return [Case(f"K {k:,}", 9, partial(work, k), {"goal": 1.05} if k == sizes[-1] else {}) for k in sizes]


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
        taken = seconds(step, 0 if tiny else 1)
        peak = torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None
        return {"step": taken, "images_per_second": batch / taken, "peak_bytes": peak, **launches(step)}


def sampling(tiny: bool) -> list[Case]:
    """Tokens per second of the class-conditional GPT of 337 million weights, 16 x 16 tokens, K 16,384.

    Of calls after the first one, which captures the step; `first` is how many seconds that one takes. One case has the
    peer, which compiles for each.
    """
    forms = [
        (16, "fp32", False, 20_000, False, 11), (16, "bf16", False, 20_000, True, 52),
        (16, "bf16", True, 12_000, False, 11), (64, "bf16", False, 60_000, False, 11),
    ]  # fmt: skip
    return [
        Case(
            f"batch {batch}, {precision}" + (", guidance 2, top-k 2,000" if guided else ""),
            allotted,
            partial(_sampling_row, batch, precision, guided, peer, tiny),
            {"goal": goal},
        )
        for batch, precision, guided, goal, peer, allotted in (
            [(2, "fp32", True, 0, False, 11)] if tiny else forms
        )
    ]


def _sampling_row(batch: int, precision: str, guided: bool, peer: bool, tiny: bool) -> Row:
    row = guarded("ours", lambda: _sample(batch, precision, guided, tiny))
    if peer:
        row |= guarded("gpt2 static", lambda: _transformers(batch, precision, tiny))
    return row


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

    first, taken, peak = timed(draw), seconds(draw, 0), extra_bytes(draw)
    return {"ours": batch * model.num_positions / taken, "first": first, "ours_bytes": peak, **launches(draw)}


def prior_loss(tiny: bool) -> list[Case]:
    """A training step of the GPT of 24 layers and width 1,024 with AdamW, 256 tokens, bf16, by K.

    `peak_bytes` is all memory of the step, weights and moments too. `plain` has all logits in memory at once.
    """
    return [
        Case(
            f"K {codes:,} batch {batch}",
            9,
            partial(_prior_row, codes, batch, tiny),
            {"goal_bytes": 24_000_000_000},
        )
        for codes, batch in ([(64, 4)] if tiny else [(16_384, 64), (100_000, 64)])
    ]


def _prior_row(codes: int, batch: int, tiny: bool) -> Row:
    row = guarded("step", lambda: _prior_step(codes, batch, tiny, plain=False))
    return row | guarded("plain", lambda: _prior_step(codes, batch, tiny, plain=True))


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
    with DEVICE:
        model = GPT2LMHeadModel(config).to(dtype).eval()
    start = torch.zeros(batch, 1, dtype=torch.int64, device=DEVICE)

    @torch.no_grad()
    def draw() -> Tensor:
        return model.generate(
            start, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=True, top_k=0,
            cache_implementation="static",
        )  # fmt: skip

    return {"gpt2 static": batch * tokens / seconds(draw, 0)}


PARTS: dict[str, tuple[Callable[[bool], list[Case]], str]] = {
    "search": (search, "nearest code; ms, ratio to naive fp32"),
    "assignment": (assignment, "k-means assignment; ms, ratio to fp32 in blocks"),
    "sampling": (sampling, "sampling; tokens per second"),
    "prior_loss": (prior_loss, "training step of the GPT by K; ms"),
    "large_codebooks": (large_codebooks, "step of lc by K; ms, ratio to the first"),
    "training": (training, "training step, 256 px, f16 trunk and discriminator; images per second"),
    "layouts": (layouts, "the compiled training step by layout; images per second"),
}
ON_REQUEST = {"layouts"}
"""Parts that run where `--only` names them: their seconds are not left in a run of all others."""
UNITS = {"step": (1e3, "ms"), "tf32": (1e3, "ms"), "cdist": (1e3, "ms"), "naive fp32": (1e3, "ms"),
         "blocks fp32": (1e3, "ms"), "pass": (1e3, "ms"), "cuvs": (1e3, "ms"), "faiss": (1e3, "ms"),
         "plain": (1e3, "ms"), "vector-quantize-pytorch": (1e3, "ms"), "took": (1.0, "s"),
         "first": (1.0, "s")}  # fmt: skip


def shown(part: str, row: Row) -> str:
    """A row as one line."""
    cells = []
    for name, value in row.items():
        if name == "case" or value is None:
            continue
        if name.endswith("bytes"):
            cells.append(f"{name.removesuffix('_bytes')} {value / 1e6:,.0f} MB")
        elif isinstance(value, float):
            of_search = name == "ours" and part in ("search", "assignment")
            factor, unit = UNITS["step"] if of_search else UNITS.get(name, (1.0, ""))
            value *= factor
            cells.append(f"{name} {value:,.{3 if value < 100 else 0}f} {unit}".rstrip())
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
        only: parts to run; without it all but those on request.
        tiny: sizes for a trial on a CPU, without a limit of time.
    """
    if DEVICE.type != "cuda" and not tiny:
        sys.exit("there is no CUDA device; --tiny tries the script on a CPU")
    content: Row = {"versions": versions(), "parts": {}}
    print(" ".join(f"{name} {value}" for name, value in content["versions"].items()), flush=True)
    start = time.perf_counter()
    for name in only or [name for name in PARTS if name not in ON_REQUEST]:
        cases, title = PARTS[name]
        begun = time.perf_counter()
        print(f"\n{name}: {title}", flush=True)
        rows = content["parts"].setdefault(name, [])
        for case in cases(tiny):
            row = measured(case, math.inf if tiny else LIMIT - (time.perf_counter() - start))
            rows.append(row)
            print(shown(name, row), flush=True)
            if out is not None:
                out.write_text(json.dumps(content, indent=2) + "\n")
        print(f"({time.perf_counter() - begun:.0f} s)", flush=True)
    limit = "" if tiny else f" of {LIMIT:g} s"
    print(f"\n{time.perf_counter() - start:.0f} s{limit} in all", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Times vqpipe on a GPU beside peers.")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="a part to run; without it all but layouts"
    )
    parser.add_argument("--tiny", action="store_true", help="sizes for a trial on a CPU")
    main(**vars(parser.parse_args()))
