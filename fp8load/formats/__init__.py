"""How quantized checkpoints are written: one file for each format, all lowered to one vocabulary."""
