"""GPT over image tokens, of one group of codes or of several that are predicted jointly.

One group is the prior of VQGAN (Esser et al., 2021, section 3.2) and of VQGAN-LC (section A). Two groups are
VQCT's adjective and noun streams: at each position the embeddings of both codes are joined by a linear layer
and GELU, three quarters of the layers are shared, then each stream has its own last quarter, norm and head.
Within a position the groups are predicted independently of each other given all earlier positions; the loss
is the sum of their cross-entropies.

The sequence is one class token (its last row stands for no class) and the first n - 1 positions; it predicts
all n.

Letters: b images, g groups, h w the grid, n = h * w positions in raster order, k codes of a group, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from vqpipe.errors import MismatchError
from vqpipe.models.transformer import LayerCache, Stack, init_gpt
from vqpipe.params.prior import GPTParams, SamplingParams
from vqpipe.priors.condition import Condition
from vqpipe.priors.sampling import draw, guide, probabilities

Caches = list[list[LayerCache]]
"""The caches of the shared stack, then those of each branch."""


class GPT(nn.Module):
    """Autoregressive prior; weights N(0, 0.02), learned positions that start at zero, heads without bias.

    Args:
        config: the pair's params.
        num_codes: codes per group.
        grid: height and width of the token grid.
        num_classes: classes of the data; used when `config.condition` is `class`, and then at least 1.

    Raises:
        MismatchError: a class-conditional model for data without classes.
    """

    def __init__(
        self, config: GPTParams, num_codes: Sequence[int], grid: tuple[int, int], num_classes: int
    ) -> None:
        super().__init__()
        if config.condition == "class" and num_classes < 1:
            raise MismatchError(
                "a class-conditional prior needs labels, and the tokens have none",
                found="0 classes",
                expected="condition: none, or a dataset with classes",
            )
        shape = config.model
        self.config, self.num_codes, self.grid = config, tuple(num_codes), grid
        self.groups, self.num_positions = len(self.num_codes), grid[0] * grid[1]
        self.num_classes = num_classes if config.condition == "class" else 0
        branched = 0 if self.groups == 1 else max(1, shape.num_layers // 4)
        stack = (shape.width, shape.num_heads, shape.dropout)

        self.class_embedding = nn.Embedding(self.num_classes + 1, shape.width)
        self.code_embeddings = nn.ModuleList(nn.Embedding(k, shape.width) for k in self.num_codes)
        joint = nn.Sequential(nn.Linear(self.groups * shape.width, shape.width), nn.GELU())
        self.join = nn.Identity() if self.groups == 1 else joint
        self.positions = nn.Parameter(torch.zeros(self.num_positions, shape.width))
        self.shared = Stack(shape.num_layers - branched, *stack)
        self.branches = nn.ModuleList(Stack(branched, *stack) for _ in self.num_codes)
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in self.num_codes)
        self.heads = nn.ModuleList(nn.Linear(shape.width, k, bias=False) for k in self.num_codes)
        self.apply(init_gpt)

    @property
    def knows_null(self) -> bool:
        """Whether the null class was trained: always without classes, else where labels were dropped."""
        return self.num_classes == 0 or self.config.label_drop > 0

    def forward(
        self, tokens: Int64[Tensor, "b g n"], rows: Int64[Tensor, " b"]
    ) -> list[Float[Tensor, "b n k"]]:
        """Logits of each position, per group; they depend on the class row and earlier positions alone."""
        before = self._embed([tokens[:, group, :-1] for group in range(self.groups)])
        return self._logits(torch.cat([self.class_embedding(rows)[:, None], before], dim=1), 0, None)

    def log_likelihood(
        self, batch: Int64[Tensor, "b g h w"], condition: Condition
    ) -> Float[Tensor, "b g h w"]:
        """Natural log-probability of each code given the condition and the positions before it.

        Raises:
            MismatchError: a grid, group count or condition that this model does not have.
        """
        tokens = self._flat(batch)
        rows = self._rows(condition, len(batch))
        return -self._nll(tokens, tokens, rows).view(batch.shape)

    def loss(self, batch: Int64[Tensor, "b g h w"], condition: Condition) -> Float[Tensor, ""]:
        """Cross-entropy in nats per position, summed over groups; training drops labels and adds noise.

        Raises:
            MismatchError: as `log_likelihood`.
        """
        targets = self._flat(batch)
        rows, inputs = self._rows(condition, len(batch), training=self.training), targets
        if self.training and self.num_classes and self.config.label_drop:
            dropped = torch.rand(len(rows), device=rows.device) < self.config.label_drop
            rows = rows.masked_fill(dropped, self.num_classes)
        if self.training and self.config.token_noise:
            inputs = self._noisy(targets)
        return self._nll(inputs, targets, rows).mean(dim=(0, 2)).sum()

    @torch.no_grad()
    def sample(
        self,
        condition: Condition,
        n: int,
        generator: torch.Generator,
        sampling: SamplingParams,
        *,
        use_cache: bool = True,
    ) -> Int64[Tensor, "n g h w"]:
        """Draw `n` images' codes in raster order.

        All random numbers are taken from `generator` at once, so image i gets the same ones in any call that
        draws at least i + 1 images with as many positions. `use_cache=False` recomputes every prefix and is
        there to be compared with.

        Args:
            condition: nothing, n labels, or n images' first tokens.
            generator: a CPU generator.
            sampling: guidance, temperature, top-k and top-p.

        Raises:
            MismatchError: a condition that this model does not have, or guidance or no class where the null
                class
                was never trained.
        """
        if self.training:
            raise RuntimeError("sample() needs eval mode: dropout would distort the samples")
        device = self.positions.device
        rows = self._rows(condition, n)
        known = condition.num_known((n, self.groups, *self.grid), self.num_codes)
        uniform = torch.rand(n, self.groups, self.num_positions, generator=generator, dtype=torch.float32)
        tokens = torch.zeros(n, self.groups, self.num_positions, dtype=torch.int64, device=device)
        if condition.tokens is not None:
            tokens[..., :known] = condition.tokens.to(device).flatten(2)[..., :known]
        guided = sampling.guidance != 1
        if guided:
            self._need_null(f"guidance {sampling.guidance}")
            rows = torch.cat([rows, torch.full_like(rows, self.num_classes)])
        caches = self._new_caches(len(rows)) if use_cache else None
        start = 0
        for position in range(known, self.num_positions):
            logits = self._next_logits(tokens, rows, start, position, caches)
            start = position + 1
            for group, scores in enumerate(logits):
                if guided:
                    scores = guide(scores[:n], scores[n:], sampling.guidance)
                tokens[:, group, position] = draw(
                    probabilities(scores, sampling), uniform[:, group, position]
                )
        return tokens.view(n, self.groups, *self.grid)

    def _next_logits(
        self,
        tokens: Int64[Tensor, "n g p"],
        rows: Int64[Tensor, " b"],
        start: int,
        position: int,
        caches: Caches | None,
    ) -> list[Float[Tensor, "b k"]]:
        """Logits at `position`, per group; with caches only the inputs from `start` on are computed."""
        if caches is None:
            start = 0
        first = max(start - 1, 0)
        before = self._embed([tokens[:, group, first:position] for group in range(self.groups)])
        before = before.repeat(len(rows) // len(tokens), 1, 1)
        if start == 0:
            before = torch.cat([self.class_embedding(rows)[:, None], before], dim=1)
        return [scores[:, -1] for scores in self._logits(before, start, caches, last_only=True)]

    def _logits(
        self, inputs: Float[Tensor, "b t d"], start: int, caches: Caches | None, last_only: bool = False
    ) -> list[Float[Tensor, "b t k"]]:
        x = inputs + self.positions[start : start + inputs.shape[1]]
        x = F.dropout(x, self.config.model.dropout, self.training)
        x = self.shared(x, caches[0] if caches is not None else None)
        out = []
        for group in range(self.groups):
            y = self.branches[group](x, caches[1 + group] if caches is not None else None)
            out.append(self.heads[group](self.norms[group](y[:, -1:] if last_only else y)))
        return out

    def _embed(self, codes: list[Int64[Tensor, "b t"]]) -> Float[Tensor, "b t d"]:
        parts = [embedding(c) for embedding, c in zip(self.code_embeddings, codes, strict=True)]
        joined: Tensor = self.join(torch.cat(parts, dim=-1))
        return joined

    def _nll(
        self, inputs: Int64[Tensor, "b g n"], targets: Int64[Tensor, "b g n"], rows: Int64[Tensor, " b"]
    ) -> Float[Tensor, "b g n"]:
        logits = self(inputs, rows)
        losses = [
            F.cross_entropy(scores.float().transpose(1, 2), targets[:, group], reduction="none")
            for group, scores in enumerate(logits)
        ]
        return torch.stack(losses, dim=1)

    def _noisy(self, tokens: Int64[Tensor, "b g n"]) -> Int64[Tensor, "b g n"]:
        """Replace a part of the positions, in all their groups, by random codes."""
        replaced = (
            torch.rand(tokens.shape[0], tokens.shape[2], device=tokens.device) < self.config.token_noise
        )
        groups = [
            torch.where(replaced, torch.randint_like(tokens[:, group], codes), tokens[:, group])
            for group, codes in enumerate(self.num_codes)
        ]
        return torch.stack(groups, dim=1)

    def _flat(self, batch: Int64[Tensor, "b g h w"]) -> Int64[Tensor, "b g n"]:
        if batch.ndim != 4 or tuple(batch.shape[1:]) != (self.groups, *self.grid):
            raise MismatchError(
                "tokens that this prior was not made for",
                found=f"{tuple(batch.shape)}",
                expected=f"(b, {self.groups}, {self.grid[0]}, {self.grid[1]})",
            )
        return batch.flatten(2)

    def _rows(self, condition: Condition, count: int, training: bool = False) -> Int64[Tensor, " b"]:
        if condition.labels is not None and self.num_classes == 0:
            raise MismatchError(
                "this prior is unconditional and cannot be given a class",
                found=condition.kind,
                choices=("none", "partial"),
            )
        rows = condition.class_rows(count, self.num_classes, self.positions.device)
        if not training and bool((rows == self.num_classes).any()):
            self._need_null("an image without a class")
        return rows

    def _need_null(self, what: str) -> None:
        if not self.knows_null:
            raise MismatchError(
                f"{what} needs the null class, which this prior never saw",
                found="label_drop: 0",
                expected="label_drop > 0",
            )

    def _new_caches(self, batch: int) -> Caches:
        stacks: list[Any] = [self.shared, *self.branches]
        return [stack.new_caches(batch, self.num_positions, self.positions) for stack in stacks]
