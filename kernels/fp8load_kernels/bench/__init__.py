"""Measuring products: random operands of any scheme, the float64 truth, clocks, the machine's limits, and peers."""
