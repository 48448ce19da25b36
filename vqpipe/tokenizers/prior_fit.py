"""Whether a codebook prior and a tokenizer's losses come of the same CLIP.

The rule. A prior that was made by another CLIP than the run's is refused where the losses use the run's CLIP: what
they pull towards is then another space than that of the codes. Where no loss uses a CLIP, or the params say
`foreign_prior: true` (VQGAN-LC, table 8: a codebook of one data set under another), it is accepted, and the metrics
name both. A prior of no CLIP (GloVe, random vectors) fits any. Kinds, sizes and dimensions are the quantizers' own to
check.
"""

from __future__ import annotations

from typing import Any

from vqpipe.codebooks.load import Prior
from vqpipe.codebooks.words import Words
from vqpipe.errors import MismatchError
from vqpipe.params.tokenizer import TokenizerParams
from vqpipe.vision.clip import Clip


def check_prior(config: TokenizerParams, prior: Prior, clip: Clip | None) -> dict[str, Any]:
    """What the metrics say of a prior that another CLIP made: `prior: {clip, run_clip}`, ids; else nothing.

    Args:
        prior: the prior, or None.
        clip: the run's CLIP, or None.

    Raises:
        MismatchError: the losses use the run's CLIP, another made the prior, and the params do not accept that.
    """
    made_by = clip_of(prior)
    if clip is None or made_by is None or made_by == clip.id:
        return {}
    if uses_clip(config) and not config.foreign_prior:
        raise MismatchError(
            "the codebook prior was made by another CLIP than that in the losses",
            found=f"a prior of {made_by}, and losses of {clip.id}",
            expected=f"a prior of {clip.id}, the option --clip with the CLIP of the prior, or foreign_prior: true in "
            "the variant's params",
            run="dvc repro graph" if isinstance(prior, Words) else "dvc repro patches cluster",
        )
    return {"prior": {"clip": made_by, "run_clip": clip.id}}


def clip_of(prior: Prior) -> str | None:
    """The id of the CLIP that made a prior; None where none did, or where the prior was made in memory."""
    if prior is None:
        return None
    found = prior.facts.get("clip" if isinstance(prior, Words) else "clip_id")
    return None if found is None else str(found)


def uses_clip(config: TokenizerParams) -> bool:
    """Whether a loss of the training is taken in the run's CLIP."""
    losses = config.losses
    return config.align is not None or (losses.perceptual.kind == "clip" and losses.perceptual_weight > 0)
