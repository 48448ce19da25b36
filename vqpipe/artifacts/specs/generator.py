"""Moved."""
# shim: moved
from vqpipe.artifacts.specs.prior import NEAREST, PRIOR, PRIOR_WEIGHTS, SAMPLES  # noqa: F401

GENERATOR = PRIOR
