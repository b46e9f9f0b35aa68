"""Writing checkpoints: what changes as a list of actions, and a writer that never touches what it reads."""
