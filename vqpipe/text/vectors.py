"""Word vectors: each word in its prompt, through a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vqpipe.errors import MismatchError
from vqpipe.runtime.progress import track

Encode = Callable[[Sequence[str]], Tensor]
"""n texts to a float tensor of shape (n, d)."""

BATCH = 256


def prompt_vectors(words: Sequence[str], prompt: str, encode: Encode) -> Float[Tensor, "n d"]:
    """The encoder's vectors of `prompt.format(word)`, as it gives them (not normalised), float32 on the CPU.

    VQCT (section 4.1): CLIP's text encoder, "a photo of {} object" for adjectives and "a photo of {}"
    for nouns.

    Raises:
        MismatchError: the encoder gives vectors that are not finite.
    """
    texts = [prompt.format(word) for word in words]
    parts = []
    with torch.no_grad():
        for start in track(range(0, len(texts), BATCH), "word vectors"):
            parts.append(encode(texts[start : start + BATCH]).float().cpu())
    vectors = torch.cat(parts)
    bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise MismatchError(
            "the text encoder gives word vectors that are not finite",
            found=", ".join(repr(texts[row]) for row in bad[:3]),
            expected="finite numbers; is the CLIP sound?",
            run="dvc repro clip",
        )
    return vectors
