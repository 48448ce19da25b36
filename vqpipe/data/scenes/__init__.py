"""The pictures of the source `scenes`: their grammar, layout, text and drawing. The source is `adapters.scenes`."""
