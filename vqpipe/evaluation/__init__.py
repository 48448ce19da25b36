"""What a tokenizer, or any other coder of images, loses: one protocol, floors, a ceiling, the health of its codes."""
