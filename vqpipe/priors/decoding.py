"""Drawing the codes of a batch of images with a GPT, position by position, from its key-value cache.

A step takes the codes of the position drawn last, and draws those of the next: embedding, blocks, heads, guidance,
filters, draw. It reads its position from a tensor, so that it is the same work at every position and the host waits for
nothing. On CUDA all caches have a fixed length, the step is captured once as a graph of kernels, and replayed: launched
one by one from Python, its few hundred small kernels take longer to launch than to run. Elsewhere a step runs as it is,
and reads from the cache only what is filled.

Letters: b images, r rows of the network (b, or 2 b with guidance: the images with their conditions, then without), g
groups, n positions, p vectors of the prefix, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.models.causal import FixedCache, GrowingCache, Place, Stack
from vqpipe.priors import cross_entropy
from vqpipe.priors.contract import Condition
from vqpipe.priors.sampling import draw, guide, probabilities
from vqpipe.runtime.batches import slices

if TYPE_CHECKING:
    from vqpipe.priors.gpt import GPT, GPTSampling

WARM_UP = 3
"""Steps that run as they are before one is captured: libraries set themselves up in the first ones."""


class Decoder:
    """Draws `batch` images at once, as often as asked, with the same buffers and the same captured step.

    Args:
        prior: in eval mode; its dtype is that of activations and cache.
        batch: images at once.
        known: positions that are given and not drawn, fewer than there are.
        sampling: guidance and filters.
        fixed: caches of fixed length and a captured step; by default on CUDA, where alone a step can be captured.
    """

    def __init__(
        self, prior: GPT, batch: int, known: int, sampling: GPTSampling, fixed: bool | None = None
    ) -> None:
        self.prior, self.network, self.known, self.sampling = prior, prior.network, known, sampling
        self.copies = sampling.copies
        like, shape = next(prior.parameters()), (batch, prior.groups, prior.num_positions)
        self.tokens: Int64[Tensor, "b g n"] = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self.uniform: Float[Tensor, "b g n"] = torch.zeros(shape, device=like.device)
        self.place = Place(self.network.length, like)
        self.fixed = like.device.type == "cuda" if fixed is None else fixed
        stacks = [self.network.shared, *self.network.branches]
        self.caches = [
            self._caches(stack, batch * self.copies, like) for stack in stacks if isinstance(stack, Stack)
        ]
        self.added: Float[Tensor, "r n d"] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def _caches(self, stack: Stack, rows: int, like: Tensor) -> list[FixedCache | GrowingCache]:
        shape = self.network.shape
        size = (2, rows, shape.num_heads, self.network.length, shape.head_width)
        if self.fixed:
            return [FixedCache(size, like, self.place) for _ in stack.blocks]
        return [GrowingCache(size, like) for _ in stack.blocks]

    def draw(
        self, condition: Condition, tokens: Int64[Tensor, "m g n"], uniform: Float[Tensor, "m g n"]
    ) -> Int64[Tensor, "m g n"]:
        """The codes of up to `batch` images.

        Args:
            condition: what is known about them but for their tokens.
            tokens: of which the known ones are kept.
            uniform: a number in [0, 1) for each code that is drawn.
        """
        count, batch = len(tokens), len(self.tokens)
        prefix, added = self.prior.prefix(condition, count), self.prior.prefix.added(condition, count)
        if count < batch:  # the shapes stay: the rest draws the last image again
            fill = torch.arange(batch).clamp_max(count - 1)
            own = fill.to(prefix.device)
            prefix, added = prefix[own], None if added is None else added[own]
            tokens, uniform = tokens[fill.to(tokens.device)], uniform[fill]
        self.tokens.copy_(tokens)
        self.uniform.copy_(uniform)
        self._begin(prefix, added)
        self._repeat(self.prior.num_positions - self.known - 1)
        return self.tokens[:count].clone()

    def _begin(self, prefix: Float[Tensor, "b p d"], added: Float[Tensor, "b n d"] | None) -> None:
        """Fill the caches with the prefix and the known positions, and draw the first unknown one."""
        if self.copies == 2:
            null = self.prior.prefix.added(Condition(), len(prefix))
            prefix = torch.cat([prefix, self.prior.prefix(Condition(), len(prefix))])
            added = None if added is None or null is None else torch.cat([added, null])
        if added is not None:  # a captured step reads it where it was first
            self.added = added.clone() if self.added is None else self.added.copy_(added)
        length = self.network.prefix + self.known
        self.place.begin(length)
        for cache in (cache for caches in self.caches for cache in caches):
            if isinstance(cache, GrowingCache):
                cache.clear()
        before = self.network.codes(self.tokens[..., : self.known]).repeat(self.copies, 1, 1)
        self._draw(self.network.inputs(prefix, before, self.added), slice(length))

    def step(self) -> None:
        """From the codes at the place, draw those at the next one."""
        before = self.network.codes(self.tokens.index_select(2, self._drawn()))
        self.place.advance()
        inputs = before.repeat(self.copies, 1, 1)
        if self.added is not None:
            inputs = inputs + self.added.index_select(1, self._drawn())
        self._draw(inputs, self.place.index)

    def _drawn(self) -> Int64[Tensor, " 1"]:
        """The position in the image whose codes the place predicts: before it advances, of those drawn last."""
        return self.place.index - (self.network.prefix - 1)

    def _draw(self, inputs: Float[Tensor, "r t d"], places: slice | Int64[Tensor, " 1"]) -> None:
        """Draw the codes at the place from the inputs up to it."""
        at, config = self._drawn(), self.sampling
        uniform = self.uniform.index_select(2, at)
        drawn = []
        for group, y in enumerate(self.network.hidden(inputs, places, self.caches)):
            head: Any = self.network.heads[group]
            copies, codes = y[:, -1].chunk(self.copies), []
            for rows in slices(len(self.tokens), max(1, cross_entropy.LOGITS // head.out_features)):
                scores = self._scores(head, [copy[rows] for copy in copies], at)
                codes.append(draw(probabilities(scores, config), uniform[rows, group, 0]))
            drawn.append(torch.cat(codes))
        self.tokens.index_copy_(2, at, torch.stack(drawn, dim=1)[..., None])

    def _scores(
        self, head: Any, copies: Sequence[Float[Tensor, "b d"]], at: Int64[Tensor, " 1"]
    ) -> Float[Tensor, "b k"]:
        """Logits of some images, guided where there is a second copy of them without the condition."""
        scores: list[Tensor] = [head(copy) for copy in copies]
        wide = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in scores]
        if len(wide) == 1:
            return wide[0]
        guided = guide(wide[0], wide[1], self.sampling.guidance)
        if self.sampling.guided_positions is None:
            return guided
        return torch.where(at < self.sampling.guided_positions, guided, wide[0])

    def _repeat(self, times: int) -> None:
        """Take `times` steps; with fixed caches the later ones by replaying one that was captured."""
        if self.fixed and self.graph is None and times > WARM_UP:
            self._capture()
            times -= WARM_UP
        for _ in range(times):
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()

    def _capture(self) -> None:
        """Take `WARM_UP` steps, and capture the next one, which does not run."""
        with torch.cuda.device(self.tokens.device):
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self.step()
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may pin memory meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.step()
        self.graph = graph
