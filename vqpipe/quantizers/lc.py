"""A large frozen codebook of patch-feature centroids, moved into place by one trained linear layer.

Paper: VQGAN-LC, arXiv 2406.11837, section 3.2; its ablations are tables 6 to 10.

The centroids (K, D) are a buffer; the codes are Linear(D -> d, bias) of them, so that every code moves when
the projector does, used or not. Nearest is by cosine similarity in the paper and by Euclidean distance in its
reference code; the code that is passed on is the projected one, not normalised, in both. The paper weighs the
commitment term 1 and the codebook term .33 (eq. 1): `beta: 0.33` with `beta_on: codebook`.

The ablations: centroids that are trained too (`trainable`), no projector (`projector: false`; d is then D), and
random vectors in the centroids' place. Table 6 does not say which. Those of the public code are `source: uniform`:
(K, d), uniform in +-1/K, frozen, and the codes themselves (`projector: false`) or under a linear map d -> d. Ours are
`source: random`: normal with the mean and variance of the K centroids in each of their D dimensions, so that their
scale is not what makes the difference. K vectors drawn from all features are a codebook of their own: the cluster
stage's `method: selection`.

Of the public code are also `init: reference`, a projector of N(0, 1 / d) weights (at D = 768 its standard deviation
is 17 times that of a linear layer's own start), and `normalise`, which that code does where d is CLIP's 768: latents
are divided by their length, the codes are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vqpipe.codebooks.load import PretrainedCodebook
from vqpipe.errors import MismatchError
from vqpipe.quantizers.contract import About, CodebookKind, Names, Quantizer, float_matrix, need_patches
from vqpipe.quantizers.moments import compose, moment_map
from vqpipe.quantizers.nearest import NearestCodeParams, NearestCodeQuantizer, unit


class LcParams(NearestCodeParams):
    """Frozen centroids of CLIP patch features and a trained projector (VQGAN-LC)."""

    kind: Literal["lc"]
    num_codes: int = Field(ge=1)
    """K: the first K centroids of the patches codebook are the codes."""
    distance: Literal["cosine", "euclidean"]
    """How the nearest code is found: `cosine` in the paper, `euclidean` in its reference code."""
    init: Literal["standard", "data", "reference"]
    """Projector at the start: `standard` (a linear layer's own; the paper gives none), `data`: set so that projected
    codes have the mean and covariance of the first batch's latents; or `reference`, VQGAN-LC's public code: weights
    N(0, 1 / d), d being `dim`, and a bias as in `standard`."""
    projector: bool = True
    """Whether the trained linear layer makes the codes from the centroids. False: the centroids are the codes, and
    `dim` must be theirs (the paper's table 9, row 1)."""
    trainable: bool = False
    """Train the centroids too instead of keeping them as they start (table 9, row 2)."""
    source: Literal["centroids", "random", "uniform"] = "centroids"
    """Centroids at the start: those of the codebook; `random`: drawn from a normal distribution with their mean and
    variance in each dimension; or `uniform`: vectors of `dim` dimensions, uniform in +-1/K, which need no codebook
    (table 6's random initialisation as in VQGAN-LC's public code)."""
    normalise: bool = False
    """Divide latents by their length before search and losses, and leave the codes as they are: VQGAN-LC's public code
    where `dim` is 768, that of CLIP's features."""

    @model_validator(mode="after")
    def _init_sets_the_projector(self) -> LcParams:
        if self.init != "standard" and not self.projector:
            raise ValueError(
                f"init {self.init} sets the projector, and projector is false; set init: standard"
            )
        return self

    @property
    def codebook(self) -> CodebookKind:
        """Patches, also where `source: random` takes only their number, mean and variance; none with `uniform`."""
        return "none" if self.source == "uniform" else "patches"

    @property
    def trains_codes(self) -> bool:
        """False where neither the projector nor the centroids are trained."""
        return self.projector or self.trainable

    @property
    def to_train_codes(self) -> str:
        """See `QuantizerParams.to_train_codes`."""
        return "the quantizer's projector or trainable to true"


class LargeCodebookQuantizer(NearestCodeQuantizer):
    """One group; the projector is trained, the centroids where the params say so.

    Args:
        config: the params.
        centroids: (K, D), K = `config.num_codes`; D = `config.dim` without a projector. None with `source: uniform`:
            they are drawn here, (K, `config.dim`).
    """

    kind = "lc"
    Params = LcParams
    about = About(
        title="VQGAN-LC",
        codes="frozen CLIP-patch centroids through a linear projector",
        moved_by="the projector moves all codes at once",
        papers="VQGAN-LC 2406.11837",
        example={
            "kind": "lc", "dim": 8, "num_codes": 32, "beta": 0.33, "beta_on": "codebook", "distance": "cosine",
            "init": "standard",
        },
    )  # fmt: skip
    centroids: Tensor

    def __init__(self, config: LcParams, centroids: Float[Tensor, "K D"] | None = None) -> None:
        super().__init__(
            config, ["code"], [config.num_codes], metric=config.distance, data_init=config.init == "data"
        )
        if centroids is None:
            bound = 1 / config.num_codes
            centroids = torch.empty(config.num_codes, config.dim).uniform_(-bound, bound)
        self.register_vectors("centroids", centroids, config.trainable)
        self.projector = nn.Linear(centroids.shape[1], config.dim) if config.projector else None
        if config.init == "reference" and self.projector is not None:
            nn.init.normal_(self.projector.weight, std=config.dim**-0.5)
        self.normalise = config.normalise

    @classmethod
    def from_codebook(cls, config: LcParams, codebook: PretrainedCodebook) -> Quantizer:
        """See `Quantizer.from_codebook`; the first `num_codes` centroids are taken.

        Raises:
            MismatchError: no patches codebook, or any where `source: uniform` takes none; fewer centroids than codes;
                or without a projector centroids of another dimension than the codes.
        """
        if config.source == "uniform":
            return super().from_codebook(config, codebook)
        vectors = float_matrix(need_patches(cls.kind, codebook).vectors, "centroids")
        if config.num_codes > len(vectors):
            raise MismatchError(
                "quantizer lc asks for more codes than the codebook has centroids",
                found=f"num_codes: {config.num_codes}, and {len(vectors)} centroids",
                expected=f"num_codes of at most {len(vectors)}, or a cluster stage with a larger K",
                run="dvc repro cluster",
            )
        if not config.projector and vectors.shape[1] != config.dim:
            raise MismatchError(
                "quantizer lc without a projector takes the centroids themselves as codes",
                found=f"dim: {config.dim}, and centroids of dimension {vectors.shape[1]}",
                expected=f"dim: {vectors.shape[1]}, or projector: true",
                run=f"set quantizer.dim to {vectors.shape[1]}",
            )
        vectors = vectors[: config.num_codes].clone()
        if config.source == "random":
            vectors = vectors.mean(0) + vectors.std(0, correction=0) * torch.randn_like(vectors)
        return cls(config, vectors)

    @classmethod
    def skeleton(
        cls, config: LcParams, tensors: Mapping[str, Tensor], names: Names | None
    ) -> LargeCodebookQuantizer:
        """See `Quantizer.skeleton`; the centroids' dimension is that of the tensors."""
        return cls(config, tensors["centroids"].new_zeros(config.num_codes, tensors["centroids"].shape[1]))

    def live_codes(self) -> tuple[Float[Tensor, "K d"]]:
        """The centroids, projected where there is a projector."""
        return (self.centroids if self.projector is None else self.projector(self.centroids),)

    def prepare(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """See `NearestCodeQuantizer.prepare`: of length 1 where `normalise` says so."""
        return unit(rows) if self.normalise else rows

    def set_from_data(self, rows: Float[Tensor, "1 n d"]) -> None:
        """Set the projector so that the codes have the mean and covariance of the first batch's latents, prepared."""
        assert self.projector is not None
        compose(self.projector, *moment_map(self.live_codes()[0], self.prepare(rows[0])))
