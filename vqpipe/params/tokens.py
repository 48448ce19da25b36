"""Params of the `tokens` stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqpipe.params.base import Params


class TokensParams(Params):
    """How images are turned into indices. The crop is the centre one, at the tokenizer's resolution."""

    batch_size: Annotated[int, Field(ge=1, le=4096)]
    """Images encoded at once on each rank."""
