"""`torch._scaled_mm`: one scale for each operand, or one for each row of either."""

from __future__ import annotations

import torch

from fp8load.dtypes import DType
from fp8load.runtime.backend import Device, LinearWeights, No, Prepared, Verdict, Yes
from fp8load.scheme import LinearScheme, PerChannel, PerTensor, PerToken, QuantSpec
from fp8load_kernels.derive import channel_scale, largest_input_scale
from fp8load_kernels.few import FEW_ROWS, few_by_rows, quantized_rows
from fp8load_kernels.padding import pad_columns, padded_weight
from fp8load_kernels.quantizable import refuses_bound
from fp8load_kernels.quantize import CAPABILITY, converts_to_e4m3
from fp8load_kernels.shapes import as_rows, contiguous_columns, has_triton, like_input

CUDA_ALIGNMENT = 16


class TorchScaledMM:
    """The product of FP8 codes with float32 accumulation, times the scales.

    A fused layer runs with a scale for each row, so parts whose per-tensor scales differ stay exact. Weights are used
    where they lie: [N, K] row by row is what the kernel wants as its second operand, transposed. Only where CUDA needs
    multiples of 16 and N or K is none, they are copied into a padded buffer. BF16 is summed within the tensor cores, as
    engines do (`use_fast_accum`): up to a tenth faster, and 0.5 % of error at K = 28,672 where float32 has 0.2. Not by
    row with a bias, where cuBLAS 13.0 refuses it for long rows and fewer than 2^17 results.
    """

    name = "torch_scaled_mm"

    def supports(self, scheme: LinearScheme, shape_NK: tuple[int, int], device: Device) -> Verdict:
        """FP8 E4M3: weights per tensor or channel, inputs per tensor or token; on CUDA from compute capability 8.9."""
        if scheme.input is None:
            return No("quantizes the input, and the scheme is weight-only")
        for operand, spec in (("weights", scheme.weight), ("inputs", scheme.input)):
            reason = _refuses(operand, spec)
            if reason:
                return No(reason)
        if scheme.second_level or scheme.input_global or scheme.transforms or scheme.storage.transposed:
            return No("takes plain [N, K] weights, and one level of scales for either operand")
        if refuses_bound(scheme):
            return No(refuses_bound(scheme))
        if min(shape_NK) < 1:
            return No(f"needs N and K of at least 1, not {list(shape_NK)}")
        return Yes() if device.kind == "cpu" else _supports_cuda(device)

    def prepare(self, weights: LinearWeights, previous: Prepared | None = None) -> Prepared:
        """The weight as a transposed view, and its scale as [1] for one part, [1, N] for several or per channel."""
        weight = weights.weight
        if weight.is_cuda:
            weight = padded_weight(weight, CUDA_ALIGNMENT, None if previous is None else previous.weight.t())
        old_scale = None if previous is None else previous.weight_scale
        old_input = None if previous is None else previous.input_scale
        return Prepared(
            weights=weights,
            weight=weight.t(),
            weight_scale=channel_scale(weights, old_scale) if _by_row(weights) else weights.weight_scale,
            input_scale=largest_input_scale(weights, old_input),
        )

    def apply(self, prepared: Prepared, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., K] -> [..., N] in x's dtype; scaled, summed and biased in float32, rounded once."""
        x_MK, s_w = as_rows(x), prepared.weight_scale
        num_tokens, num_rows = x_MK.shape[0], prepared.weights.shape[0]
        if num_tokens == 0 or s_w is None:
            return like_input(x.new_empty(num_tokens, num_rows), x)
        if num_tokens <= FEW_ROWS and x.is_cuda and converts_to_e4m3(x.device):
            return like_input(few_by_rows(prepared, contiguous_columns(x_MK), bias), x)
        quantized = quantized_rows(prepared, x_MK)
        by_row, codes = _by_row(prepared.weights), pad_columns(quantized.codes, prepared.weight.shape[0])
        padded = prepared.weight.shape[1] > num_rows
        s_x = quantized.scale.expand(num_tokens, 1).contiguous() if by_row else quantized.scale
        if x.is_cuda and not padded and _rounds_itself(x.dtype, bias, by_row=by_row):
            # With a bias, cuBLAS has no fast sum by row of few and long products: CUBLAS_STATUS_NOT_SUPPORTED.
            fast = bias is None or not by_row
            y_MN = torch._scaled_mm(codes, prepared.weight, s_x, s_w, bias=bias, out_dtype=x.dtype, use_fast_accum=fast)
            return like_input(y_MN, x)
        y_MN = _float32_product(codes, prepared.weight, (s_x, s_w), num_rows, by_row=by_row)
        if bias is not None:
            y_MN += bias.float()
        return like_input(y_MN.to(x.dtype), x)


def _rounds_itself(dtype: torch.dtype, bias: torch.Tensor | None, *, by_row: bool) -> bool:
    """Whether the CUDA kernel scales, adds the bias and rounds in one go; to F16 with one scale for each operand."""
    if bias is not None and bias.dtype != dtype:
        return False
    return dtype == torch.bfloat16 or (dtype == torch.float16 and not by_row)


def _float32_product(
    x_MK: torch.Tensor, w_KN: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor], num_rows: int, *, by_row: bool
) -> torch.Tensor:
    """Codes times codes times scales, float32 [M, num_rows]: columns of padding are cut off.

    Rows are scaled afterwards: the kernel does it for BF16 output on CUDA only, and on the CPU not before torch 2.13
    (2.11 has per-tensor scales alone).
    """
    if not by_row:
        return torch._scaled_mm(x_MK, w_KN, *scales, out_dtype=torch.float32)[:, :num_rows]
    one = torch.ones((), dtype=torch.float32, device=x_MK.device)  # not the default dtype, which may be BF16
    y_MN = torch._scaled_mm(x_MK, w_KN, one, one, out_dtype=torch.float32)[:, :num_rows]
    return y_MN.mul_(scales[0]).mul_(scales[1])


def _refuses(operand: str, spec: QuantSpec) -> str:
    if spec.dtype is not DType.F8_E4M3:
        return f"takes {operand} of F8_E4M3, not {spec.dtype}"
    if not isinstance(spec.granularity, PerTensor | PerChannel | PerToken):
        return f"takes {operand} scaled per tensor or per row, not per {spec.granularity}"
    return ""


def _supports_cuda(device: Device) -> Verdict:
    if device.kind != "cuda":
        return No(f"runs on CPU and CUDA, not on {device}")
    if device.capability is None or device.capability < CAPABILITY:
        return No(f"needs compute capability 8.9, and this is {device}")
    return Yes(f"up to {FEW_ROWS} tokens the Triton product") if has_triton() else Yes()


def _by_row(weights: LinearWeights) -> bool:
    """Whether rows have scales of their own: everything but one part per tensor with an input per tensor."""
    scheme = weights.scheme
    plain = scheme.input is not None and scheme.input.granularity == PerTensor()
    return len(weights.parts) > 1 or scheme.weight.granularity != PerTensor() or not plain
