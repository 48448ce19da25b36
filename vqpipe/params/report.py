"""Params of the `report` stage: how much of everything is shown."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqpipe.params.base import Params

Count = Annotated[int, Field(ge=0)]


class ReportParams(Params):
    """The `report` section."""

    title: Annotated[str, Field(min_length=1, max_length=120)]
    """Heading of the page."""
    max_picture_pixels: Annotated[int, Field(ge=16, le=1024)]
    """Longer side of a picture on the page, in pixels; larger ones are shrunk by area average."""
    num_dataset_images: Count
    """Pictures shown of the training split, spread evenly over it."""
    num_reconstructions: Count
    """Reconstructions shown of each kind (random, hard, typical, easy, worst)."""
    num_pairs: Count
    """Rows of the table of adjective-noun pairs, the most frequent ones."""
    num_edges: Annotated[int, Field(ge=0, le=120)]
    """Edges in the drawing of the modifying graph, the strongest ones."""
    num_code_words: Count
    """Codes shown with their patches for each group of a tokenizer, the most used ones."""
    num_samples: Count
    """Samples shown of each prior, and pairs of a sample and its nearest training image."""
    num_read_examples: Count
    """Test images shown of each kind of what the codes say: masked words, retrieval, cosines of words and codes."""
    error_levels: Annotated[float, Field(gt=0, le=255)]
    """Mean absolute error, in grey levels, from which the heat map shows its last colour."""
