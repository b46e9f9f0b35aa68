"""Clean checkpoints with one thing changed, and what `verify` says of each."""
