"""The two codebooks, for reading: words with their graph, or patch centroids. `text` and `vision` build them."""
