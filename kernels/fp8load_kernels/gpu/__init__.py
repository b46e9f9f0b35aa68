"""Kernels for GPUs, in Triton; imported only where one runs."""
