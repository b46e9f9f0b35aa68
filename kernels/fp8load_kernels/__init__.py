"""Kernels: quantize activations, choose a backend, run scaled matrix products."""
