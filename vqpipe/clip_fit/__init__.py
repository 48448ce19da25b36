"""Fitting a small CLIP to a data set's captions."""
