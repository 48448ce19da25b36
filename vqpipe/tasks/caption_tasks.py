"""What the tasks on captions share: their examples, their head over the codes, and words as tokens.

LG-VQ (arXiv 2405.14206) reports what the heads trained with its tokenizer can do. A plain tokenizer has no such heads,
so those numbers do not measure the codes alone. Here both kinds of tokenizer get fresh heads, trained for
the same steps on frozen codes; an aligned tokenizer's own heads are measured as well. A fresh head reads the run's
CLIP; a tokenizer's own head reads the text encoder that it was aligned with.

Letters: b batch, t tokens, s words, v tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from vqpipe.alignment.aligner import Aligner, AlignParams, TextBatch
from vqpipe.alignment.losses import GlobalParams, MaskedParams, RelationshipParams
from vqpipe.alignment.text_sides import ClipSide, TextSide, TextSideParams, text_side
from vqpipe.artifacts.metrics import Metrics
from vqpipe.data.loader import ImageSplit
from vqpipe.errors import MismatchError
from vqpipe.metrics.caption_words import num_one_word
from vqpipe.metrics.measured import text_digest
from vqpipe.params.base import Params
from vqpipe.quantizers.contract import Quantized
from vqpipe.runtime.seeds import derive
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.task import Album, Examples, H, Row, Task, TaskMetrics, TaskParams, TaskProtocol
from vqpipe.tokenizers.captions import Captions, CaptionText, split_draw
from vqpipe.training.step import over_tensors

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip

MAX_WORDS = 256
"""Width of the draws over words for all captions, so that a caption's draw does not depend on the others."""

Word = tuple[int, ...]
"""A word's token ids."""


class CaptionHeadParams(Params):
    """The transformer over the codes, as LG-VQ's (`align` of a tokenizer variant)."""

    width: Annotated[int, Field(ge=8)]
    """Channels (256 in the reference code)."""
    num_layers: Annotated[int, Field(ge=1)]
    """Layers (2)."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads, there and in masked text prediction (1); they divide both widths."""
    max_tokens: Annotated[int, Field(ge=3)]
    """Longest caption in byte-pair tokens, start and end included (30); longer ones are cut."""


class CaptionTaskParams(TaskParams):
    """What the tasks on captions have."""

    head: CaptionHeadParams
    """The transformer over the codes."""

    def align(self) -> AlignParams:
        """The head with its losses, as an aligner has them."""
        raise NotImplementedError

    def _align(
        self,
        contrastive: GlobalParams | None = None,
        masked: MaskedParams | None = None,
        relationship: RelationshipParams | None = None,
    ) -> AlignParams:
        losses = {"global": contrastive, "masked": masked, "relationship": relationship}
        return AlignParams(**vars(self.head), **losses)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _head_fits(self) -> CaptionTaskParams:
        try:
            self.align()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self


class CaptionProtocol(TaskProtocol):
    """What was measured, in words and counts."""

    captions: str
    """Which captions."""
    num_tokens: int
    """Byte-pair tokens in the fresh head's vocabulary: those of the captions of all splits."""
    num_one_word: int
    """Test captions of one word."""
    num_train_one_word: int
    """The same of all captions of the training images."""


class CaptionTaskMetrics(TaskMetrics[H], Generic[H]):
    """The metrics of a task on captions."""

    protocol: CaptionProtocol
    """What was measured."""


class CaptionHeadMetrics(Metrics):
    """What the numbers of each head on captions begin with."""

    losses: str
    """The losses of LG-VQ that the head was trained by, such as `global, masked`."""
    text: str
    """The text encoder that the head reads (`TextSide.id`)."""


@dataclass(frozen=True)
class TrainCaptions(Examples):
    """The captions of the training images, one of which is drawn for each image and epoch (`CaptionDraw`)."""

    captions: Captions = field(kw_only=True)

    def batch(self, rows: Int64[np.ndarray, " b"], step: int = 0, share: slice = slice(None)) -> TextBatch:
        """One caption per image. All of the batch are drawn, so that draws do not depend on the number of ranks."""
        text, _ = self.captions.drawn(self.positions[rows], step, share)
        return text


@dataclass(frozen=True)
class TestCaptions(Examples):
    """One caption for each test image, drawn by the seed."""

    __test__ = False
    captions: list[str] = field(kw_only=True)
    clip: Clip = field(kw_only=True)
    _texts: dict[tuple[TextSideParams, int], TextBatch] = field(default_factory=dict, kw_only=True)

    @classmethod
    def open(
        cls, split: ImageSplit, positions: Int64[np.ndarray, " n"], clip: Clip, *, seed: int, where: str
    ) -> TestCaptions:
        """The captions of some images of a split.

        Raises:
            DataError: images without a caption.
        """
        draw = split_draw(split, seed, where)
        numbers = draw.numbers(positions, 0) - draw.starts[positions]
        drawn = [split.captions[p][n] for p, n in zip(positions.tolist(), numbers.tolist(), strict=True)]
        return cls(split, positions, captions=drawn, clip=clip)

    def side(self, align: AlignParams) -> TextSide:
        """The text encoder of a head; errors as `text_side`.

        Raises:
            MismatchError: an aligner of another sentence model than the one that is there now.
        """
        if align.text.kind == "clip" or align.text.sha256 is None:
            return text_side(align.text, self.clip)
        side = text_side(align.text.model_copy(update={"sha256": None}), None)
        if side.id != (known := f"{align.text.kind}:{align.text.sha256}"):
            raise MismatchError(
                f"the tokenizer's aligner was trained with another version of {align.text.model}",
                found=side.id, expected=known, run="dvc repro tokenizer",
            )  # fmt: skip
        return side

    def text(self, align: AlignParams) -> TextBatch:
        """All captions on the CPU, as a head takes them; errors as `CaptionText` and `text_side`."""
        key = (align.text, align.max_tokens)
        if key not in self._texts:
            text = CaptionText([[caption] for caption in self.captions], self.side(align), align.max_tokens)
            self._texts[key] = text.take(np.arange(len(self)))
        return self._texts[key]

    def digests(self) -> dict[str, str]:
        return {"captions": text_digest(self.captions)}


class CaptionTask(Task):
    """A task whose examples are captioned images and whose head is an `Aligner` with one or two of its losses."""

    config: CaptionTaskParams

    def examples(self, split: str) -> Examples:
        images, positions = self.images(split)
        seed, where = self.config.seed, self.where(split)
        if split == "train":
            captions = Captions(
                images, self.dataset, ClipSide(self.clip), max_tokens=self.config.head.max_tokens, seed=seed,
                folder=self.scratch,
            )  # fmt: skip
            return TrainCaptions(images, positions, captions=captions)
        found = TestCaptions.open(images, positions, self.clip, seed=seed, where=where)
        self.check(found, found.text(self.config.align()))
        return found

    def check(self, test: TestCaptions, text: TextBatch) -> None:
        """Refuse test captions that cannot be measured; called before anything is trained.

        Raises:
            DataError, SetupError: as the task says.
        """

    def align(self, space: CodeSpace) -> AlignParams:
        """The head's params for this input."""
        return self.config.align()

    def known(self, train: Examples) -> dict[str, Any]:
        assert isinstance(train, TrainCaptions)
        return {"vocabulary": train.captions.vocabulary.tolist()}

    def head(self, space: CodeSpace, known: Mapping[str, Any]) -> nn.Module:
        return Aligner.fresh(
            self.align(space),
            ClipSide(self.clip),
            torch.tensor(known["vocabulary"], dtype=torch.int64),
            num_positions=space.num_positions,
            latent_dim=space.dim,
            code_dims=space.code_dims,
            seed=derive(self.config.seed, "task", "head"),
        )

    def own_head(self, aligner: Aligner, test: Examples) -> nn.Module | None:
        assert isinstance(test, TestCaptions)
        if not self.fits(aligner):
            return None
        self.check(test, test.text(aligner.config))
        return aligner

    def fits(self, aligner: Aligner) -> bool:
        """Whether an aligner has the losses that the task's measures need."""
        raise NotImplementedError

    def loss(
        self, head: nn.Module, inputs: Quantized, batch: Any, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        loss, terms = head(inputs, batch)
        return loss, terms

    def networks(self, head: nn.Module) -> list[nn.Module]:
        assert isinstance(head, Aligner)
        return [head.code_transformer]

    def describe(self, inputs: FrozenInputs, test: Examples, train: Examples) -> TaskProtocol:
        assert isinstance(test, TestCaptions)
        assert isinstance(train, TrainCaptions)
        of_training = (text for at in train.positions.tolist() for text in train.split.captions[at])
        return CaptionProtocol(
            **dict(super().describe(inputs, test, train)), captions="one of each image, drawn by seed",
            num_tokens=len(train.captions.vocabulary), num_one_word=num_one_word(test.captions),
            num_train_one_word=num_one_word(of_training),
        )  # fmt: skip


def text_of(head: nn.Module, test: Examples) -> tuple[Aligner, TextBatch]:
    """A head of a caption task as the aligner that it is, and the captions cut to its length."""
    assert isinstance(head, Aligner)
    assert isinstance(test, TestCaptions)
    return head, test.text(head.config)


def side_of(head: nn.Module, test: Examples) -> TextSide:
    """The text encoder of a head of a caption task."""
    assert isinstance(head, Aligner)
    assert isinstance(test, TestCaptions)
    return test.side(head.config)


def facts_of(head: nn.Module, test: Examples) -> dict[str, str]:
    """The fields of `CaptionHeadMetrics`."""
    model, _ = text_of(head, test)
    return {"losses": ", ".join(model.config.losses()), "text": side_of(head, test).id}


def text_rows(head: Aligner, text: TextBatch, rows: Int64[np.ndarray, " b"]) -> TextBatch:
    """Some captions on the head's device, as its losses take them."""
    return head.checked(over_tensors(text, rows_on(rows, head.vocabulary.embeddings.device)))


def rows_on(rows: Int64[np.ndarray, " b"], device: torch.device) -> Callable[[Tensor], Tensor]:
    """Takes rows of a tensor to a device."""
    return lambda part: part[torch.from_numpy(rows).to(part.device)].to(device)


def caption_words(text: TextBatch, row: int) -> list[Word]:
    """A caption's words, in order."""
    words: dict[int, list[int]] = {}
    for number, token in zip(text.words[row].tolist(), text.tokens[row].tolist(), strict=True):
        if number >= 0:
            words.setdefault(number, []).append(token)
    return [tuple(word) for word in words.values()]


def caption_row(test: Examples, album: Album, row: int) -> Row:
    """The columns that every table of pictures of captions has."""
    assert isinstance(test, TestCaptions)
    return {
        "image_id": test.ids[row], "picture": album.picture(row), "caption": test.captions[row],
    }  # fmt: skip
