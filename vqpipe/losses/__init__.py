"""Training losses of the tokenizer."""
