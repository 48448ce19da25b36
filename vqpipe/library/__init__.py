"""Tokenizers and priors outside the pipeline: on the Hub, as ONNX, over folders of images, from other checkpoints."""
