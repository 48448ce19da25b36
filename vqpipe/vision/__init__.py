"""CLIP loading, patch features, and k-means over them."""
