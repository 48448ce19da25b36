"""What an alignment reads of captions: tokens, their frozen input embeddings and a global feature of the whole text.

LG-VQ (arXiv 2405.14206, section 3.2) takes all three from CLIP's text encoder. A sentence-embedding model has the same
three: it is a language model that was pretrained on much more text than a CLIP that is fitted to a data set's captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import torch
from jaxtyping import Float, Float32, Int32, Int64
from pydantic import Field
from torch import Tensor

from vqpipe.errors import DataError, MismatchError
from vqpipe.params.base import Params
from vqpipe.text.sentences import SentenceModel, SentenceModelParams
from vqpipe.vision import byte_pairs
from vqpipe.vision.byte_pairs import Piece

if TYPE_CHECKING:
    from vqpipe.vision.clip import Clip

BATCH = 256
"""Texts that a sentence model encodes at once."""


class ClipTextParams(Params):
    """The text encoder of the run's CLIP: byte-pair tokens, the input table, the end token's projected feature."""

    kind: Literal["clip"] = "clip"
    """Names this kind."""


class SentenceTextParams(SentenceModelParams):
    """A pretrained sentence-embedding model: its tokens (WordPiece in BERT's), its input table, its text embedding.

    An aligner is stored with the SHA-256 of the model that it was trained with.
    """


TextSideParams = Annotated[ClipTextParams | SentenceTextParams, Field(discriminator="kind")]
"""Where an alignment's text comes from."""


class TextSide(Protocol):
    """A frozen text encoder as captions and aligners use it."""

    id: str
    """Differs where anything of the encoder does."""
    start: int
    """The id of the token before a text."""
    end: int
    """The id of the token after it."""
    context_length: int
    """Most tokens of a text, start and end included."""

    @property
    def embed_dim(self) -> int:
        """e, of the global feature."""
        ...

    def pinned(self) -> TextSideParams:
        """The params with what identifies the encoder."""
        ...

    def pieces(self, text: str) -> tuple[str, list[Piece]]:
        """A text as the tokenizer reads it, and its pieces there in order, without start and end."""
        ...

    def spelled(self, ids: Sequence[int]) -> str:
        """The text of tokens that follow each other."""
        ...

    def token_embeddings(self) -> Float[Tensor, "v w"]:
        """The encoder's input table, rows by id."""
        ...

    def encode(self, ids: Int32[Tensor, "n t"], lengths: Int64[Tensor, " n"]) -> Float32[Tensor, "n e"]:
        """Global features of texts on the CPU, not normalised by this library.

        Args:
            ids: start, text, end, zeros.
            lengths: real tokens of each, start and end included.
        """
        ...


def text_side(config: TextSideParams, clip: Clip | None) -> TextSide:
    """The encoder that params name; a sentence model is loaded once in a process.

    Raises:
        MismatchError: `kind: clip`, and no CLIP is given.
        DataError, SetupError: a sentence model that cannot be used (`SentenceModel`, `SentenceSide`).
    """
    if isinstance(config, SentenceTextParams):
        return SentenceSide(config)
    if clip is None:
        raise MismatchError(
            "an align whose text is of kind clip needs a CLIP", found="none", expected="the option --clip"
        )
    return ClipSide(clip)


@cache
def _sentence_model(model: str) -> SentenceModel:
    return SentenceModel(model, where="align.text")


class ClipSide:
    """The text encoder of a CLIP, with the byte pairs of the original one."""

    start, end = byte_pairs.START, byte_pairs.END

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self.id = clip.id
        self.context_length = clip.context_length

    @property
    def embed_dim(self) -> int:
        """See `TextSide`."""
        return self._clip.embed_dim

    def pinned(self) -> ClipTextParams:
        """There is nothing to add: who stores an aligner states the CLIP next to it."""
        return ClipTextParams()

    def pieces(self, text: str) -> tuple[str, list[Piece]]:
        """See `TextSide`."""
        text = byte_pairs.normalised(text)
        return text, byte_pairs.pieces(text)

    def spelled(self, ids: Sequence[int]) -> str:
        """See `TextSide`."""
        return str(byte_pairs.tokenizer().decode(list(ids))).strip()

    def token_embeddings(self) -> Float[Tensor, "v w"]:
        """See `TextSide`."""
        return self._clip.token_embeddings()

    def encode(self, ids: Int32[Tensor, "n t"], lengths: Int64[Tensor, " n"]) -> Float32[Tensor, "n e"]:
        """The end token's feature, projected and not normalised; the end token itself says where a text ends."""
        return self._clip.encode_tokens(ids.long()).float().cpu()


class SentenceSide:
    """A sentence model on the CPU. Its text embedding has length 1 in most models: their last part normalises it.

    Raises:
        DataError: the model's first part is no language model with a limit of tokens, it changes texts before it splits
            them, or its tokenizer does not say where a token is in the text, or surrounds a text by anything else than
            one token before and one after.
        DataError, SetupError: as `SentenceModel`.
    """

    def __init__(self, config: SentenceTextParams) -> None:
        self._config = config
        model = _sentence_model(config.model)
        model.need(config.sha256)
        self.sha256, self._model = model.sha256, model.library
        self.id = f"sentence_transformer:{self.sha256}"
        first = self._model[0]
        self._need("first part", type(first).__name__, hasattr(first, "auto_model"), "a language model")
        self._tokenizer: Any = self._model.tokenizer
        ends = [getattr(self._tokenizer, f"{name}_token_id", None) for name in ("cls", "sep")]
        self._need(
            "tokenizer", type(self._tokenizer).__name__, getattr(self._tokenizer, "is_fast", False),
            "a fast tokenizer, which gives the place of each token",
        )  # fmt: skip
        around = self._tokenizer("")["input_ids"]
        self._need(
            "tokens around a text", around, None not in ends and around == ends, f"cls and sep, here {ends}"
        )
        limit = self._model.max_seq_length
        self._need("max_seq_length", limit, isinstance(limit, int), "a number of tokens")
        self._need(
            "do_lower_case", True, not getattr(first, "do_lower_case", False), "false, or the tokenizer's own"
        )
        prompt = self._model.prompts.get(self._model.default_prompt_name, "")
        self._need("default prompt", prompt, not prompt, "none: an alignment reads the caption alone")
        self.start, self.end = int(ends[0] or 0), int(ends[1] or 0)
        self.context_length = int(limit)

    def _need(self, what: str, found: object, holds: bool, expected: str) -> None:
        if not holds:
            raise DataError(
                f"align.text.model: {self._config.model} cannot be used for alignment",
                found=f"{what}: {found}", expected=expected,
            )  # fmt: skip

    @cached_property
    def embed_dim(self) -> int:
        """See `TextSide`."""
        one = torch.tensor([[self.start, self.end]], dtype=torch.int32)
        return int(self.encode(one, torch.tensor([2])).shape[1])

    def pinned(self) -> SentenceTextParams:
        """The params with the SHA-256 of the model."""
        return self._config.model_copy(update={"sha256": self.sha256})

    def pieces(self, text: str) -> tuple[str, list[Piece]]:
        """See `TextSide`. Places are in `text` itself, although the tokenizer may lower its case; tokens without a
        place are left out."""
        found = self._tokenizer(
            text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False
        )
        spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return text, [Piece(start, stop, (int(token),)) for token, (start, stop) in spans if stop > start]

    def spelled(self, ids: Sequence[int]) -> str:
        """See `TextSide`."""
        return str(self._tokenizer.decode(list(ids))).strip()

    def token_embeddings(self) -> Float[Tensor, "v w"]:
        """See `TextSide`."""
        table: Tensor = self._model[0].auto_model.get_input_embeddings().weight
        return table.detach()

    @torch.inference_mode()
    def encode(self, ids: Int32[Tensor, "n t"], lengths: Int64[Tensor, " n"]) -> Float32[Tensor, "n e"]:
        """The model's text embeddings, as it gives them for the same tokens in a text."""
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        parts = []
        for at in range(0, len(ids), BATCH):
            rows = slice(at, at + BATCH)
            longest = int(lengths[rows].max())
            given = {"input_ids": ids[rows, :longest].long(), "attention_mask": mask[rows, :longest].long()}
            parts.append(self._model.forward(given)["sentence_embedding"].float())
        return torch.cat(parts).cpu()
