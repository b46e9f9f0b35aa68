"""DeepGEMM for blocks of 128 x 128 on Hopper: `pip install fp8load[deepgemm]`."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme
from fp8load_kernels.backends.torch_block import TorchBlock
from fp8load_kernels.blocks import (
    HOPPER,
    are_whole,
    few_tokens,
    laid_apart,
    put_together,
    quantized_groups,
    refuses_hopper,
    scales_of,
    triton_product,
)
from fp8load_kernels.shapes import as_rows, contiguous_columns, like_input

ALIGNMENT = 64

DEVICE = Device(kind="cuda", capability=HOPPER)
"""Where this backend runs."""

FEW = 8
"""Tokens up to which the Triton product takes less time."""

TORCH = range(257, 1025)
"""Numbers of tokens for which torch's product is never much slower than DeepGEMM's, which takes up to 2.6 times as long
for some sizes; measured on an H200, see docs/benchmarks."""


class DeepGemm:
    """`deep_gemm.fp8_gemm_nt`, compiled for each size when it first comes; scales written as it wants them.

    For BF16 without a bias and more than a few tokens; other calls go to the Triton product, which rounds once, and
    some hundred tokens to torch's.
    """

    name = "deepgemm"
    _torch = TorchBlock()

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """F8_E4M3 in blocks of 128 x 128, inputs dynamic in groups of 128; compute capability 9.0."""
        reason = refuses_hopper(scheme, shape_NK, device, ALIGNMENT)
        if reason:
            return No(reason)
        if find_spec("deep_gemm") is None:
            return No("needs deep_gemm, which is not installed: pip install fp8load[deepgemm]")
        return Yes(
            f"up to {FEW} tokens, and for other dtypes than BF16, the Triton product; for {TORCH.start} to "
            f"{TORCH.stop - 1} tokens torch's"
        )

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """Weight and scales as views; a copy where fused parts end within a block.

        Torch's product has scales of its own, and is left out where it would need a second copy of the weight.
        """
        whole = are_whole(weights)
        old, other = (None, None) if previous is None else (previous.weight, previous.other)
        shared = whole and isinstance(self._torch.supports(weights.scheme, weights.shape, DEVICE), Yes)
        return Prepared(
            weights=weights,
            weight=laid_apart(weights, None if whole else old),
            weight_scale=scales_of(weights, previous),
            other=self._torch.prepare(weights, other) if shared else None,
        )

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype."""
        x_MK = contiguous_columns(as_rows(x))
        num_tokens = x_MK.shape[0]
        if num_tokens == 0:
            return like_input(x.new_empty(0, prepared.weights.shape[0]), x)
        if num_tokens <= FEW and bias is None:
            return like_input(few_tokens(prepared, x_MK), x)
        if num_tokens <= FEW or x.dtype != torch.bfloat16 or bias is not None:
            return like_input(triton_product(prepared, quantized_groups(prepared, x_MK), x.dtype, bias), x)
        if num_tokens in TORCH and prepared.other is not None:
            return self._torch.apply(prepared.other, x)
        quantized = quantized_groups(prepared, x_MK, by_column=True)
        import deep_gemm

        y_MN = torch.empty(num_tokens, prepared.weight.shape[0], dtype=x.dtype, device=x.device)
        deep_gemm.fp8_gemm_nt((quantized.codes, quantized.scale), (prepared.weight, prepared.weight_scale), y_MN)
        return like_input(put_together(y_MN, prepared.weights), x)
