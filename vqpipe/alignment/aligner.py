"""LG-VQ's alignment of codes with captions: a transformer over the codes of an image, and three losses.

Paper: LG-VQ (Language-Guided Codebook Learning), arXiv 2405.14206. The module is trained together with any tokenizer;
its losses are added to the tokenizer's (equation 9). The terms alpha, beta and gamma of that equation are the weights
of `global`, `masked` and `relationship`. The reference code's configs: .001 each for CUB-200; .001, .01, .0001 for
CelebA-HQ and TextCaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from jaxtyping import Bool, Float, Float32, Int64
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn

from vqpipe.alignment.losses import (
    GlobalAlignment,
    GlobalParams,
    MaskedParams,
    MaskedText,
    RelationshipAlignment,
    RelationshipParams,
    mask_by_ratio,
)
from vqpipe.alignment.text_sides import ClipTextParams, TextSide, TextSideParams
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.params.base import Params

if TYPE_CHECKING:
    from vqpipe.quantizers.contract import Quantized


class AlignParams(Params):
    """Alignment of the codes with captions (LG-VQ). A loss that is null, or of weight 0, is not built."""

    width: Annotated[int, Field(ge=8)]
    """Channels of the transformer over the codes (256 in the reference code)."""
    num_layers: Annotated[int, Field(ge=1)]
    """Its layers (2)."""
    num_heads: Annotated[int, Field(ge=1)]
    """Attention heads, there and in masked text prediction (1); they divide both widths."""
    max_tokens: Annotated[int, Field(ge=3)]
    """Longest caption in tokens of `text`, start and end included (30)."""
    global_: GlobalParams | None = Field(alias="global")
    """Global semantic alignment, or null."""
    masked: MaskedParams | None
    """Masked text prediction, or null."""
    relationship: RelationshipParams | None
    """Relationship alignment, or null."""
    text: TextSideParams = ClipTextParams()
    """The frozen text encoder: the run's CLIP, or a sentence model."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`global` is a keyword of the language, so the field has another name; stored params have the written one."""
        return {name.removesuffix("_"): value for name, value in handler(self).items()}

    @model_validator(mode="after")
    def _fits(self) -> AlignParams:
        if not self.losses():
            raise ValueError("no loss has a weight above 0; set align to null to train without alignment")
        widths = {"width": self.width} | ({"masked.width": self.masked.width} if self.masked else {})
        for name, width in widths.items():
            if width % self.num_heads:
                raise ValueError(f"{name} {width} is not a multiple of num_heads {self.num_heads}")
        return self

    def losses(self) -> tuple[str, ...]:
        """The losses in use: those of `global`, `masked` and `relationship` with a weight above 0."""
        parts = {"global": self.global_, "masked": self.masked, "relationship": self.relationship}
        return tuple(name for name, part in parts.items() if part is not None and part.weight > 0)


@dataclass(frozen=True)
class TextBatch:
    """One caption for each image of a batch.

    Nothing here was made by an encoder that saw the whole caption but `features`, so that a word which is masked
    leaves no trace in the others.
    """

    tokens: Int64[Tensor, "b t"]
    """The text encoder's ids: start, text, end, padding. Padding may be any id: `lengths` says where it begins."""
    lengths: Int64[Tensor, " b"]
    """Real tokens of each caption, start and end included; 0 for a caption that is not there."""
    words: Int64[Tensor, "b t"]
    """The number of the word that a token is part of, counted from 0 in the caption; -1 for start, end, padding and
    signs such as a full stop, which are not words: they are never masked and no code is assigned to them."""
    features: Float32[Tensor, "b e"]
    """The frozen encoder's global text feature (of a CLIP the end token's, projected and not normalised)."""
    longest: int | None = None
    """The largest of `lengths`, at least 1, where the host knows it, or more; None waits for the device."""
    num_words: int | None = None
    """One more than the largest of `words`, where the host knows it, or more; None waits for the device."""

    def real(self) -> Bool[Tensor, "b t"]:
        """Which tokens are not padding."""
        steps = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return steps < self.lengths[:, None]

    def trimmed(self) -> TextBatch:
        """Without the columns that are padding in every caption; one column at least stays."""
        longest = self.longest
        if longest is None:
            longest = max(1, int(self.lengths.max())) if len(self.lengths) else 1
        return replace(self, tokens=self.tokens[:, :longest], words=self.words[:, :longest])


class CorpusVocabulary(nn.Module):
    """The corpus's tokens with the text encoder's frozen input embeddings, in the order of their ids.

    CLIP knows 49,408 tokens and a corpus some thousands: predicting a masked word among the corpus's own is the same
    task at a fraction of the cost.

    The length of an encoder's input embeddings depends on its training: .4 in ViT-B/32 (width 512), .23 in a small CLIP
    of width 64. Masked text prediction adds them to positions and takes its logits against them, both of which need a
    known length. So all are multiplied by one constant, which leaves cosines and relative lengths as they are: the mean
    of their squared lengths is 1, and their dot products with vectors whose components have variance 1 have a variance
    of 1 for any width.

    Args:
        ids: (v,), the token ids that occur in the captions, start and end included; in any order.
        embeddings: (v, w), the input embedding of each.

    Raises:
        MismatchError: no ids, ids that repeat, another number of embeddings than ids, or embeddings that are not
            finite or all 0.
    """

    ids: Tensor
    embeddings: Tensor
    frozen_buffers = ("embeddings",)

    def __init__(self, ids: Int64[Tensor, " v"], embeddings: Float[Tensor, "v w"]) -> None:
        super().__init__()
        if ids.ndim != 1 or embeddings.ndim != 2 or len(ids) != len(embeddings) or not len(ids):
            raise MismatchError(
                "the corpus's tokens and their embeddings do not fit",
                found=f"ids {tuple(ids.shape)}, embeddings {tuple(embeddings.shape)}",
                expected="(v,) and (v, w) with v of at least 1",
            )
        order = ids.argsort()
        ids, embeddings = ids[order].long(), embeddings[order].detach().float()
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise MismatchError("the corpus's tokens repeat", found=_some(repeated), expected="each id once")
        if not bool(embeddings.isfinite().all()):
            raise MismatchError("the tokens' embeddings are not finite", expected="an undamaged text encoder")
        length = embeddings.double().square().sum(dim=1).mean().sqrt()
        if not bool(length > 0):
            raise MismatchError("the tokens' embeddings are all 0", expected="an undamaged text encoder")
        self.register_buffer("ids", ids)
        self.register_buffer("embeddings", (embeddings / length).float())

    @property
    def word_dim(self) -> int:
        """w, the width of the embeddings."""
        return int(self.embeddings.shape[1])

    def __len__(self) -> int:
        return len(self.ids)

    def rows(
        self, tokens: Int64[Tensor, "b t"], real: Bool[Tensor, "b t"], check: bool = True
    ) -> Int64[Tensor, "b t"]:
        """The row of each token, in [0, v); padding gets any.

        Args:
            check: look for tokens that are not in the corpus, which waits for the device. A training, of which all
                captions are checked before it begins, does not.

        Raises:
            MismatchError: a real token that is not in the corpus.
        """
        found = torch.searchsorted(self.ids, tokens.contiguous()).clamp_max(len(self.ids) - 1)
        if not check:
            return found
        missing = tokens[real & (self.ids[found] != tokens)]
        if len(missing):
            raise MismatchError(
                "captions contain tokens that are not in the corpus's vocabulary",
                found=_some(torch.unique(missing)),
                expected=f"the vocabulary's {len(self.ids)} tokens; make it from these captions too",
            )
        return found


def _some(ids: Tensor) -> str:
    shown = ", ".join(str(i) for i in ids[:8].tolist())
    return f"{len(ids)} ids: {shown}" + (", .." if len(ids) > 8 else "")


@dataclass(frozen=True)
class EncodedCodes:
    """What the transformer makes of a batch."""

    feature: Float[Tensor, "b e"]
    """The global token in the space of the global text features, not normalised."""
    tokens: Float[Tensor, "b n w"]
    """Each position in the space of the input embeddings, in raster order."""


class CodeTransformer(nn.Module):
    """Pre-LN layers with GELU and a 4x MLP, without dropout; learned positions.

    The layers have no biases: a small trunk's step spends more on each tensor of weights than on what a bias computes.

    Args:
        config: width, layers and heads.
        latent_dim: d.
        num_positions: n; other grids are refused, as the positions are learned.
        text_dim: e.
        word_dim: w'.
    """

    def __init__(
        self, config: AlignParams, *, latent_dim: int, num_positions: int, text_dim: int, word_dim: int
    ) -> None:
        super().__init__()
        width = config.width
        self.into = nn.Linear(latent_dim, width)
        self.global_token = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1 + num_positions, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.num_heads,
                4 * width,
                0.0,
                "gelu",
                batch_first=True,
                norm_first=True,
                bias=False,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_text = nn.Linear(width, text_dim)
        self.to_words = nn.Linear(width, word_dim)

    def forward(self, z_q: Float[Tensor, "b d h w"]) -> EncodedCodes:
        """Encode a quantised latent.

        Raises:
            MismatchError: a latent of another dimension, or of another number of positions.
        """
        rows = z_q.flatten(2).transpose(1, 2)
        if rows.shape[1:] != (len(self.positions) - 1, self.into.in_features):
            raise MismatchError(
                "the latent does not fit the alignment's transformer",
                found=f"{rows.shape[1]} positions of dimension {rows.shape[2]}",
                expected=f"{len(self.positions) - 1} positions of dimension {self.into.in_features}",
            )
        x = self.into(rows)
        x = torch.cat([self.global_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return EncodedCodes(self.to_text(x[:, 0]).float(), self.to_words(x[:, 1:]).float())


class Aligner(nn.Module):
    """The transformer over the codes and the losses whose weight is above 0.

    Its state is complete: the corpus's tokens and their embeddings are buffers.

    Args:
        config: the params.
        num_positions: h w of the latent.
        latent_dim: dimension of the quantised latent.
        code_dims: dimension of each group's code vectors (`code_dims`); only the relationship loss reads them.
        vocabulary: token ids of the corpus's captions, start and end included.
        embeddings: the text encoder's frozen input embeddings of those; `CorpusVocabulary` scales them.
        text_dim: e, of the global text features.

    Raises:
        MismatchError: the relationship loss for a quantizer without code vectors, or a vocabulary that is refused
            (`CorpusVocabulary`).
    """

    def __init__(
        self,
        config: AlignParams,
        *,
        num_positions: int,
        latent_dim: int,
        code_dims: Sequence[int],
        vocabulary: Int64[Tensor, " v"],
        embeddings: Float[Tensor, "v w"],
        text_dim: int,
    ) -> None:
        super().__init__()
        self.config = config
        losses = config.losses()
        self.vocabulary = CorpusVocabulary(vocabulary, embeddings)
        word_dim = self.vocabulary.word_dim
        self.code_transformer = CodeTransformer(
            config, latent_dim=latent_dim, num_positions=num_positions, text_dim=text_dim, word_dim=word_dim
        )
        self.global_alignment: GlobalAlignment | None = None
        self.masked_text: MaskedText | None = None
        self.relationship: RelationshipAlignment | None = None
        if config.global_ is not None and "global" in losses:
            self.global_alignment = GlobalAlignment(config.global_)
        if config.masked is not None and "masked" in losses:
            self.masked_text = MaskedText(
                config.masked, num_heads=config.num_heads, max_tokens=config.max_tokens,
                num_tokens=len(self.vocabulary), word_dim=word_dim,
            )  # fmt: skip
        if config.relationship is not None and "relationship" in losses:
            if not code_dims:
                raise MismatchError(
                    "the relationship loss trains code vectors, and this quantizer has none that take a gradient",
                    expected="another quantizer, or align.relationship: null",
                )
            self.relationship = RelationshipAlignment(
                config.relationship, code_dim=sum(code_dims), word_dim=word_dim
            )

    def forward(self, quantized: Quantized, text: TextBatch) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum of the losses, and their terms by name, unweighted scalars without gradient.

        Masks are drawn on the CPU from torch's global generator. The terms are the losses by name and, where they are
        in use, `align_global_accuracy` and `align_masked_accuracy` (the part of this batch that is predicted correctly)
        and a learned temperature.

        Raises:
            MismatchError: a latent, captions or features that do not fit what the module was built for, or, but in
                training, where that would wait for the device, a caption's token outside the corpus's vocabulary.
        """
        text = self.checked(text)
        real, embeddings = text.real(), self.vocabulary.embeddings
        rows = self.vocabulary.rows(text.tokens, real, check=not self.training)
        codes = self.code_transformer(quantized.z_q)
        parts: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        if self.global_alignment is not None and self.config.global_ is not None:
            loss, accuracy = self.global_alignment(codes.feature, text.features)
            parts.append(self.config.global_.weight * loss)
            terms |= {"align_global": loss.detach(), "align_global_accuracy": accuracy}
            if self.global_alignment.log_temperature is not None:
                terms["align_temperature"] = self.global_alignment.temperature().detach()
        if self.masked_text is not None and self.config.masked is not None:
            masked = mask_by_ratio(self.config.masked, text.words)
            loss, accuracy = self.masked_text(rows, real, masked, codes.tokens, embeddings)
            parts.append(self.config.masked.weight * loss)
            terms |= {"align_masked": loss.detach(), "align_masked_accuracy": accuracy}
        if self.relationship is not None and self.config.relationship is not None:
            loss = self.relationship(quantized, codes.tokens, text.words, rows, embeddings, text.num_words)
            parts.append(self.config.relationship.weight * loss)
            terms["align_relationship"] = loss.detach()
        return torch.stack(parts).sum(), terms

    def checked(self, text: TextBatch) -> TextBatch:
        """The captions without columns of padding only, and without a word number in the remaining padding.

        Raises:
            MismatchError: captions longer than `max_tokens`, or features of another dimension.
        """
        text = text.trimmed()
        found = (text.tokens.shape[1], text.features.shape[1])
        expected = (self.config.max_tokens, self.code_transformer.to_text.out_features)
        if found[0] > expected[0] or found[1] != expected[1]:
            raise MismatchError(
                "the captions do not fit the alignment",
                found=f"{found[0]} tokens, features of dimension {found[1]}",
                expected=f"at most {expected[0]} tokens (align.max_tokens), features of dimension {expected[1]}",
            )
        return replace(text, words=text.words.masked_fill(~text.real(), -1))

    @classmethod
    def fresh(
        cls,
        config: AlignParams,
        side: TextSide,
        vocabulary: Int64[Tensor, " v"],
        *,
        num_positions: int,
        latent_dim: int,
        code_dims: Sequence[int],
        seed: int,
    ) -> Self:
        """An untrained aligner on the CPU, with a text encoder's embeddings; its params say exactly which. Its weights
        have their own random stream, so that those that are drawn after it are the same with and without it."""
        table = side.token_embeddings()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(
                config.model_copy(update={"text": side.pinned()}),
                num_positions=num_positions,
                latent_dim=latent_dim,
                code_dims=code_dims,
                vocabulary=vocabulary,
                embeddings=table[vocabulary.to(table.device)].cpu(),
                text_dim=side.embed_dim,
            )

    @classmethod
    def from_state(cls, config: AlignParams, tensors: Mapping[str, Tensor]) -> Self:
        """The aligner whose `state_dict()` is `tensors`, in eval mode; no text encoder is needed.

        Raises:
            ArtifactError: the tensors are not those of an aligner with these params.
        """
        try:
            into, positions = tensors["code_transformer.into.weight"], tensors["code_transformer.positions"]
            projected = tensors.get("relationship.projection.0.weight", into)
            aligner = cls(
                config, num_positions=len(positions) - 1, latent_dim=into.shape[1],
                code_dims=(projected.shape[1],), vocabulary=tensors["vocabulary.ids"],
                embeddings=tensors["vocabulary.embeddings"],
                text_dim=len(tensors["code_transformer.to_text.weight"]),
            )  # fmt: skip
            aligner.load_state_dict(dict(tensors))
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"these tensors are not the state of an aligner with these params: {error}"
            ) from error
        return aligner.eval()
