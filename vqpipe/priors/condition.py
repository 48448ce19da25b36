"""What a generator is told about the image it models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from vqpipe.errors import MismatchError

Kind = Literal["none", "class", "partial"]
KINDS: tuple[str, ...] = ("none", "class", "partial")
NO_LABEL = -1
"""The label of an image that has none."""


@dataclass(frozen=True)
class Condition:
    """One of nothing, a class per image, or the first tokens of each image (with or without a class).

    Make one with `Condition.none()`, `Condition.of_class(labels)` or `Condition.partial(tokens, labels)`.
    """

    kind: Kind
    labels: Int64[Tensor, " b"] | None = None
    """Class indices, -1 for an image without one."""
    tokens: Int64[Tensor, "b g h w"] | None = None
    """Known codes, -1 where they are to be drawn; the known ones come first in raster order."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise MismatchError(
                "a generator does not know this kind of condition", found=self.kind, choices=KINDS
            )
        wrong = (self.kind == "class") != (self.labels is not None) and self.kind != "partial"
        if wrong or (self.kind == "partial") != (self.tokens is not None):
            raise MismatchError(
                f"a condition of kind {self.kind} with the wrong parts",
                found=[name for name in ("labels", "tokens") if getattr(self, name) is not None],
                expected="none: nothing; class: labels; partial: tokens, and labels where wanted",
            )

    @classmethod
    def none(cls) -> Condition:
        return cls("none")

    @classmethod
    def of_class(cls, labels: Int64[Tensor, " b"]) -> Condition:
        return cls("class", labels=labels)

    @classmethod
    def partial(
        cls, tokens: Int64[Tensor, "b g h w"], labels: Int64[Tensor, " b"] | None = None
    ) -> Condition:
        return cls("partial", labels=labels, tokens=tokens)

    def class_rows(self, count: int, num_classes: int, device: torch.device) -> Int64[Tensor, " b"]:
        """Rows of a class embedding whose last row, `num_classes`, stands for no class.

        Raises:
            MismatchError: another number of labels than `count`, or a label that is not a class.
        """
        if self.labels is None:
            return torch.full((count,), num_classes, dtype=torch.int64, device=device)
        labels = self.labels.to(device)
        if labels.shape != (count,):
            raise MismatchError("one label per image", found=tuple(labels.shape), expected=(count,))
        if int(labels.max()) >= num_classes or int(labels.min()) < NO_LABEL:
            raise MismatchError(
                "a label is not a class of this generator",
                found=f"{int(labels.min())} to {int(labels.max())}",
                expected=f"0 to {num_classes - 1}, or {NO_LABEL} for none" if num_classes else "no labels",
            )
        return torch.where(labels == NO_LABEL, num_classes, labels)

    def num_known(self, shape: tuple[int, int, int, int], num_codes: tuple[int, ...]) -> int:
        """How many raster positions of each image are known; 0 unless the kind is partial.

        Args:
            shape: (b, g, h, w) of what is to be drawn.
            num_codes: size of each group's codebook.

        Raises:
            MismatchError: another shape, a code out of range, or known tokens that are not the same first
                ones in
                every image: a causal model cannot be exact about tokens that come after those it draws.
        """
        if self.tokens is None:
            return 0
        if tuple(self.tokens.shape) != shape:
            raise MismatchError(
                "partial tokens of the wrong shape", found=tuple(self.tokens.shape), expected=shape
            )
        flat = self.tokens.flatten(2)
        count = int((flat[0, 0] >= 0).sum())
        if not ((flat[..., :count] >= 0).all() and (flat[..., count:] < 0).all()):
            raise MismatchError(
                "partial tokens must be the same first ones, in raster order, of every image and group",
                expected="codes, then -1 to the end",
            )
        for group, codes in enumerate(num_codes):
            if int(flat[:, group].max()) >= codes:
                raise MismatchError(
                    f"a known code of group {group} is not in its codebook",
                    found=int(flat[:, group].max()),
                    expected=f"0 to {codes - 1}",
                )
        return count
