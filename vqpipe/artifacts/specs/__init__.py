"""What each stage publishes, one file per room; `vqpipe.artifacts.catalogue` lists them all."""
