"""The language models of captioning: one trained from scratch on words, or GPT-2 from the disk.

Both read a prefix of vectors and then words, and give the logits of the next word at each.

Letters: b texts, m texts in a search, p vectors of the prefix, t words, s vectors, e width, v size of the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn

from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import DataError, SetupError
from vqpipe.models.causal import DropoutParams, Gpt2Block, GrowingCache, Stack, TransformerParams
from vqpipe.models.transformer import init_gpt
from vqpipe.params.base import Params, is_multiple
from vqpipe.tasks.beam import Decoding
from vqpipe.tasks.words import END, PAD, SPECIALS, UNKNOWN, Vocabulary, words_of

INSTALL = "pip install 'vqpipe[gpt2]'"
WEIGHTS = "model.safetensors"
"""The file of GPT-2's weights in its folder."""


class WordsParams(Params):
    """A small causal transformer over words (pre-norm, GELU, tied embeddings as in GPT-2), trained with the mapper."""

    kind: Literal["words"]
    """Trained from scratch on the training captions."""
    width: Annotated[int, Field(ge=8)]
    """e, channels."""
    num_layers: Annotated[int, Field(ge=1)]
    """Layers."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the width."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Dropout rate of attention weights and MLPs."""
    min_count: Annotated[int, Field(ge=1)]
    """Words that the training captions have less often are unknown."""

    _heads_divide_width = is_multiple("width", "num_heads")


class Gpt2Params(Params):
    """GPT-2 as `transformers` saves it, with its tokenizer; nothing is downloaded."""

    kind: Literal["gpt2"]
    """From the disk."""
    path: Path
    """The folder: `config.json`, `model.safetensors` and the tokenizer's files."""
    tune: bool
    """Whether GPT-2 is trained with the mapper (ClipCap with an MLP) or frozen (with a transformer)."""


LanguageParams = Annotated[WordsParams | Gpt2Params, Field(discriminator="kind")]


class Coder(ABC):
    """Captions as numbers."""

    name: str
    """What it is called in the metrics; names the files of GPT-2 by a digest."""
    num_tokens: int
    """v."""
    pad: int
    """The number that is no word."""
    stop: int
    """The word that ends a caption."""

    @property
    def known(self) -> dict[str, Any]:
        """What a head is built from, as `Task.known`."""
        return {"language_model": self.name}

    @abstractmethod
    def encode(self, texts: Sequence[str], max_words: int) -> tuple[Int64[Tensor, "n t"], int]:
        """Texts cut to `max_words`, each with `stop` after it, then `pad`; and how many were cut. t is one more."""

    @abstractmethod
    def decode(self, numbers: Sequence[int]) -> str:
        """The text up to `stop`."""

    @abstractmethod
    def num_words(self, numbers: Int64[Tensor, "n t"]) -> Int64[Tensor, " n"]:
        """Words and signs (`words_of`) of each encoded text, and its end: one unit for all models."""

    @abstractmethod
    def num_unknown(self, texts: Sequence[str]) -> int:
        """How many words of the texts, at least one, it has no number for."""


class WordCoder(Coder):
    """Whole words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.name, self.num_tokens, self.pad, self.stop = "words", len(self.vocabulary), PAD, END

    @property
    def known(self) -> dict[str, Any]:
        return {**super().known, "words": list(self.vocabulary.words)}

    def encode(self, texts: Sequence[str], max_words: int) -> tuple[Int64[Tensor, "n t"], int]:
        numbers, cut = self.vocabulary.encode(texts, max_words, ends=True)
        return numbers[:, 1:], cut

    def decode(self, numbers: Sequence[int]) -> str:
        return self.vocabulary.decode(numbers)

    def num_words(self, numbers: Int64[Tensor, "n t"]) -> Int64[Tensor, " n"]:
        return (numbers != self.pad).sum(dim=1)

    def num_unknown(self, texts: Sequence[str]) -> int:
        longest = max(len(words_of(text)) for text in texts)
        return int((self.vocabulary.encode(texts, longest)[0] == UNKNOWN).sum())


class Gpt2Coder(Coder):
    """GPT-2's byte-pair tokens; its end-of-text token ends a caption."""

    def __init__(self, folder: Path) -> None:
        self._library = _library(folder)
        try:
            self._tokenizer: Any = self._library.GPT2TokenizerFast.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(folder, error) from error
        stop = self._tokenizer.eos_token_id
        if stop is None:
            raise _damaged(folder, "a tokenizer without an end-of-text token")
        self.name, self.num_tokens = f"gpt2 {tree_digest(folder)}", len(self._tokenizer)
        self.pad, self.stop = -1, int(stop)

    def encode(self, texts: Sequence[str], max_words: int) -> tuple[Int64[Tensor, "n t"], int]:
        out = torch.full((len(texts), max_words + 1), self.pad, dtype=torch.int64)
        cut = 0
        for row, numbers in enumerate(self._tokenizer(list(texts))["input_ids"]):
            cut += len(numbers) > max_words
            own = [*numbers[:max_words], self.stop]
            out[row, : len(own)] = torch.tensor(own, dtype=torch.int64)
        return out, cut

    def decode(self, numbers: Sequence[int]) -> str:
        own = list(numbers)
        text = self._tokenizer.decode(own[: own.index(self.stop)] if self.stop in own else own)
        return str(text).strip()

    def num_words(self, numbers: Int64[Tensor, "n t"]) -> Int64[Tensor, " n"]:
        return torch.tensor([len(words_of(self.decode(row))) + 1 for row in numbers.tolist()])

    def num_unknown(self, texts: Sequence[str]) -> int:
        """None: pieces spell any word."""
        return 0


class Language(nn.Module, ABC):
    """A causal language model."""

    width: int
    """e."""

    @abstractmethod
    def embed(self, words: Int64[Tensor, "b t"]) -> Float[Tensor, "b t e"]:
        """The vectors of words; any for padding."""

    @abstractmethod
    def states(self, inputs: Float[Tensor, "b s e"]) -> Float[Tensor, "b s e"]:
        """The states of the last layer at each input."""

    @abstractmethod
    def following(self, states: Float[Tensor, "b s e"]) -> Float[Tensor, "b s v"]:
        """The logits of what follows states of the last layer."""

    def forward(self, inputs: Float[Tensor, "b s e"]) -> Float[Tensor, "b s v"]:
        """The logits of what follows each input."""
        return self.following(self.states(inputs))

    @abstractmethod
    def begin(self, prefix: Float[Tensor, "b p e"], length: int) -> Decoding:
        """A search for texts of at most `length` words after a prefix."""


class WordLanguage(Language):
    """The transformer of `WordsParams`, with the initialisation of GPT-2.

    Args:
        size: v.
        length: most vectors, prefix and words together.
    """

    def __init__(self, params: WordsParams, size: int, length: int) -> None:
        super().__init__()
        self.params, self.width = params, params.width
        self.words = nn.Embedding(size, params.width)
        self.places = nn.Parameter(torch.empty(length, params.width).normal_(std=0.02))
        self.layers = Stack(params.num_layers, _shape(params))
        self.norm = nn.LayerNorm(params.width)
        self.apply(init_gpt)

    def embed(self, words: Int64[Tensor, "b t"]) -> Float[Tensor, "b t e"]:
        out: Tensor = self.words(words)
        return out

    def states(self, inputs: Float[Tensor, "b s e"]) -> Float[Tensor, "b s e"]:
        out: Tensor = self.layers(inputs + self.places[: inputs.shape[1]])
        return out

    def following(self, states: Float[Tensor, "b s e"]) -> Float[Tensor, "b s v"]:
        return self.norm(states) @ self.words.weight.T

    def begin(self, prefix: Float[Tensor, "b p e"], length: int) -> Decoding:
        return WordDecoding(self, prefix, length)


def _shape(params: WordsParams) -> TransformerParams:
    rate = params.dropout
    return TransformerParams(
        num_layers=params.num_layers, num_heads=params.num_heads, width=params.width, block=Gpt2Block(kind="gpt2"),
        learned_positions=True, rotary_base=None, prefix_attention="causal", head_bias=False,
        dropout=DropoutParams(embedding=0.0, attention=rate, residual=rate, mlp=rate),
    )  # fmt: skip


class WordDecoding:
    """A search with `WordLanguage`; keys and values are kept. Only words and the end can follow.

    Arguments as in `Language.begin`.
    """

    def __init__(self, language: WordLanguage, prefix: Float[Tensor, "b p e"], length: int) -> None:
        self._language, params = language, language.params
        self._filled, capacity = prefix.shape[1], prefix.shape[1] + length
        shape = (2, len(prefix), params.num_heads, capacity, params.width // params.num_heads)
        self._caches = [GrowingCache(shape, prefix) for _ in range(params.num_layers)]
        states = language.layers(prefix + language.places[: self._filled], self._caches)
        self.logits = self._words(states)

    def step(self, sources: Int64[Tensor, " m"], tokens: Int64[Tensor, " m"]) -> None:
        """As `Decoding.step`."""
        for cache in self._caches:
            cache.pairs = cache.pairs[:, sources]
        inputs = self._language.embed(tokens[:, None]) + self._language.places[self._filled]
        self._filled += 1
        self.logits = self._words(self._language.layers(inputs, self._caches))

    def _words(self, states: Float[Tensor, "m s e"]) -> Float[Tensor, "m v"]:
        logits = self._language.following(states[:, -1])
        others = [number for number in range(SPECIALS) if number != END]
        return logits.index_fill(1, torch.tensor(others, device=logits.device), -torch.inf)


class Gpt2Language(Language):
    """GPT-2; its weights are its own module's, and the logits are products with the embeddings, as in GPT-2.

    Raises:
        DataError: a folder without the model, or that the library cannot load.
        SetupError: `transformers` is not installed.
    """

    def __init__(self, params: Gpt2Params, length: int) -> None:
        super().__init__()
        library = _library(params.path)
        try:
            self.model: Any = library.GPT2Model.from_pretrained(
                params.path, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise _damaged(params.path, error) from error
        if length > self.model.config.n_positions:
            raise DataError(
                f"{params.path}: the prefix and the caption do not fit into GPT-2", found=f"{length} vectors",
                expected=f"{self.model.config.n_positions} or fewer: a smaller prefix_length or max_words",
            )  # fmt: skip
        self.width, self.tune = int(self.model.config.n_embd), params.tune
        self.requires_grad_(params.tune)

    def train(self, mode: bool = True) -> Gpt2Language:
        """A frozen GPT-2 stays in eval mode, so that no dropout is drawn."""
        super().train(mode and self.tune)
        return self

    def embed(self, words: Int64[Tensor, "b t"]) -> Float[Tensor, "b t e"]:
        out: Tensor = self.model.wte(words.clamp_min(0))
        return out

    def states(self, inputs: Float[Tensor, "b s e"]) -> Float[Tensor, "b s e"]:
        out: Tensor = self.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return out

    def following(self, states: Float[Tensor, "b s e"]) -> Float[Tensor, "b s v"]:
        out: Tensor = states @ self.model.wte.weight.T
        return out

    def begin(self, prefix: Float[Tensor, "b p e"], length: int) -> Decoding:
        return Gpt2Decoding(self, prefix)


class Gpt2Decoding:
    """A search with GPT-2, with the cache of `transformers`."""

    def __init__(self, language: Gpt2Language, prefix: Float[Tensor, "b p e"]) -> None:
        self._language = language
        self._cache: Any = None
        self._read(prefix)

    def step(self, sources: Int64[Tensor, " m"], tokens: Int64[Tensor, " m"]) -> None:
        """As `Decoding.step`."""
        self._cache.reorder_cache(sources)
        self._read(self._language.embed(tokens[:, None]))

    def _read(self, inputs: Float[Tensor, "m s e"]) -> None:
        language = self._language
        found = language.model(inputs_embeds=inputs, past_key_values=self._cache, use_cache=True)
        self._cache = found.past_key_values
        self.logits = language.following(found.last_hidden_state[:, -1:])[:, 0]


def coder_of(params: WordsParams | Gpt2Params, texts: Sequence[str]) -> Coder:
    """The coder of a language model for training captions.

    Raises:
        DataError: no word that is frequent enough; or as `Gpt2Language`.
        SetupError: as `Gpt2Language`.
    """
    if isinstance(params, WordsParams):
        return WordCoder(Vocabulary.of(texts, params.min_count))
    return Gpt2Coder(params.path)


def known_coder(params: WordsParams | Gpt2Params, known: Mapping[str, Any]) -> Coder:
    """The coder with this `Coder.known`.

    Raises:
        DataError: GPT-2's folder has other files than when the head was trained; or as `Gpt2Language`.
        SetupError: as `Gpt2Language`.
    """
    if isinstance(params, WordsParams):
        return WordCoder(Vocabulary(tuple(known["words"])))
    coder = Gpt2Coder(params.path)
    if coder.name != known["language_model"]:
        raise DataError(
            f"{params.path} is not the GPT-2 that the head was trained with",
            found=coder.name, expected=known["language_model"],
        )  # fmt: skip
    return coder


def language_of(params: WordsParams | Gpt2Params, coder: Coder, length: int) -> Language:
    """The language model; arguments and errors as those of the models."""
    if isinstance(params, WordsParams):
        return WordLanguage(params, coder.num_tokens, length)
    return Gpt2Language(params, length)


def _library(folder: Path) -> Any:
    """`transformers`, once the folder is known to have a model.

    Raises:
        DataError, SetupError: as `Gpt2Language`.
    """
    missing = [name for name in ("config.json", WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise _damaged(folder, f"no {' and no '.join(missing)}")
    try:
        import transformers
    except ImportError as error:
        raise SetupError("language_model: gpt2 needs the package transformers", run=INSTALL) from error
    return transformers


def _damaged(folder: Path, found: object) -> DataError:
    text = str(found).splitlines()
    return DataError(
        f"{folder} is not a GPT-2 model", found=text[0] if text else type(found).__name__,
        expected="a folder as transformers saves GPT-2 and its tokenizer, with weights as safetensors",
    )  # fmt: skip
