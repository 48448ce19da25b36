"""The head of captioning: tokens of an image, a mapping network, and a language model that reads the prefix.

ClipCap (Mokady et al., arXiv 2111.09734) maps one CLIP vector; LG-VQ (arXiv 2405.14206, appendix A.1) puts trained
codes in the place of ClipCap's prefix and gives no further detail. How the codes enter is ours, by the mapper:

- `transformer`: the code tokens are the image's tokens of ClipCap's transformer; or their mean is the one vector that a
  linear layer makes into tokens, ClipCap's own form.
- `mlp`: the mean of the code tokens is the one vector.
- `codes`: the code tokens are the prefix, as LG-VQ words it; there is no mapping network.

Letters: b batch, d dimension of the latent, h w its grid, n tokens of an image, p vectors of the prefix, e width, c
captions of an image, t words.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.models.captioner import MlpMapper, TransformerMapper, VectorTokens, word_losses
from vqpipe.params.base import Params
from vqpipe.tasks.beam import beam_search
from vqpipe.tasks.heads import CodeTokens, square_of
from vqpipe.tasks.inputs import CodeSpace
from vqpipe.tasks.languages import Coder, LanguageParams, WordsParams, language_of


class CodesParams(Params):
    """No mapping network (LG-VQ)."""

    kind: Literal["codes"]
    """The code tokens are the prefix."""


class MlpParams(Params):
    """ClipCap's MLP with one hidden layer, over the mean of the code tokens."""

    kind: Literal["mlp"]
    """An MLP."""
    prefix_length: Annotated[int, Field(ge=1)]
    """p; 10 in ClipCap."""


class TransformerParams(Params):
    """ClipCap's transformer."""

    kind: Literal["transformer"]
    """A transformer over tokens of the image and learned constants."""
    prefix_length: Annotated[int, Field(ge=1)]
    """p; ClipCap has 10 with the MLP and 40 with its transformer of 8 layers and 8 heads."""
    num_layers: Annotated[int, Field(ge=1)]
    """Layers; 8 in ClipCap."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads; they divide the language model's width. 8 in ClipCap."""
    num_vectors: Annotated[int, Field(ge=1)] | None
    """Tokens that a linear layer makes of the mean of the code tokens, as ClipCap does of CLIP's vector (its
    `clip_length`). Null: the code tokens themselves."""


class CaptionerParams(Params):
    """From an image's tokens to words."""

    side: Annotated[int, Field(ge=1)] | None
    """As in `HeadParams`: most tokens along a side of the image; null for a token of each position."""
    mapper: Annotated[CodesParams | MlpParams | TransformerParams, Field(discriminator="kind")]
    """What makes the prefix."""
    language_model: LanguageParams
    """What reads the prefix and writes the caption."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> CaptionerParams:
        mapper, language = self.mapper, self.language_model
        if isinstance(mapper, TransformerParams) and isinstance(language, WordsParams):
            check_heads(mapper, language.width)
        return self


def check_heads(mapper: TransformerParams, width: int) -> None:
    """Refuse heads that do not divide the language model's width.

    Raises:
        ValueError: they do not.
    """
    if width % mapper.num_heads:
        raise ValueError(
            f"the language model's width {width} is not a multiple of mapper.num_heads {mapper.num_heads}"
        )


class Captioner(nn.Module):
    """The head.

    Args:
        space: of the input.
        max_words: most words of a caption.

    Raises:
        MismatchError: `side` or heads that do not fit.
        DataError, SetupError: as the language model's.
    """

    def __init__(self, space: CodeSpace, params: CaptionerParams, coder: Coder, max_words: int) -> None:
        super().__init__()
        self.coder, self.max_words, mapper = coder, max_words, params.mapper
        side = params.side
        length = (
            space.num_positions // square_of(space, side) ** 2
            if isinstance(mapper, CodesParams)
            else mapper.prefix_length
        )
        self.language = language_of(params.language_model, coder, length + max_words + 1)
        width = self.language.width
        self.image = CodeTokens(space, width, side)
        self.prefix_length = length
        self.vector = not isinstance(mapper, CodesParams)
        if isinstance(mapper, CodesParams):
            self.mapper: nn.Module = nn.Identity()
        elif isinstance(mapper, MlpParams):
            self.mapper = MlpMapper(width, width, mapper.prefix_length)
        else:
            try:
                check_heads(mapper, width)
            except ValueError as error:
                raise MismatchError(
                    "mapper.num_heads does not fit GPT-2", found=error, expected=f"a divisor of {width}"
                ) from error
            self.vector = mapper.num_vectors is not None
            body = TransformerMapper(width, mapper.prefix_length, mapper.num_layers, mapper.num_heads)
            tokens = VectorTokens(width, width, mapper.num_vectors) if mapper.num_vectors else nn.Identity()
            self.mapper = nn.Sequential(tokens, body)

    def prefix(self, z_q: Float[Tensor, "b d h w"]) -> Float[Tensor, "b p e"]:
        """What the language model reads first."""
        tokens = self.image(z_q)
        out: Tensor = self.mapper(tokens.mean(dim=1) if self.vector else tokens)
        return out

    def losses(self, z_q: Float[Tensor, "b d h w"], words: Int64[Tensor, "b c t"]) -> Float[Tensor, " b"]:
        """The negative log-likelihood of an image's captions in nats per number of the coder, ends included."""
        prefix = self.prefix(z_q).repeat_interleave(words.shape[1], dim=0)
        losses = self.word_losses(prefix, words.flatten(0, 1)).view_as(words)
        return losses.sum(dim=(1, 2)) / (words != self.coder.pad).sum(dim=(1, 2))

    def word_losses(
        self, prefix: Float[Tensor, "b p e"], words: Int64[Tensor, "b t"]
    ) -> Float[Tensor, "b t"]:
        """The negative log-likelihood of each word in nats. Only states that a word follows become logits."""
        states = self.language.states(torch.cat([prefix, self.language.embed(words[:, :-1])], dim=1))
        return word_losses(
            self.language.following(states[:, self.prefix_length - 1 :]), words, self.coder.pad
        )

    def captions(self, z_q: Float[Tensor, "b d h w"], beam: int) -> list[str]:
        """The best caption of each image by beam search, of at most `max_words` words."""
        decoding = self.language.begin(self.prefix(z_q), self.max_words + 1)
        found = beam_search(
            decoding, beam=beam, stop=self.coder.stop, length=self.max_words + 1, must_stop=True
        )
        return [self.coder.decode(found.sequences(image)[0]) for image in range(len(z_q))]
