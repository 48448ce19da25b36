"""What the priors over latents share: their networks, guidance, and samples in passes.

They model the latent before quantisation, at unit standard deviation per channel. A sample is quantised, then decoded,
as VQGAN-LC does for LDM, DiT and SiT (section 3.3).

Letters: b n images, c o channels of the latent and of the network's output, h w the grid, l text tokens, H W pixels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.models.conditioning import ABSENT
from vqpipe.models.dit import DiT, DiTParams
from vqpipe.models.transformer import WITH_CONVOLUTIONS, decay_groups
from vqpipe.models.unet import UNet, UNetParams
from vqpipe.priors.contract import Condition, ConditionKind, ImageSpace, Prior, PriorParams, SamplingParams
from vqpipe.priors.sampling import guide, image_generators, normal
from vqpipe.runtime.batches import slices

AnyNetwork = Annotated[DiTParams | UNetParams, Field(discriminator="kind")]
"""The params of either network."""
Predict = Callable[[Float[Tensor, "b c h w"], Float[Tensor, " b"]], Float[Tensor, "b o h w"]]
"""A network with its condition and guidance: states and times to predictions."""


class LatentSampling(SamplingParams):
    """What the samplers of all priors over latents have."""

    batch: Annotated[int, Field(ge=1)] | None
    """Images drawn at once, or null for all. Memory grows with it; each image's random numbers do not depend on it."""


class LatentParams(PriorParams):
    """The params of all priors over latents."""

    network: AnyNetwork
    """What predicts: `dit`, a transformer over patches, or `unet`, convolutions."""


def guided(
    conditional: Float[Tensor, "b o h w"],
    null: Float[Tensor, "b o h w"],
    scale: float,
    channels: int | None = None,
) -> Float[Tensor, "b o h w"]:
    """Classifier-free guidance on the first channels; the others stay those of the conditional prediction.

    Args:
        channels: how many are guided; None for all. The channels of a learned variance are never guided. DiT's released
            sampler guides three of the latent's four.
    """
    channels = conditional.shape[1] if channels is None else channels
    own, rest = conditional[:, :channels], conditional[:, channels:]
    return torch.cat([guide(own, null[:, :channels], scale), rest], dim=1)


class LatentPrior(Prior):
    """Base class: subclasses implement `latent_loss` and `draw`."""

    models: ClassVar[Literal["tokens", "latents"]] = "latents"
    conditions: ClassVar[tuple[ConditionKind, ...]] = ("none", "class", "text")
    config: LatentParams

    def __init__(self, config: LatentParams, space: ImageSpace, outputs: int) -> None:
        super().__init__(config, space)
        self.shape = (space.latent_channels, *space.grid)
        text_dim = space.text_dim if config.condition == "text" else 0
        args = (space.grid, space.latent_channels, outputs, self.num_classes, text_dim)
        network = config.network
        self.network: DiT | UNet = (
            DiT(network, *args) if isinstance(network, DiTParams) else UNet(network, *args)
        )

    @abstractmethod
    def latent_loss(
        self, batch: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], predict: Predict
    ) -> Float[Tensor, " b"]:
        """The loss of each image."""

    @abstractmethod
    def draw(
        self, predict: Predict, sampling: Any, start: Float[Tensor, "b c h w"], noise: Callable[[], Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Latents from standard normal ones; `noise()` gives the next standard normal numbers of the same shape."""

    def networks(self) -> Sequence[nn.Module]:
        """The network; the loss and the samplers are not compiled."""
        return [self.network]

    def inside(self) -> Sequence[nn.Module]:
        """See `Prior.inside`."""
        return self.network.inside()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW: weight decay on the weights of linear layers and convolutions."""
        return decay_groups(self, WITH_CONVOLUTIONS)

    def loss(self, batch: Float[Tensor, "b c h w"], condition: Condition) -> Float[Tensor, ""]:
        """The mean over images of `latent_loss`, at random times and with random noise.

        In training mode the values of the condition are not checked, which would wait for the device.

        Raises:
            MismatchError: latents of another shape, or a condition that this prior does not take.
        """
        if tuple(batch.shape[1:]) != self.shape:
            raise MismatchError(
                "latents of another shape than this prior models",
                found=f"{tuple(batch.shape)}", expected=f"(b, {', '.join(map(str, self.shape))})",
            )  # fmt: skip
        if self.training:
            self.check_parts(condition, len(batch))
        else:
            self.check_condition(condition, len(batch))
        given = self._given(condition, len(batch), batch.device)
        noise = torch.randn_like(batch)
        return self.latent_loss(batch, noise, lambda x, times: self._predict(x, times, given)).mean()

    @torch.no_grad()
    def sample(
        self, condition: Condition, n: int, sampling: Any, generator: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Draw `n` latents of unit standard deviation, on the prior's device.

        Image i gets the same random numbers in any call that draws at least i + 1 images, and for any `batch`.

        Raises:
            MismatchError: a condition that this model does not have, or guidance or an image without its condition
                where the null condition was never trained.
        """
        self.begin_sampling(condition, n, sampling.guidance)
        weight = next(self.parameters())
        generators = image_generators(n, generator)
        size = math.ceil(n / max(1, math.ceil(n / (sampling.batch or max(1, n)))))
        drawn = [torch.empty(0, *self.shape, device=weight.device, dtype=weight.dtype)]
        for rows in slices(n, max(1, size)):
            own = generators[rows]

            def noise(own: Sequence[torch.Generator] = own) -> Tensor:
                return normal(own, *self.shape).to(weight.device, weight.dtype)

            predict = self._guided(condition.rows(rows), len(own), sampling.guidance)
            drawn.append(self.draw(predict, sampling, noise(), noise))
        return torch.cat(drawn)

    def _predict(
        self, x: Float[Tensor, "b c h w"], times: Float[Tensor, " b"], given: Sequence[Tensor | None]
    ) -> Float[Tensor, "b o h w"]:
        out: Tensor = self.network(x, times, *given)
        return out.to(x.dtype)

    def _guided(self, condition: Condition, n: int, scale: float) -> Predict:
        """The prediction under a condition; with guidance both predictions of an image come from one pass."""
        given = self._given(condition if scale else Condition(), n, self.device)
        if scale in (0, 1):
            return lambda x, times: self._predict(x, times, given)
        null = self._given(Condition(), n, self.device)
        both = [
            None if a is None or b is None else torch.cat([a, b]) for a, b in zip(given, null, strict=True)
        ]
        channels = self.shape[0]

        def predict(x: Tensor, times: Tensor) -> Tensor:
            own, other = self._predict(x.repeat(2, 1, 1, 1), times.repeat(2), both).chunk(2)
            return guided(own, other, scale, channels)

        return predict

    def _given(self, condition: Condition, n: int, device: torch.device) -> tuple[Tensor | None, ...]:
        """Labels, text and text ids as the networks take them; what is not given is the null condition."""
        labels, text, ids = condition.labels, condition.text, condition.text_ids
        if labels is None:
            labels = torch.full((n,), ABSENT, dtype=torch.int64, device=device)
        if self.config.condition != "text":
            return labels.to(device), None, None
        if text is None or ids is None:
            text = torch.zeros(n, self.space.text_length, self.space.text_dim, device=device)
            ids = torch.full(text.shape[:2], ABSENT, device=device)
        return labels.to(device), text.to(device), ids.to(device)
