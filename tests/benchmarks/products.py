"""Block FP8 layers on a GPU, bf16 in and out, quantization included: our backends and the peers', in one run.

python tests/benchmarks/products.py OUT.json. Medians of do_bench (L2 flushed), microseconds. Peers: torch's block
product and DeepGEMM (sgl-deep-gemm==0.1.5), each behind vLLM's quantization where VLLM_C names its library, else
behind ours; and bf16. `limit` is the larger of bytes over the copy's bandwidth and operations over 1979 TFLOP/s.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from triton.testing import do_bench

from fp8load.dtypes import DType
from fp8load.runtime.backend import LinearWeights, Part, Yes, device_of
from fp8load.scheme import LinearScheme, PerBlock, PerGroup, QuantSpec
from fp8load_kernels.backends.deepgemm import DeepGemm
from fp8load_kernels.backends.torch_block import TorchBlock
from fp8load_kernels.backends.triton_block import TritonBlock
from fp8load_kernels.gpu.quantize import quantize_groups

SHAPES = {
    "l8b.qkv": (6144, 4096), "l8b.gate_up": (28672, 4096), "l8b.down": (4096, 14336), "l70b.qkv": (10240, 8192),
    "l70b.down": (8192, 28672), "ds3.q_b": (24576, 1536), "ds3.o": (7168, 16384), "ds3.sh_gate_up": (4096, 7168),
}  # fmt: skip
TOKENS = (1, 16, 64, 512, 4096, 8192)
BF16 = torch.bfloat16
SCHEME = LinearScheme(
    weight=QuantSpec(dtype=DType.F8_E4M3, granularity=PerBlock(128, 128), scale_dtype=DType.F32),
    input=QuantSpec(dtype=DType.F8_E4M3, granularity=PerGroup(128)),
)
Run = Callable[[], Any]


def us(run: Run) -> float:
    return float(do_bench(run, warmup=10, rep=40, return_mode="median")) * 1e3


def quantizers(x: torch.Tensor) -> tuple[Callable[[], tuple[torch.Tensor, torch.Tensor]], str]:
    """The peers' way of quantizing 1 x 128, and its name."""
    if not os.environ.get("VLLM_C"):
        return lambda: _ours(x), "our quantization"
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device="cuda")
    scale = torch.empty(x.shape[0], x.shape[1] // 128, device="cuda")

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        torch.ops._C.per_token_group_fp8_quant(x, codes, scale, 128, 1e-10, -448.0, 448.0, False, False, False)
        return codes, scale

    return run, "vLLM's quantization"


def _ours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    quantized = quantize_groups(x, DType.F8_E4M3)
    return quantized.codes, quantized.scale


def runs(x: torch.Tensor, w: torch.Tensor, scale: torch.Tensor, plain: torch.Tensor) -> dict[str, Run]:
    """Every pipeline from bf16 to bf16."""
    quantize, _ = quantizers(x)
    y = torch.empty(len(x), len(w), dtype=BF16, device="cuda")

    found: dict[str, Run] = {"bf16": lambda: F.linear(x, plain)}
    weights = LinearWeights(
        scheme=SCHEME, shape=(len(w), w.shape[1]), parts=(Part("0", slice(0, len(w)), slice(0, len(scale))),), weight=w,
        weight_scale=scale,
    )  # fmt: skip
    device = device_of(w.device)
    for backend in (TritonBlock(), TorchBlock(), DeepGemm()):
        if backend.supports(SCHEME, weights.shape, device) == Yes():
            found[backend.name] = partial(backend.apply, backend.prepare(weights), x)
    kinds = getattr(F, "ScalingType", None)
    if kinds is not None and len(x) % 4 == 0:
        groups = scale.shape[1]
        padded = torch.zeros(len(scale), -(-groups // 4) * 4, device="cuda")
        padded[:, :groups] = scale
        grid = padded[:, :groups].t()

        def torch_block() -> torch.Tensor:
            codes, x_scale = quantize()
            column = x_scale.t().contiguous().t()
            blocks = kinds.BlockWise1x128, kinds.BlockWise128x128
            return F.scaled_mm(codes, w.t(), column, blocks[0], grid, blocks[1], output_dtype=BF16)

        found["peer torch"] = torch_block
    if find_spec("deep_gemm") is None:
        return found
    import deep_gemm

    def deep() -> torch.Tensor:
        codes, x_scale = quantize()
        deep_gemm.fp8_gemm_nt((codes, deep_gemm.get_mn_major_tma_aligned_tensor(x_scale)), (w, scale), y)
        return y

    found["peer DeepGEMM"] = deep
    return found


def main(out: Path) -> None:
    if os.environ.get("VLLM_C"):
        torch.ops.load_library(os.environ["VLLM_C"])
    big = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    rate = 2 * big.numel() / us(big.clone)
    rows = []
    for name, (num_rows, num_cols) in SHAPES.items():
        plain = torch.randn(num_rows, num_cols, device="cuda", dtype=BF16) * 0.02
        blocks = plain.float().view(num_rows // 128, 128, num_cols // 128, 128)
        scale = blocks.abs().amax((1, 3)) / 448
        w = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn).view(num_rows, num_cols)
        for num_tokens in TOKENS:
            x = torch.randn(num_tokens, num_cols, device="cuda", dtype=BF16)
            x[:, ::97] *= 8
            found = runs(x, w, scale, plain)
            reference = x.double() @ plain.double().T if num_tokens * num_rows <= 1 << 25 else None
            row: dict[str, Any] = {"shape": name, "M": num_tokens, "N": num_rows, "K": num_cols, "us": {}, "error": {}}
            nbytes = num_rows * num_cols + 2 * num_tokens * (num_rows + num_cols)
            row["limit"] = max(nbytes / rate, 2 * num_tokens * num_rows * num_cols / 1979e6)
            for key, run in found.items():
                y = run()
                if reference is not None:
                    row["error"][key] = ((y.double() - reference).norm() / reference.norm()).item()
                row["us"][key] = us(run)
            rows.append(row)
            cells = "  ".join(f"{key} {time:.1f}" for key, time in row["us"].items())
            print(
                f"{name:<15} {num_tokens:>5} limit {row['limit']:.1f}  {cells}  error {row['error'].get('ours', 0):.4f}"
            )
    versions = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "quantization": quantizers(x)[1]}
    out.write_text(json.dumps({**versions, "rows": rows}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
