"""Drawing the codes of a batch of images with a GPT, position by position, from its key-value cache.

A step takes the codes of the position drawn last, and draws those of the next: embedding, blocks, heads, guidance,
filters, draw. It reads its position from a tensor, so that it is the same work at every position and the host waits for
nothing. On CUDA all caches have a fixed length, the step is captured once as a graph of kernels, and replayed: launched
one by one from Python, its few hundred small kernels take longer to launch than to run. Elsewhere a step runs as it is,
and reads from the cache only what is filled.

Letters: b images, r rows of the network (b, or 2 b with guidance: the images with their classes, then without), g
groups, n positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vqpipe.models.transformer import FixedCache, GrowingCache, Place, Stack
from vqpipe.priors.sampling import TokenSampling, draw, guide, probabilities

if TYPE_CHECKING:
    from vqpipe.priors.gpt import GPT

WARM_UP = 3
"""Steps that run as they are before one is captured: libraries set themselves up in the first ones."""


class Decoder:
    """Draws `batch` images at once, as often as asked, with the same buffers and the same captured step.

    Args:
        network: in eval mode; its dtype is that of activations and cache.
        batch: images at once.
        known: positions that are given and not drawn, fewer than there are.
        sampling: guidance and filters.
        fixed: caches of fixed length and a captured step; by default on CUDA, where alone a step can be captured.
    """

    def __init__(
        self, network: GPT, batch: int, known: int, sampling: TokenSampling, fixed: bool | None = None
    ) -> None:
        self.network, self.known, self.sampling = network, known, sampling
        self.copies = 1 if sampling.guidance == 1 else 2
        like, shape = network.positions, (batch, network.groups, network.num_positions)
        self.tokens: Int64[Tensor, "b g n"] = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self.uniform: Float[Tensor, "b g n"] = torch.zeros(shape, device=like.device)
        self.place = Place(network.num_positions, like)
        self.fixed = like.device.type == "cuda" if fixed is None else fixed
        stacks = [network.shared, *network.branches]
        self.caches = [
            self._caches(stack, batch * self.copies) for stack in stacks if isinstance(stack, Stack)
        ]
        self.graph: torch.cuda.CUDAGraph | None = None

    def _caches(self, stack: Stack, rows: int) -> list[FixedCache | GrowingCache]:
        shape, like = self.network.config.model, self.network.positions
        size = (2, rows, shape.num_heads, self.network.num_positions, shape.width // shape.num_heads)
        if self.fixed:
            return [FixedCache(size, like, self.place) for _ in stack.blocks]
        return [GrowingCache(size, like) for _ in stack.blocks]

    def draw(
        self, rows: Int64[Tensor, " m"], tokens: Int64[Tensor, "m g n"], uniform: Float[Tensor, "m g n"]
    ) -> Int64[Tensor, "m g n"]:
        """The codes of up to `batch` images.

        Args:
            rows: rows of the class embedding.
            tokens: of which the known ones are kept.
            uniform: a number in [0, 1) for each code that is drawn.
        """
        count, batch = len(rows), len(self.tokens)
        if count < batch:  # the shapes stay: the rest draws the last image again
            fill = torch.arange(batch).clamp_max(count - 1)
            rows, tokens, uniform = rows[fill.to(rows.device)], tokens[fill.to(tokens.device)], uniform[fill]
        self.tokens.copy_(tokens)
        self.uniform.copy_(uniform)
        self._begin(rows)
        self._repeat(self.network.num_positions - self.known - 1)
        return self.tokens[:count].clone()

    def _begin(self, rows: Int64[Tensor, " b"]) -> None:
        """Fill the caches with the class and the known positions, and draw the first unknown one."""
        network = self.network
        if self.copies == 2:
            rows = torch.cat([rows, torch.full_like(rows, network.num_classes)])
        self.place.begin(self.known + 1)
        for cache in (cache for caches in self.caches for cache in caches):
            if isinstance(cache, GrowingCache):
                cache.clear()
        before = network.embed(self.tokens[..., : self.known]).repeat(self.copies, 1, 1)
        inputs = torch.cat([network.class_embedding(rows)[:, None], before], dim=1)
        turns = network.rotation
        self._draw(
            inputs + network.positions[: self.known + 1],
            None if turns is None else turns[:, : self.known + 1],
        )

    def step(self) -> None:
        """From the codes at the place, draw those at the next one."""
        before = self.network.embed(self.tokens.index_select(2, self.place.index))
        self.place.advance()
        own, turns = self.network.positions.index_select(0, self.place.index), self.network.rotation
        turn = None if turns is None else turns.index_select(1, self.place.index)
        self._draw((before + own).repeat(self.copies, 1, 1), turn)

    def _draw(self, inputs: Float[Tensor, "r t d"], rotation: Float[Tensor, "2 t e"] | None) -> None:
        """Draw the codes at the place from the inputs up to it."""
        uniform = self.uniform.index_select(2, self.place.index)
        drawn = []
        for group, y in enumerate(self.network.hidden(inputs, rotation, self.caches)):
            scores = self.network.heads[group](y[:, -1]).float()
            if self.copies == 2:
                images = len(self.tokens)
                scores = guide(scores[:images], scores[images:], self.sampling.guidance)
            drawn.append(draw(probabilities(scores, self.sampling), uniform[:, group, 0]))
        self.tokens.index_copy_(2, self.place.index, torch.stack(drawn, dim=1)[..., None])

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
