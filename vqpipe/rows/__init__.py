"""One row of a scoreboard: a tokenizer trained, measured and read in one go."""
