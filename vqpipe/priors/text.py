"""The frozen text encoder of text-conditional priors: the run's CLIP, or a sentence model; features of each token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.params.base import Params
from vqpipe.text.sentences import SentenceModel
from vqpipe.vision.byte_pairs import tokenizer
from vqpipe.vision.clip import Clip


class TextParams(Params):
    """A text encoder and the length of its texts."""

    encoder: Literal["clip", "sentence_transformer"]
    """`clip`: the text tower of the run's CLIP, its states after the last norm and before the projection, as
    VQ-Diffusion takes them (Gu et al., 2022, section 5.1). `sentence_transformer`: token embeddings of `model`."""
    max_tokens: Annotated[int, Field(ge=3)]
    """l, start and end included; longer captions of a data set are cut and counted."""
    model: str | None = None
    """Of `sentence_transformer`: a folder, or an installed package that contains one, as in `graph.vectors.model`."""

    @model_validator(mode="after")
    def _model_of_kind(self) -> Self:
        if (self.encoder == "sentence_transformer") != (self.model is not None):
            raise ValueError("sentence_transformer needs model, and clip has none")
        return self


class TextEncoder(ABC):
    """Texts to features of their tokens."""

    id: str
    """Names the weights."""
    dim: int
    """d, channels of a token's features."""
    length: int
    """l, tokens of every text, padding included."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Int64[Tensor, "n l"]]:
        """Features, 0 after a text's end, and token ids, -1 there. Longer texts are cut; an empty text has no token."""

    @abstractmethod
    def num_tokens(self, text: str) -> int:
        """Tokens of a text before the cut, start and end included."""

    def need_short(self, text: str) -> None:
        """Refuse a text that would be cut.

        Raises:
            MismatchError: the message gives both lengths.
        """
        found = self.num_tokens(text)
        if found > self.length:
            raise MismatchError(
                "the text is longer than the prior's encoder reads", found=f"{found} tokens",
                expected=f"at most {self.length}, start and end included (text.max_tokens at training)",
            )  # fmt: skip


class ClipText(TextEncoder):
    """States of a CLIP's text tower after its last norm.

    Raises:
        MismatchError: `length` is more than the tower reads, or the tower is not a byte-pair transformer.
    """

    def __init__(self, clip: Clip, length: int) -> None:
        model: Any = clip.model
        self._tower: Any = getattr(model, "text", model)
        absent = [
            name for name in ("token_embedding", "positional_embedding", "transformer", "ln_final")
            if not hasattr(self._tower, name)
        ]  # fmt: skip
        if absent:
            raise MismatchError(
                f"CLIP {clip.id} has no byte-pair text tower", found=f"no {', '.join(absent)}",
                expected="open_clip's own text tower, or encoder: sentence_transformer",
            )  # fmt: skip
        if length > clip.context_length:
            raise MismatchError(
                f"text.max_tokens is more than CLIP {clip.id} reads", found=length,
                expected=f"at most {clip.context_length}",
            )  # fmt: skip
        self._clip, self.id, self.length = clip, clip.id, length
        self.dim = int(self._tower.ln_final.weight.shape[0])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Int64[Tensor, "n l"]]:
        tower, length = self._tower, self.length
        ids = tokenizer()(list(texts), context_length=length).to(self._clip.mean.device)
        mask = getattr(tower, "attn_mask", None)
        states = tower.token_embedding(ids) + tower.positional_embedding[:length]
        states = tower.transformer(states, attn_mask=None if mask is None else mask[:length, :length])
        ends = ids.argmax(dim=1)
        empty = torch.tensor([not text.strip() for text in texts], device=ids.device)
        inside = (torch.arange(length, device=ids.device) <= ends[:, None]) & ~empty[:, None]
        return tower.ln_final(states) * inside[..., None], ids.masked_fill(~inside, -1)

    def num_tokens(self, text: str) -> int:
        return 2 + len(tokenizer().encode(text))


class SentenceText(TextEncoder):
    """Token embeddings of a sentence model, on the CPU."""

    def __init__(self, model: str, length: int) -> None:
        whole = SentenceModel(model, where="a prior's text")
        self.id, self.length = f"{model}:{whole.sha256[:12]}", length
        self._model: Any = whole.library
        limit = int(self._model.max_seq_length)
        if length > limit:
            raise MismatchError(
                f"text.max_tokens is more than {model} reads", found=length, expected=f"at most {limit}"
            )
        self._model.max_seq_length = length
        self.dim = int(self.encode(["a"])[0].shape[-1])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Int64[Tensor, "n l"]]:
        inputs = self._model.tokenize(list(texts))
        states = self._model[0](inputs)["token_embeddings"].float()
        empty = torch.tensor([not text.strip() for text in texts])
        inside = inputs["attention_mask"].bool() & ~empty[:, None]
        features = torch.zeros(len(texts), self.length, states.shape[-1])
        ids = torch.full((len(texts), self.length), -1)
        features[:, : states.shape[1]] = states * inside[..., None]
        ids[:, : states.shape[1]] = inputs["input_ids"].masked_fill(~inside, -1)
        return features, ids

    def num_tokens(self, text: str) -> int:
        return len(self._model.tokenizer(text)["input_ids"])


def text_encoder(config: TextParams, clip: Clip) -> TextEncoder:
    """The encoder that the params name.

    Raises:
        MismatchError: texts longer than it reads.
        DataError: no such sentence model.
        SetupError: a package that is not installed.
    """
    if config.model is not None:
        return SentenceText(config.model, config.max_tokens)
    return ClipText(clip, config.max_tokens)
