"""The losses on a tokenizer's images: their params, pixel losses, and the adversarial loss with its discriminator.

Sources: Esser et al., arXiv 2012.09841, section 3.1, equations 4 to 7; Mescheder et al., arXiv 1801.04406, section 4.1.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vqpipe.models.perceptual import PerceptualParams
from vqpipe.params.base import Params
from vqpipe.runtime.distributed import average, world_size


class ReconstructionParams(Params):
    """Pixel losses, means over all elements of images in [-1, 1]."""

    l1: Annotated[float, Field(ge=0)]
    """Weight of the mean absolute error (VQGAN uses 1)."""
    l2: Annotated[float, Field(ge=0)]
    """Weight of the mean squared error (VQ-VAE uses 1)."""


class DiscriminatorParams(Params):
    """The patch discriminator."""

    channels: Annotated[int, Field(ge=8, multiple_of=8)]
    """Channels of its first layer (the papers' ndf, 64)."""
    num_layers: Annotated[int, Field(ge=1, le=6)]
    """Layers after the first (3 in VQGAN, 2 in VQGAN-LC)."""
    lr_scale: Annotated[float, Field(gt=0)]
    """Its learning rate as a multiple of the autoencoder's (1 in the papers)."""
    norm: Literal["batch", "group"]
    """`batch` as in the papers, or `group`, which does not depend on the batch or on the number of ranks."""
    spectral_norm: bool = False
    """Divide each convolution's weight by its largest singular value (arXiv 1802.05957), for stability."""

    def patches(self, side: int) -> int:
        """Rows of logits of square images of `side` pixels; below 1 where the network is too deep for them."""
        for _ in range(self.num_layers):
            side = (side - 2) // 2 + 1
        return side - 2


class R1Params(Params):
    """Gradient penalty of the discriminator at real images (Mescheder et al., arXiv 1801.04406, equation 9)."""

    weight: Annotated[float, Field(gt=0)]
    """Gamma: the discriminator's loss gets gamma / 2 times the mean over real images of |grad D(x)|^2, where D(x) is
    the mean of an image's patch logits and x is in [-1, 1]."""
    every: Annotated[int, Field(ge=1)]
    """Steps from one penalty to the next; it then counts `every` times (lazy regularisation, arXiv 1912.04958)."""


class PlateauParams(Params):
    """When the reconstruction loss (pixel plus perceptual) stops falling."""

    window: Annotated[int, Field(ge=1)]
    """Steps per window; the means of consecutive windows are compared."""
    min_relative_change: Annotated[float, Field(ge=0, lt=1)]
    """A window whose mean is less than this part below the mean of the one before is a plateau."""
    earliest: Annotated[float, Field(ge=0, le=1)]
    """Part of the training before which it does not start."""
    latest: Annotated[float, Field(ge=0, le=1)]
    """Part of the training at which it starts at the latest."""

    @model_validator(mode="after")
    def _fits(self) -> PlateauParams:
        if self.earliest > self.latest:
            raise ValueError(f"earliest {self.earliest} is after latest {self.latest}")
        return self


class PlateauStart(Params):
    """Start when the training reaches a plateau instead of at a fixed part of it."""

    plateau: PlateauParams


class AdversarialParams(Params):
    """Hinge adversarial loss (VQGAN, arXiv 2012.09841, equations 5 to 7)."""

    weight: Annotated[float, Field(ge=0)]
    """Factor on the adaptive weight (0.8 in VQGAN and VQCT, 0.1 in VQGAN-LC); 0 trains without a discriminator."""
    start: Annotated[float, Field(ge=0, le=1)] | PlateauStart
    """Part of the training after which the discriminator and its loss begin, or `{plateau: {…}}`."""
    warmup: Annotated[float, Field(ge=0, le=1)]
    """Part of the training after `start` in which the discriminator is trained before its loss is added."""
    max_adaptive_weight: Annotated[float, Field(gt=0)]
    """Upper bound of the adaptive weight (1e4 in VQGAN)."""
    discriminator: DiscriminatorParams
    r1: R1Params | None = None
    """Gradient penalty, or none as in VQGAN."""

    @model_validator(mode="after")
    def _fits(self) -> AdversarialParams:
        if self.r1 is not None and self.discriminator.norm == "batch":
            raise ValueError(
                "r1 penalises the gradient of one image's logits, which batch norm mixes with the others'; "
                "set discriminator.norm to group, or r1 to null"
            )
        return self


class LossParams(Params):
    """All losses of a tokenizer but those of its quantizer and alignment."""

    reconstruction: ReconstructionParams
    perceptual: PerceptualParams
    perceptual_weight: Annotated[float, Field(ge=0)]
    """Weight of the perceptual distance relative to the pixel losses (VQGAN uses 1)."""
    adversarial: AdversarialParams
    quantizer_weight: Annotated[float, Field(ge=0)]
    """Weight of the quantizer's loss (1 in VQGAN; 0.1 in VQGAN-LC's reference code)."""


def pixel_loss(
    config: ReconstructionParams, recon: Float[Tensor, "b c h w"], images: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Weighted mean absolute and mean squared error of images in [-1, 1], and both terms unweighted."""
    l1, l2 = F.l1_loss(recon, images), F.mse_loss(recon, images)
    return config.l1 * l1 + config.l2 * l2, {"l1": l1.detach(), "l2": l2.detach()}


class PatchDiscriminator(nn.Module):
    """Images Float[b c H W] in [-1, 1] to one unbounded logit per patch, Float[b 1 h w].

    Source: Isola et al., arXiv 1611.07004, section 3.2.2, as used by Esser et al. (arXiv 2012.09841): 4x4 convolutions,
    LeakyReLU 0.2, N(0, 0.02) weights.
    """

    def __init__(self, config: DiscriminatorParams, in_channels: int) -> None:
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, config.num_layers + 1):
            wider = config.channels * min(2**index, 8)
            stride = 1 if index == config.num_layers else 2
            # Group norm in place of batch norm keeps each image's logit free of the rest of its batch and of ranks.
            norm = nn.BatchNorm2d(wider) if config.norm == "batch" else nn.GroupNorm(8, wider)
            layers += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), norm, nn.LeakyReLU(0.2)]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        self.apply(_initialise)
        if config.spectral_norm:
            # Miyato et al., arXiv 1802.05957, algorithm 1: one power iteration per training forward pass.
            for module in self.layers:
                if isinstance(module, nn.Conv2d):
                    spectral_norm(module)

    def forward(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 1 h w"]:
        return torch.as_tensor(self.layers(images))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def hinge_discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """1/2 (mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """- mean D(fake)."""
    return -fake.mean()


def image_gradient(
    loss: Float[Tensor, ""], image: Float[Tensor, "b c h w"], scale: float = 1.0
) -> Float[Tensor, "b c h w"]:
    """The gradient of a loss at the image; frees the loss's graph.

    Args:
        loss: of the image.
        image: a leaf with a gradient.
        scale: the loss times this goes backward, and the gradient is divided by it: against underflow in float16.
    """
    (slope,) = torch.autograd.grad(loss * scale if scale != 1 else loss, image)
    return slope / scale if scale != 1 else slope


def adaptive_weight(
    image: Float[Tensor, "b c h w"],
    up: Float[Tensor, "b c h w"],
    down: Float[Tensor, "b c h w"],
    last_weight: Tensor,
    maximum: float,
    half: bool = False,
) -> Float[Tensor, ""]:
    """|grad of the reconstruction loss| / (|grad of the generator loss| + 1e-4) at the decoder's last weight.

    Both come from the losses' gradients at the image by the last layer's backward pass alone. With several ranks the
    gradients are averaged before their norms are taken, so that all ranks get the same weight, and the one that a
    single process gets from the whole batch.

    Args:
        image: the decoder's output, with its graph, which stays.
        up: gradient at the image of the pixel plus perceptual loss, without the quantizer's.
        down: gradient at the image of the generator's adversarial loss.
        last_weight: weight of the decoder's last layer.
        maximum: upper bound.
        half: whether the last layer's backward pass is in float16, whose smallest numbers are above most gradients of a
            mean over pixels: each gradient is scaled so that its magnitudes sum to 1,024, and the result scaled back.

    Returns:
        A scalar without gradient, in [0, maximum].
    """
    slopes = []
    for slope in (up, down):
        size = (slope.abs().sum() / 1024).clamp_min(torch.finfo(slope.dtype).tiny) if half else None
        given = slope if size is None else slope / size
        (own,) = torch.autograd.grad(image, last_weight, given, retain_graph=True)
        slopes.append(own if size is None else own * size)
    first, second = average(torch.stack(slopes)) if world_size() > 1 else slopes
    return (first.norm() / (second.norm() + 1e-4)).clamp(0.0, maximum).detach()


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, image: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return None, slope * slopes[0], None


def with_gradient(
    value: Float[Tensor, ""], image: Float[Tensor, "b c h w"], slope: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """A loss of a known value whose gradient at the image is known: `slope`."""
    loss: Tensor = _WithGradient.apply(value, image, slope)  # type: ignore[no-untyped-call]
    return loss


def r1_penalty(discriminator: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """1/2 the mean over real images of |grad D(x)|^2, D(x) the mean of an image's patch logits; in float32.

    Its gradient goes to the discriminator's parameters, through the gradient (a second backward pass). That is why the
    forward pass is that of the class: one that `training.compile` has put in its place has no second derivative.
    """
    images = images.detach().float().requires_grad_(True)
    with torch.autocast(images.device.type, enabled=False):
        scores = type(discriminator).forward(discriminator, images).flatten(1).mean(dim=1)
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return 0.5 * slope.square().flatten(1).sum(dim=1).mean()


class DiscriminatorStart(nn.Module):
    """When the discriminator starts: at a part of the training, or when the reconstruction loss stops falling.

    A fixed start has no state. A plateau has one buffer, float64: mean of the last whole window, sum and number
    of the losses in the present one, and the progress at which it started; -1 means none. It is part of the
    checkpoint, so that a resumed or rolled back run decides as if it had never stopped. Losses are added up on their
    device; the host reads them at the end of a plateau's window. Given means over ranks, all ranks decide the same.
    """

    memory: Tensor

    def __init__(self, start: float | PlateauStart) -> None:
        super().__init__()
        self.fixed = None if isinstance(start, PlateauStart) else start
        self.plateau: PlateauParams | None = start.plateau if isinstance(start, PlateauStart) else None
        self._known: tuple[int, float | None] | None = None
        """Number of losses in the present window and the start, as the host knows them; None: to be read."""
        if self.plateau is not None:
            self.register_buffer("memory", torch.tensor([-1.0, 0.0, 0.0, -1.0], dtype=torch.float64))

    @property
    def started_at(self) -> float | None:
        """The progress in [0, 1] at which it starts or started; None while a plateau has not started it."""
        return self.fixed if self.plateau is None else self._state()[1]

    def passed(self, progress: float, warmup: float = 0.0) -> bool:
        """Whether `progress` is at or after the start plus `warmup`."""
        start = self.started_at
        return start is not None and progress >= start + warmup

    @torch.no_grad()
    def observe(self, loss: float | Float[Tensor, ""], progress: float) -> None:
        """Record one step's reconstruction loss; `progress` is that reached after the step."""
        plateau = self.plateau
        if plateau is None or self.started_at is not None:
            return
        count, flat = self._state()[0] + 1, False
        self.memory[1] += loss
        self.memory[2] += 1
        if count == plateau.window:
            previous, total = self.memory[:2].tolist()
            mean, count = total / count, 0
            flat = previous >= 0 and previous - mean < plateau.min_relative_change * previous
            self.memory.copy_(torch.tensor([mean, 0.0, 0.0, -1.0], dtype=torch.float64))
        begins = (flat and progress >= plateau.earliest) or progress >= plateau.latest
        if begins:
            self.memory[3] = progress
        self._known = count, progress if begins else None

    def _state(self) -> tuple[int, float | None]:
        if self._known is None:
            _, _, count, progress = self.memory.tolist()
            self._known = int(count), None if progress < 0 else progress
        return self._known

    def _load_from_state_dict(self, *args: Any) -> None:
        """Loading, resumed or rolled back, may change the memory."""
        self._known = None
        super()._load_from_state_dict(*args)
