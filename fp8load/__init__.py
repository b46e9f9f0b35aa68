"""Open, inspect, verify, plan and load quantized checkpoints."""
