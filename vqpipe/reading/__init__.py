"""What frozen codes say of captions: heads trained on them, masked words, retrieval, relations."""
