"""What a tokenizer is trained on: pixel, perceptual, quantizer, adversarial and alignment losses, in two phases.

`CodeWatch` counts the codes in use on the way and warns of a collapse.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner
from vqpipe.artifacts.metrics import Metrics
from vqpipe.models.losses import (
    DiscriminatorStart,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    image_gradient,
    pixel_loss,
    r1_penalty,
    with_gradient,
)
from vqpipe.models.perceptual import Perceptual
from vqpipe.models.transformer import WITH_CONVOLUTIONS, decay_groups
from vqpipe.runtime.distributed import all_reduce_sum, average, is_main, synchronised_norms
from vqpipe.runtime.host import count_codes
from vqpipe.runtime.terminal import say
from vqpipe.tokenizers.captions import CaptionedImages, images_of
from vqpipe.tokenizers.tokenizer import CHANNELS, Tokenizer, TokenizerParams
from vqpipe.training.objective import Objective

GRACE = 0.1
"""Part of the training before which no collapse is reported: the codes still move."""
PATIENCE = 3
"""Windows in a row that must look collapsed."""
FALL = 0.25
"""Collapsed: a perplexity below this share of the highest since the grace ended …"""
FLOOR = 0.01
"""… or below this share of what the window could show, the smaller of K and its tokens …"""
FEWEST = 2.0
"""… or below this many codes. Codebooks of fewer than `SMALL` codes are never reported."""
SMALL = 8
HALF_SCALE = 1024.0
"""Factor on the losses on the way to the image under fp16, where small gradients would vanish."""
REMEDY = (
    "codes collapse where few win early and the others get no gradient: start the codes from data (init: data), "
    "restart dead codes (kind ema with restart, or cvq), raise beta or lower the learning rate, or take a "
    "method that trains all codes at once (lc, sim_vq)"
)


class TokenizerObjective(Objective):
    """The tokenizer and its discriminator: phase `ae`, then `disc`.

    Batches are images (b 3 h w) in [-1, 1]; with an aligner, `CaptionedImages`. The aligner is trained in phase `ae`
    with the tokenizer, and is not part of it.
    """

    def __init__(
        self,
        config: TokenizerParams,
        tokenizer: Tokenizer,
        perceptual: Perceptual | None,
        aligner: Aligner | None = None,
        title: str = "training",
    ) -> None:
        assert (aligner is None) == (config.align is None)
        self.config, self.tokenizer, self.perceptual, self.aligner = config, tokenizer, perceptual, aligner
        training = config.training
        self.watch = CodeWatch(
            tokenizer.num_codes, training.num_steps, training.log_every, training.accumulate, title
        )
        self.module: nn.ModuleDict = nn.ModuleDict({"tokenizer": tokenizer, "watch": self.watch})
        self.phases: tuple[str, ...] = ("ae",)
        self.discriminator: nn.Module | None = None
        adversarial = config.losses.adversarial
        self.start = DiscriminatorStart(adversarial.start)
        if adversarial.weight > 0:
            discriminator = PatchDiscriminator(adversarial.discriminator, CHANNELS)
            self.discriminator = synchronised_norms(discriminator)
            self.module["discriminator"], self.module["start"] = self.discriminator, self.start
            self.phases = ("ae", "disc")
        if aligner is not None:
            self.module["aligner"] = aligner
        self._step = 0
        """The present step, for the lazy gradient penalty."""
        self._fakes: deque[Tensor] = deque()
        """The micro-batches' reconstructions, from phase `ae` to phase `disc`."""
        self._reconstructions: list[Tensor] = []
        """The micro-batches' reconstruction losses, for a start that is a plateau."""

    def parameters(self, phase: str) -> list[dict[str, Any]]:
        modules = [self.module["tokenizer" if phase == "ae" else "discriminator"]]
        if phase == "ae" and self.aligner is not None:
            modules.append(self.aligner)
        scale = 1.0 if phase == "ae" else self.config.losses.adversarial.discriminator.lr_scale
        return [
            {**group, "lr_scale": scale}
            for module in modules
            for group in decay_groups(module, WITH_CONVOLUTIONS)
            if group["params"]
        ]

    def active(self, phase: str, progress: float) -> bool:
        return phase == "ae" or self.start.passed(progress)

    def networks(self) -> list[nn.Module]:
        """Encoder, decoder, discriminator and perceptual net; the search and the quantizer stay as they are."""
        others = [self.discriminator, self.perceptual]
        return [self.tokenizer.encoder, self.tokenizer.decoder, *(net for net in others if net is not None)]

    def uncompiled(self) -> list[nn.Module]:
        """The decoder's last layer, at whose weight the adaptive weight compares gradients."""
        return [self.tokenizer.decoder.out]

    def published(self) -> dict[str, nn.Module]:
        """The tokenizer, and the aligner where there is one."""
        return {name: self.module[name] for name in ("tokenizer", "aligner") if name in self.module}

    def unused(self, phase: str) -> bool:
        """Only an aligner may leave parameters without a gradient."""
        return phase == "ae" and self.aligner is not None

    def begin(self, batches: Sequence[Any], step: int, progress: float) -> None:
        """Codes that start from data start from the whole batch, also with several micro-batches."""
        self._step = step
        self._fakes.clear()
        self._reconstructions.clear()
        quantizer = self.tokenizer.quantizer
        if len(batches) > 1 and quantizer.waits_for_data():
            with torch.no_grad():
                quantizer.initialise(
                    torch.cat([self.tokenizer.encode_latent(images_of(part)) for part in batches])
                )

    def observe(self, progress: float) -> None:
        """Let a plateau see the reconstruction loss, the mean over micro-batches and ranks; it stays on the device."""
        if self.discriminator is not None and self.start.plateau is not None:
            mean = torch.stack(self._reconstructions).double().mean()
            self.start.observe(average(mean), progress)

    def loss(
        self, phase: str, batch: Float[Tensor, "b 3 h w"] | CaptionedImages, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """VQGAN's two objectives (arXiv 2012.09841, equations 4 to 7), the first with the aligner's losses added
        (LG-VQ, arXiv 2405.14206, equation 9), which have no influence on the adaptive weight."""
        if phase == "disc":
            return self._discriminator_loss(images_of(batch), progress)
        return self._autoencoder_loss(batch, progress)

    def _autoencoder_loss(
        self, batch: Tensor | CaptionedImages, progress: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        losses, images = self.config.losses, images_of(batch)
        recon, quantized = self.tokenizer(images, progress)
        recon = recon.float()
        self._fakes.append(recon.detach())
        terms: dict[str, Tensor | float] = {"quantizer": quantized.loss.detach()}
        terms |= {name: value.detach() for name, value in quantized.terms.items()}
        counts = self.watch.count(quantized.indices)
        terms |= {f"codes_in_batch_{index}": (own > 0).sum() for index, own in enumerate(counts)}
        terms |= self.watch.record(counts)
        if self.discriminator is not None and self.start.passed(progress, losses.adversarial.warmup):
            image_loss, image_terms = self._adversarial(recon, images)
        else:
            image_loss, image_terms = self._reconstruction(recon, images)
        terms |= image_terms
        total = image_loss + losses.quantizer_weight * quantized.loss
        if self.aligner is not None:
            assert isinstance(batch, CaptionedImages)
            alignment, align_terms = self.aligner(quantized, batch.text)
            terms |= {"align": alignment.detach(), **align_terms}
            total = total + alignment
        return total, terms

    def _reconstruction(self, recon: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Pixel plus perceptual loss."""
        loss, pixel_terms = pixel_loss(self.config.losses.reconstruction, recon, images)
        terms: dict[str, Tensor | float] = {**pixel_terms}
        if self.perceptual is not None:
            distance = self.perceptual(recon, images).mean()
            terms[self.perceptual.name] = distance.detach()
            loss = loss + self.config.losses.perceptual_weight * distance
        if self.start.plateau is not None:
            terms["reconstruction"] = loss.detach()
            self._reconstructions.append(loss.detach())
        return loss, terms

    def _adversarial(self, recon: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The same plus the weighted adversarial loss.

        Each loss goes backward to the image once, where its network ends. From these two gradients the last layer
        gives the adaptive weight, and their weighted sum goes on through the decoder in the loss's backward pass.
        """
        assert self.discriminator is not None
        config = self.config.losses.adversarial
        scale = HALF_SCALE if self.config.training.precision == "fp16" else 1.0
        seen = recon.detach().requires_grad_(True)
        reconstruction, terms = self._reconstruction(seen, images)
        up = image_gradient(reconstruction, seen, scale)
        self.discriminator.requires_grad_(False)
        generator = hinge_generator_loss(self.discriminator(seen).float())
        self.discriminator.requires_grad_(True)
        down = image_gradient(generator, seen, scale)
        weight = adaptive_weight(
            recon, up, down, self.tokenizer.decoder.last_weight, config.max_adaptive_weight, scale != 1
        )
        terms |= {"adversarial": generator.detach(), "adaptive_weight": weight}
        factor = config.weight * weight
        value = reconstruction.detach() + factor * generator.detach()
        return with_gradient(value, recon, up + factor * down), terms

    def _discriminator_loss(
        self, images: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        assert self.discriminator is not None
        fakes = self._fakes.popleft()
        real, fake = self.discriminator(images).float(), self.discriminator(fakes).float()
        terms: dict[str, Tensor | float] = {"real": real.detach().mean(), "fake": fake.detach().mean()}
        loss = hinge_discriminator_loss(real, fake)
        r1 = self.config.losses.adversarial.r1
        if r1 is not None and self._step % r1.every == 0:
            penalty = r1_penalty(self.discriminator, images)
            terms["r1"] = penalty.detach()
            loss = loss + r1.weight * r1.every * penalty
        return loss, terms


class CodeUse(Metrics):
    """When a codebook collapsed during training, by `CodeWatch`; lists have one entry per group."""

    collapse_step: int | None
    """The end of the window in which the first group collapsed, in steps; None where none did."""
    collapse_steps: list[int | None]
    """The same of each group."""
    dead_after_steps: list[int]
    """Steps without use after which a code counts as dead."""

    @model_serializer(mode="wrap")
    def _with_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`collapse_step` is written also where it is None."""
        return {"collapse_step": None, **handler(self)}


class CodeWatch(nn.Module):
    """Code use during training: the share of codes in use, dead codes, perplexity, and an early warning of collapse.

    `record` is called with every step's counts and returns numbers once per window of the training curves. Counts are
    summed over ranks each step, so that every rank has the same state, and all state is in buffers, so that a
    checkpoint of the module contains it: a run that was resumed or rolled back continues as if it had not stopped. It
    is not part of a tokenizer's weights. Within a window nothing is copied from the device, so that the host does not
    wait.

    A code is dead when no step of the last n used it; n is the number of steps in which a code of a uniformly
    used codebook is missed with probability e^-4, ceil(4 K / tokens of a step), but at least one window.

    Args:
        num_codes: K per group.
        num_steps: of the training.
        log_every: steps of a window.
        calls_per_step: calls of `record` that make one step (micro-batches of gradient accumulation).
        title: names the run in the warning.
    """

    calls: Tensor
    tokens: Tensor
    collapse_step: Tensor

    def __init__(
        self,
        num_codes: Sequence[int],
        num_steps: int,
        log_every: int,
        calls_per_step: int = 1,
        title: str = "training",
    ) -> None:
        super().__init__()
        self.num_codes = tuple(num_codes)
        self.num_steps, self.log_every, self.calls_per_step = num_steps, log_every, calls_per_step
        self.title = title
        self._called: int | None = None
        """`calls` as the host knows it; None where the buffer has to be read."""
        groups = len(self.num_codes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.zeros(groups, dtype=torch.float64))
        self.register_buffer("poor", torch.zeros(groups, dtype=torch.int64))
        self.register_buffer("collapse_step", torch.full((groups,), -1, dtype=torch.int64))
        for group, count in enumerate(self.num_codes):
            self.register_buffer(f"window_{group}", torch.zeros(count, dtype=torch.int64))
            self.register_buffer(f"last_used_{group}", torch.zeros(count, dtype=torch.int64))

    def count(self, indices: Int[Tensor, "b g h w"]) -> tuple[Int64[Tensor, " k"], ...]:
        """Uses of each code of each group in a batch."""
        return tuple(
            count_codes(own.reshape(-1), count)
            for own, count in zip(indices.unbind(1), self.num_codes, strict=True)
        )

    @torch.no_grad()
    def record(self, counts: Sequence[Int64[Tensor, " k"]]) -> dict[str, float]:
        """Add the counts of one batch of this rank, which stay as they are.

        Returns:
            Nothing within a window; at its end, per group i, `window_used_share_i` (codes used in the window /
            K), `window_perplexity_i`, and `dead_share_i` (dead codes / K) once n steps have passed.
        """
        called = int(self.calls) if self._called is None else self._called
        step = called // self.calls_per_step + 1
        whole = torch.split(all_reduce_sum(torch.cat(tuple(counts))), list(self.num_codes))
        for group, own in enumerate(whole):
            self.get_buffer(f"window_{group}").add_(own)
            self.get_buffer(f"last_used_{group}").masked_fill_(own > 0, step)
        self.tokens += whole[0].sum()
        self.calls += 1
        self._called = called + 1
        if self._called % self.calls_per_step or not (step % self.log_every == 0 or step == self.num_steps):
            return {}
        return self._close(step)

    def _load_from_state_dict(self, *args: Any) -> None:
        """Loading, resumed or rolled back, may change the number of calls."""
        self._called = None
        super()._load_from_state_dict(*args)

    def dead_after(self, group: int) -> int:
        """n of a group: the steps without use after which a code is dead. Needs one step to have been seen."""
        per_step = int(self.tokens) / max(1, math.ceil(int(self.calls) / self.calls_per_step))
        return max(self.log_every, math.ceil(4 * self.num_codes[group] / max(1.0, per_step)))

    def metrics(self) -> CodeUse:
        """For the tokenizer's metrics."""
        found = [int(step) if int(step) >= 0 else None for step in self.collapse_step]
        return CodeUse(
            collapse_step=min((step for step in found if step is not None), default=None),
            collapse_steps=found,
            dead_after_steps=[self.dead_after(group) for group in range(len(self.num_codes))],
        )

    def _close(self, step: int) -> dict[str, float]:
        terms: dict[str, float] = {}
        for group, count in enumerate(self.num_codes):
            window, last_used = self.get_buffer(f"window_{group}"), self.get_buffer(f"last_used_{group}")
            perplexity, seen = _perplexity(window), int(window.sum())
            terms[f"window_used_share_{group}"] = int((window > 0).sum()) / count
            terms[f"window_perplexity_{group}"] = perplexity
            if step >= (after := self.dead_after(group)):
                terms[f"dead_share_{group}"] = int((last_used <= step - after).sum()) / count
            self._check_collapse(group, step, perplexity, min(count, seen))
            window.zero_()
        return terms

    def _check_collapse(self, group: int, step: int, perplexity: float, reach: int) -> None:
        """Warn once where a group looks collapsed for `PATIENCE` windows; the constants state the rule."""
        if step <= GRACE * self.num_steps or min(self.num_codes[group], reach) < SMALL:
            return
        best = self.get_buffer("best")
        fell = perplexity < FALL * float(best[group])
        best[group] = max(float(best[group]), perplexity)
        poor = self.get_buffer("poor")
        bad = fell or perplexity < max(FEWEST, FLOOR * reach)
        poor[group] = int(poor[group]) + 1 if bad else 0
        if int(poor[group]) < PATIENCE or int(self.collapse_step[group]) >= 0:
            return
        self.collapse_step[group] = step
        if is_main():
            which = f"group {group}: " if len(self.num_codes) > 1 else ""
            say(
                f"{self.title}: {which}the codebook seems to collapse at step {step}: perplexity "
                f"{perplexity:.1f} of {self.num_codes[group]:,} codes, {float(best[group]):.1f} at its best; "
                f"{REMEDY}",
                err=True,
            )


def _perplexity(counts: Int64[Tensor, " k"]) -> float:
    total = int(counts.sum())
    if total == 0:
        return 1.0
    p = counts[counts > 0].double() / total
    return float(torch.exp(-(p * p.log()).sum()))
