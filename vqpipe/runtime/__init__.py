"""Where and how things run: environment, device, seeds, ranks, shard maps, progress, scratch folders."""
