"""The tokenizer: trunk plus quantizer, its training with or without captions, and images as indices."""
