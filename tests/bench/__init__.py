"""Speed and size, measured and printed; nothing here is asserted. `make bench`."""
