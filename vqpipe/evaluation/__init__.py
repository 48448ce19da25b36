"""One protocol for tokenizers: what reconstructions lose, floors and a ceiling to compare with, the health of codes."""
