"""Moved."""
# shim: moved
from vqpipe.priors import AnyPrior as PriorParams  # noqa: F401
from vqpipe.priors.gpt import GPTParams, TransformerParams  # noqa: F401
from vqpipe.priors.sampling import TokenSampling as SamplingParams  # noqa: F401
