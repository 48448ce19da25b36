"""LG-VQ: three losses that align the codes of any quantizer with the image's caption."""
