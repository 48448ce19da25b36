"""The tokenizer: trunk plus quantizer, its training, its measurement, and images as indices."""
