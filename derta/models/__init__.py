"""A language model and its tokenizer: from a directory, hub id, adapter or endpoint; conversations to tokens."""
