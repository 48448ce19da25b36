"""What a run amounts to: one page, one metrics file, and gates on the deltas between two of them."""
