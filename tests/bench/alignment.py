"""What alignment costs a step: python -m tests.bench.alignment [--preset scenes] [--form nano] [--clip FOLDER]

Takes the CPU time of the steps of a preset's `vq` tokenizer, plain and with LG-VQ's losses, each alone and together,
the variants in turn within each round, and prints the median of each round's ratio to the plain step. Images and
captions are made. The plain step is the one before the discriminator starts; without `--clip`, the run's CLIP, it has
no perceptual net either. CPU time, and not the clock's, so that other work on the machine moves it less; run it on one
thread. The goal is 1.35x at most.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from tests.small_training import CPU, make, merged
from vqpipe.alignment.aligner import Aligner, AlignParams, TextBatch
from vqpipe.cli.presets import load_preset
from vqpipe.models.perceptual import build_perceptual
from vqpipe.params.base import validate
from vqpipe.quantizers import Quantized
from vqpipe.tokenizers.objective import TokenizerObjective
from vqpipe.tokenizers.tokenizer import TokenizerParams
from vqpipe.training.loop import _prepare
from vqpipe.training.step import Stepper
from vqpipe.vision.clip import Clip

ALWAYS = {
    "losses": {"adversarial": {"weight": 0.0}},
    "training": {"num_steps": 10_000, "log_every": 50, "precision": "fp32"},
}  # fmt: skip
START, END = 49406, 49407


@dataclass(frozen=True)
class Form:
    """The aligner's widths and what a corpus gives it."""

    width: int
    num_layers: int
    num_heads: int
    masked_width: int
    masked_layers: int
    mean_tokens: float
    """Of a caption, start and end included."""
    max_tokens: int
    vocabulary: int
    word_dim: int
    text_dim: int


FORMS = {
    "nano-2": Form(64, 2, 4, 64, 2, 12.5, 25, 164, 64, 64),
    "nano": Form(64, 1, 4, 64, 1, 12.5, 25, 164, 64, 64),  # captions of `scenes`, and the CLIP fitted to them
    "paper": Form(256, 2, 1, 512, 2, 13.0, 30, 8000, 512, 512),  # captions of COCO, ViT-B/32
}


def align_params(form: Form, names: tuple[str, ...]) -> AlignParams:
    """The reference code's form at these widths, with the named losses."""
    parts: dict[str, Any] = {
        "global": {
            "weight": 0.001, "directions": "image_to_text", "temperature": {"kind": "fixed", "value": 1.0},
            "gather": False,
        },
        "masked": {
            "weight": 0.01, "mean": 0.5, "std": 0.1, "low": 0.1, "high": 0.3, "num_layers": form.masked_layers,
            "width": form.masked_width, "dropout": 0.1, "label_smoothing": 0.1,
        },
        "relationship": {"weight": 0.0001, "projection": "mlp"},
    }  # fmt: skip
    chosen = {name: part if name in names else None for name, part in parts.items()}
    section = {
        "width": form.width,
        "num_layers": form.num_layers,
        "num_heads": form.num_heads,
        "max_tokens": form.max_tokens,
        **chosen,
    }
    return validate(section, "align", AlignParams)


class AlignedSteps(TokenizerObjective):
    """The tokenizer's training with an aligner in phase `ae`, on one batch of captions."""

    def __init__(
        self, config: TokenizerParams, plain: TokenizerObjective, own: Aligner, text: TextBatch
    ) -> None:
        tokenizer = plain.tokenizer
        super().__init__(config, tokenizer, plain.perceptual)
        self.own, self.text = own, text
        self.module["own"] = own
        self._last: list[Quantized] = []
        assert isinstance(tokenizer.quantizer, torch.nn.Module)
        tokenizer.quantizer.register_forward_hook(lambda _, __, out: self._last.append(out))

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        return [*super().parameters(phase), {"params": list(self.own.parameters()), "lr_scale": 1.0}]

    def loss(self, phase: str, batch: Any, progress: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        loss, terms = super().loss(phase, batch, progress)
        extra, found = self.own(self._last.pop(), self.text, progress)
        return loss + extra, {**terms, **found}


def made_text(form: Form, batch: int) -> tuple[TextBatch, Tensor]:
    """Captions of drawn lengths and tokens, a word each, and the vocabulary."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.cat([torch.arange(1000, 1000 + form.vocabulary - 2), torch.tensor([START, END])])
    lengths = (form.mean_tokens + 4 * torch.randn(batch, generator=draw)).round().long()
    lengths = lengths.clamp(4, form.max_tokens)
    tokens = torch.randint(1000, 1000 + form.vocabulary - 2, (batch, form.max_tokens), generator=draw)
    words = torch.arange(-1, form.max_tokens - 1).repeat(batch, 1)
    tokens[:, 0] = START
    tokens[torch.arange(batch), lengths - 1] = END
    words[torch.arange(form.max_tokens) >= lengths[:, None] - 1] = -1
    return TextBatch(tokens, lengths, words, torch.randn(batch, form.text_dim, generator=draw)), ids


def stepping(
    config: TokenizerParams, form: Form, names: tuple[str, ...], steps: int, clip: Clip | None
) -> Callable[[], None]:
    """Takes `steps` steps at each call."""
    training = make(config)
    training.perceptual = build_perceptual(config.losses.perceptual, clip)
    if names:
        text, ids = made_text(form, config.training.batch_size)
        tokenizer = training.tokenizer
        height, width = tokenizer.grid
        dim = config.quantizer.dim
        own = Aligner(
            align_params(form, names), num_positions=height * width, latent_dim=dim, code_dims=(dim,),
            vocabulary=ids, embeddings=torch.randn(len(ids), form.word_dim), text_dim=form.text_dim,
        )  # fmt: skip
        training = AlignedSteps(config, training, own, text)
        training.module.train()
    state = _prepare(training, config.training, CPU)
    stepper = Stepper(training, state, config.training, CPU)
    side = config.resolution
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(config.training.batch_size, 3, side, side, generator=draw) * 2 - 1

    def take() -> None:
        for _ in range(steps):
            assert stepper.step(images) is not None
            state.step += 1

    return take


def main(
    preset: Annotated[str, typer.Option(help="The preset whose tokenizer is trained.")] = "scenes",
    form: Annotated[str, typer.Option(help="nano or paper: the aligner's widths and the captions.")] = "nano",
    rounds: Annotated[int, typer.Option(help="Rounds over all variants.")] = 12,
    steps: Annotated[int, typer.Option(help="Steps of a variant in a round.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images per step; 0: the preset's.")] = 0,
    clip: Annotated[
        Path | None, typer.Option(help="A CLIP artifact, for the preset's perceptual net.")
    ] = None,
    only: Annotated[str, typer.Option(help="Losses by name, with commas: this one variant.")] = "",
) -> None:
    """Time the variants and print their ratios."""
    tokenizer = load_preset(preset)["tokenizer"]
    base = merged(merged(tokenizer["common"], tokenizer["variants"]["vq"]), ALWAYS)
    if batch_size:
        base = merged(base, {"training": {"batch_size": batch_size}})
    if clip is None:
        base = merged(base, {"losses": {"perceptual": {"kind": "none"}, "perceptual_weight": 0.0}})
    model = Clip.load(clip) if clip else None
    config = validate(base, "tokenizer", TokenizerParams)
    every = ("global", "masked", "relationship")
    variants: list[tuple[str, ...]] = [*((name,) for name in every), every]
    chosen = [(), *([tuple(only.split(","))] if only else variants)]
    takers = {
        " + ".join(names) or "plain": stepping(config, FORMS[form], names, steps, model) for names in chosen
    }
    for take in takers.values():
        take()
    times: dict[str, list[float]] = {name: [] for name in takers}
    for _ in range(rounds):
        for name, take in takers.items():
            times[name].append(_seconds(take))
    plain = statistics.median(times["plain"]) / steps
    threads, peak = torch.get_num_threads(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{preset}: {1000 * plain:.1f} ms a plain step of CPU time, {threads} threads, peak {peak:.2f} GB of all"
    )
    print(f"{'losses':32} {'step time':>9} {'from':>7} {'to':>6}")
    for name, own in times.items():
        ratios = [one / alone for one, alone in zip(own, times["plain"], strict=True)]
        print(f"{name:32} {statistics.median(ratios):8.2f}x {min(ratios):6.2f}x {max(ratios):5.2f}x")


def _seconds(take: Callable[[], None]) -> float:
    start = time.process_time()
    take()
    return time.process_time() - start


if __name__ == "__main__":
    typer.run(main)
