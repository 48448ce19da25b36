"""vqpipe: vector-quantised image modelling with codebook priors, as a pipeline of staged tools."""

__version__ = "0.1.0"
