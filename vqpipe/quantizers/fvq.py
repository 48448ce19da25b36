"""A learned codebook behind a projector that mixes all codes, so that every step moves all of them.

Paper: FVQ, Scalable Training for Vector-Quantized Networks with 100% Codebook Utilization, arXiv 2509.10140; the
projector is its VQBridge. Known here from the abstract and the public code; what is said of the paper's text is as far
as known.

The raw codes C (K, d) are trained, and the codes are f(C), where f compresses, mixes and recovers:

    h_g = LN(C_g W_in)           C_g: `patch` codes in a row, patch x d values, to `width`; K / patch groups
    h <- blocks(h)               `depth` transformer blocks over the groups, every group sees every other
    f(C)_g = LN(h_g) W_out       back to patch x d values, the codes of the group

Search and losses are those of `vq` (the paper's beta is on the commitment). A block has pre-norm attention and a GELU
MLP of four times the width (the public code: twice). In eval f(C) is computed once and kept until a weight changes; the
paper throws f and C away after the training, here they stay in the checkpoint.

Cost: at a fixed number of groups, K / patch, the blocks cost the same for every K, and the two projections O(K). The
paper's rule keeps it: patch 4 at K 4,096 and 16 at 16,384 make 1,024 groups, as 256 at 262,144 does. Its depth is 2 and
its width 256, as its codes have. It anneals the learning rate to 1 %, `final_lr_fraction` of the training here.

The public code, in its form with ViT blocks, lays the codes on a square of sqrt(K) x sqrt(K), so that a group is a
square of them (4 x 4 of 16,384, thus patch 16); here it is a row. Its blocks have 4 heads, depth 2 and a width of 32 to
512 that does not follow from d, norms without weights, none after W_in, and no positions of groups; here there are none
either: a group's raw codes are trained, and can be what a position would add. Its W_out starts at 0, so that all codes
do; here as a linear layer's own, or by `init: data`. Raw codes start standard normal here: LN would drown values of 1/K
in its epsilon. At d = 8 a width of 8 forces patch x 8 values through 8, so `width` is free.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vqpipe.params.base import is_multiple
from vqpipe.quantizers.contract import About
from vqpipe.quantizers.moments import moment_map
from vqpipe.quantizers.nearest import NearestCodeParams, NearestCodeQuantizer


class FvqParams(NearestCodeParams):
    """A learned codebook behind a projector that mixes all codes (FVQ, VQBridge)."""

    kind: Literal["fvq"]
    num_codes: int = Field(ge=1)
    """K, the number of codes; a multiple of `patch`."""
    patch: int = Field(ge=1)
    """Codes that are compressed into one vector. Time and memory of the blocks grow with (K / patch)^2; K / patch is
    1,024 in the paper, and in its code at K 16,384."""
    width: int = Field(ge=1)
    """Of that vector; the paper's is d, 256; 32 to 512 in its code. A multiple of `heads`."""
    depth: int = Field(ge=1)
    """Transformer blocks; 2 in the paper and its code."""
    heads: int = Field(ge=1)
    """Of each block's attention; 4 in the public code."""
    init: Literal["standard", "data"]
    """The last projection at the start: `standard` (a linear layer's own), or `data`: set so that the codes have the
    mean and covariance of the first batch's latents."""

    _patches_divide_codes = is_multiple("num_codes", "patch")
    _heads_divide_width = is_multiple("width", "heads")


class Block(nn.Module):
    """Pre-norm attention among all tokens, then an MLP of four times the width, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "g w"]) -> Float[Tensor, "g w"]:
        """The tokens after the block."""
        q, k, v = self.qkv(self.norm(x)).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3).unsqueeze(1)
        mixed = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
        x = x + self.out(mixed)
        added: Tensor = self.mlp(self.mlp_norm(x))
        return x + added


class FullQuantizer(NearestCodeQuantizer):
    """One group; raw codes (K, d) and the projector are trained."""

    kind = "fvq"
    Params = FvqParams
    about = About(
        title="FVQ",
        codes="a parameter through a projector that mixes all codes",
        moved_by="the projector moves all codes at once",
        papers="FVQ 2509.10140",
        example={
            "kind": "fvq", "dim": 8, "num_codes": 16, "beta": 0.25, "beta_on": "commitment", "patch": 2, "width": 16,
            "depth": 2, "heads": 2, "init": "standard",
        },
    )  # fmt: skip

    def __init__(self, config: FvqParams) -> None:
        super().__init__(config, ["code"], [config.num_codes], data_init=config.init == "data")
        self.raw = nn.Parameter(torch.randn(config.num_codes, config.dim))
        group = config.patch * config.dim
        self.compress = nn.Sequential(nn.Linear(group, config.width), nn.LayerNorm(config.width))
        self.blocks = nn.Sequential(*(Block(config.width, config.heads) for _ in range(config.depth)))
        self.norm, self.recover = nn.LayerNorm(config.width), nn.Linear(config.width, group)

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The raw codes after the projector."""
        groups = self.raw.view(-1, self.recover.out_features)
        return (self.recover(self.norm(self.blocks(self.compress(groups)))).view_as(self.raw),)

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Set the last projection so that the codes have the mean and covariance of the first batch's latents."""
        matrix, shift = moment_map(self.live_codes()[0], rows[0])
        weight = self.recover.weight.view(-1, self.dim, self.recover.in_features)
        weight.copy_(matrix.T @ weight)
        bias = self.recover.bias.view(-1, self.dim)
        bias.copy_(bias @ matrix + shift)
