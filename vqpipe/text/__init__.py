"""From captions to words: parts of speech, which adjective modifies which noun, vocabulary and graph."""
