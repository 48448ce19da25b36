"""Codebook priors as they are read: words with their graph, or patch centroids. `text` and `vision` build them."""
