"""The training loop: optimisers, schedule, averaged weights, checkpoints and curves, for any objective."""
