"""What each stage publishes, one file per room; `vqpipe.artifacts.remedies` lists them all."""
