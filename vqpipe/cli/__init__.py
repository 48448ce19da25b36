"""The `vqpipe` console tools: thin commands over the library."""
