"""What each training option costs: python -m tests.bench.training [--preset scenes] [--rounds 10] [--no-compiled]

Takes the CPU time of the steps of a preset's `vq` tokenizer (discriminator on, no perceptual net, made images) with
each option, the options in turn within each round, and prints the median of each round's ratio to the step without
options. CPU time, and not the clock's, so that other work on the machine moves it less; run it on one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from tests.small_training import CPU, make, merged
from vqpipe.cli.presets import load_preset
from vqpipe.params.base import validate
from vqpipe.runtime.device import deterministic_algorithms
from vqpipe.tokenizers.tokenizer import TokenizerParams
from vqpipe.training.loop import _compiled, _prepare, _set_channels_last
from vqpipe.training.step import Stepper

ALWAYS = {
    "losses": {"perceptual": {"kind": "none"}, "adversarial": {"start": 0.0, "warmup": 0.0}},
    "training": {"num_steps": 10_000, "log_every": 50},
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "accumulate: 4": {"training": {"accumulate": 4}},
    "channels_last": {"training": {"channels_last": True}},
    "compile": {"training": {"compile": True}},
    "deterministic": {"training": {"deterministic": True}},
    "spectral_norm": {"losses": {"adversarial": {"discriminator": {"spectral_norm": True}}}},
    "r1, every 1": {"losses": {"adversarial": {"r1": {"weight": 1.0, "every": 1}}}},
    "r1, every 16": {"losses": {"adversarial": {"r1": {"weight": 1.0, "every": 16}}}},
}
STEPS = 16
"""Steps of one option in one round: a whole period of the lazy penalty."""


@contextmanager
def stepping(config: TokenizerParams, images: Tensor) -> Iterator[Callable[[], None]]:
    """Takes `STEPS` steps with a config's options at each call."""
    training = make(config)
    if config.training.channels_last:
        _set_channels_last(training.module)
    state = _prepare(training, config.training, CPU)
    stepper = Stepper(training, state, config.training, CPU)

    def steps() -> None:
        with deterministic_algorithms(config.training.deterministic):
            for _ in range(STEPS):
                assert stepper.step(images) is not None
                state.step += 1

    with ExitStack() as stack:
        if config.training.compile:
            stack.enter_context(_compiled(training))
        yield steps


def main(
    preset: Annotated[str, typer.Option(help="The preset whose tokenizer is trained.")] = "scenes",
    rounds: Annotated[int, typer.Option(help="Rounds over all options.")] = 10,
    compiled: Annotated[bool, typer.Option(help="Time `compile` too; its first step takes minutes.")] = True,
) -> None:
    """Time the options and print their ratios."""
    tokenizer = load_preset(preset)["tokenizer"]
    base = merged(merged(tokenizer["common"], tokenizer["variants"]["vq"]), ALWAYS)
    with ExitStack() as stack:
        takers = {}
        for name, changes in OPTIONS.items():
            if name == "compile" and not compiled:
                continue
            config = validate(merged(base, changes), "tokenizer", TokenizerParams)
            side = config.resolution
            draw = torch.Generator().manual_seed(0)
            images = torch.rand(config.training.batch_size, 3, side, side, generator=draw) * 2 - 1
            takers[name] = stack.enter_context(stepping(config, images))
        begun = {name: _seconds(take) for name, take in takers.items()}
        times: dict[str, list[float]] = {name: [] for name in takers}
        for _ in range(rounds):
            for name, take in takers.items():
                times[name].append(_seconds(take))
    step = statistics.median(times["none"]) / STEPS
    print(
        f"{preset}: {1000 * step:.1f} ms a step of CPU time without options, {torch.get_num_threads()} threads"
    )
    print(f"{'option':16} {'step time':>9} {'from':>7} {'to':>6} {'first ' + str(STEPS) + ' steps':>16}")
    for name, own in times.items():
        ratios = [one / plain for one, plain in zip(own, times["none"], strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"{name:16} {middle:8.2f}x {low:6.2f}x {high:5.2f}x {begun[name]:14.1f} s")


def _seconds(take: Callable[[], None]) -> float:
    start = time.process_time()
    take()
    return time.process_time() - start


if __name__ == "__main__":
    typer.run(main)
