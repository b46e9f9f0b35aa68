"""What engines do with checkpoints: facts in `data/`, a file for each engine and version, and how they are asked."""
