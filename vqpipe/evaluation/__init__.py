"""One protocol for tokenizers: losses of reconstructions, floors and a reference to compare with, health of codes."""
