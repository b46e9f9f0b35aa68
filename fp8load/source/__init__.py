"""Where checkpoints come from: a folder, a file, the Hub, memory. `base` is the contract."""
