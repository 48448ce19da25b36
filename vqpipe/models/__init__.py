"""Networks: the VQGAN trunk, the patch discriminator, the graph convolution, the transformer."""
