"""A vision transformer over the codes of an image, with a global token.

Paper: LG-VQ, section 3.2.1, equation 4: [e_CLS; Z] -> ViT -> the image's global feature and one token per position.

Its input is the quantised latent: what all groups of codes say at a position is one token. The paper's projection to
the text's width is two here, since CLIP's shared space (the global feature) and its input embeddings (the words)
are two spaces, and of two widths in some CLIPs.

Letters: b batch, d the latent's dimension, h w its grid, n = h * w, e width of the shared space, w' that of words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vqpipe.errors import MismatchError
from vqpipe.params.align import AlignParams


@dataclass(frozen=True)
class EncodedCodes:
    """What the transformer makes of a batch."""

    feature: Float[Tensor, "b e"]
    """The global token in the space of CLIP's text features, not normalised."""
    tokens: Float[Tensor, "b n w"]
    """Each position in the space of CLIP's input embeddings, in raster order."""


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
