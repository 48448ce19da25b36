"""One training loop over a small protocol: optimisers, schedule, averaged weights, checkpoints, curves."""
