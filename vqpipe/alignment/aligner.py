"""The three losses together, as a module that is trained beside any tokenizer and dropped from the exported one.

Paper: LG-VQ (Language-Guided Codebook Learning), equation 9: the tokenizer's loss plus alpha times the global, beta
times the masked-text and gamma times the relationship loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vqpipe.alignment.code_transformer import CodeTransformer
from vqpipe.alignment.global_alignment import GlobalAlignment
from vqpipe.alignment.masked_text import MaskedText, mask_by_ratio
from vqpipe.alignment.relationship import RelationshipAlignment
from vqpipe.alignment.text import TextBatch
from vqpipe.alignment.vocabulary import CorpusVocabulary
from vqpipe.errors import ArtifactError, MismatchError
from vqpipe.params.align import AlignParams, has_gradient_codes
from vqpipe.params.quantizers import QuantizerParams
from vqpipe.quantizers.contract import Quantized, QuantizerModule


class Aligner(nn.Module):
    """The transformer over the codes and the losses that the params give a weight.

    Its state is complete: the corpus's tokens and their embeddings are buffers.

    Args:
        config: the params.
        num_positions: h w of the latent.
        latent_dim: dimension of the quantised latent.
        code_dims: dimension of each group's code vectors (`code_dims`); only the relationship loss reads them.
        vocabulary: byte-pair ids of the corpus's captions, start and end included.
        embeddings: CLIP's frozen input embeddings of those; `CorpusVocabulary` scales them.
        text_dim: e, of the global text features.

    Raises:
        MismatchError: the relationship loss for a quantizer without code vectors, or a vocabulary that is not sound
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

    def forward(
        self, quantized: Quantized, text: TextBatch, progress: float = 1.0
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum of the losses, and their terms by name, unweighted scalars without gradient.

        Masks are drawn on the CPU from torch's global generator; `progress` in [0, 1] has no effect so far. The terms
        are the losses by name and, where they are in use, `align_global_accuracy` and `align_masked_accuracy` (the part
        of this batch that is told right) and a learned temperature.

        Raises:
            MismatchError: a latent, captions or features that do not fit what the module was built for, or a caption's
                token outside the corpus's vocabulary.
        """
        text = self.checked(text)
        real, embeddings = text.real(), self.vocabulary.embeddings
        rows = self.vocabulary.rows(text.tokens, real)
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
            loss = self.relationship(quantized, codes.tokens, text.words, rows, embeddings)
            parts.append(self.config.relationship.weight * loss)
            terms["align_relationship"] = loss.detach()
        return torch.stack(parts).sum(), terms

    def checked(self, text: TextBatch) -> TextBatch:
        """The captions without columns that are padding alone, and with no word in what padding is left.

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
    def from_state(cls, config: AlignParams, tensors: Mapping[str, Tensor]) -> Self:
        """The aligner whose `state_dict()` is `tensors`, in eval mode; no CLIP is needed.

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


def code_dims(config: QuantizerParams, quantizer: QuantizerModule) -> tuple[int, ...]:
    """Dimension of each group's code vectors; none where they take no gradient (`has_gradient_codes`)."""
    if not has_gradient_codes(config):
        return ()
    return tuple(int(book.vectors.shape[1]) for book in quantizer.codebooks())
